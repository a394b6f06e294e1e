"""Where chaos happens: a small archive, a database server of its own, and `rushes ingest` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from PIL import Image

from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from cluster.faults import VARIABLE
from cluster.types import SAMPLE_RATE_HZ
from tests.archive import read_call
from tests.media_factory import write_video, write_wav
from tests.pg_server import OwnServer, own_server
from tests.picture_factory import scene
from tests.tiny_clip import tiny_clip

ROOT = Path(__file__).parents[1]
TEMPLATE = "template_chaos"


def build_media(folder: Path, clips: int) -> Path:
    """`clips` recordings of 6 to 10 s of the call, the last one a film; a film without sound, a broken one; pictures.

    Two of the three pictures are one at two sizes.
    """
    folder.mkdir()
    call = read_call()
    for number in range(clips):
        start_s, length_s = 4 * number % 20, 6 + 2 * number % 5
        sound = call[start_s * SAMPLE_RATE_HZ : (start_s + length_s) * SAMPLE_RATE_HZ]
        if number < clips - 1:
            write_wav(folder / f"{number}.wav", sound, SAMPLE_RATE_HZ)
        else:
            write_video(folder / "film.mp4", length_s, sound)
    write_video(folder / "mute.mp4", 2, None)
    (folder / "broken.mp4").write_bytes(b"this is not a film")
    for number, name in enumerate(("one", "two")):
        Image.fromarray(scene(number)).save(folder / f"{name}.png")
    Image.fromarray(scene(0)).resize((80, 60)).save(folder / "small.png")
    return folder


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (None: it had to be ended), its summary, the end of what it said."""

    code: int | None
    summary: dict[str, Any]
    words: str

    @property
    def nothing_to_do(self) -> bool:
        """Whether it found everything done."""
        return self.code == 0 and self.summary.get("state") == "nothing"


@dataclass(slots=True)
class Command:
    """One `rushes ingest` in a session of its own; what it says goes to files, which orphans may hold open."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait(self, patience_s: float) -> Ended:
        """Its end; a command that outlasts `patience_s` is ended with all its processes."""
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.end()
            code = None
        words = self.err.read_text("utf-8", errors="replace")[-1500:]
        try:
            summary = json.loads(self.out.read_text("utf-8"))
        except ValueError:
            summary = {}
        return Ended(code, summary, words.strip())

    def end(self) -> int:
        """Kill what is left of its session; returns how many processes that was."""
        left = session_members(self.process.pid)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return len(left)


def session_members(session: int) -> list[int]:
    """Every live process of the session, whatever its process group or parent is by now."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if is_alive(pid) and status(pid)[3] == str(session)]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    return status(pid)[0] not in "ZX"


def status(pid: int) -> list[str]:
    """State, parent, process group and session of a process, as /proc has them; state X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return ["X", "0", "0", "0"]


@dataclass(slots=True)
class World:
    """One server, one media folder, one data folder, one small image model; each run has a database of its own."""

    root: Path
    media: Path
    checkpoint: Path
    server: OwnServer
    runner: str
    names: Iterator[int] = field(default_factory=lambda: count(1))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The address of a migrated, empty database that goes away with the block."""
        name = f"chaos_{next(self.names)}"
        self.admin(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        try:
            yield self.url(name)
        finally:
            self.admin(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """The address of one database of the server."""
        return self.server.url.replace("/postgres?", f"/{name}?")

    def admin(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement beside the corpora; returns the rows it gives."""
        with psycopg.connect(self.server.url, autocommit=True) as conn:
            done = conn.execute(statement.encode(), values or None)
            return done.fetchall() if done.description else []

    def start(self, url: str, fault: str = "") -> Command:
        """`rushes ingest MEDIA` on the database, with the fault in its environment."""
        number = next(self.names)
        out, err = self.root / f"{number}.out", self.root / f"{number}.err"
        words = [sys.executable, "-m", "jobs.cli.main", "ingest", str(self.media), "--json"]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                words, cwd=ROOT, env=self._environment(url, fault), stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        return Command(process, out, err)

    def _environment(self, url: str, fault: str) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}
        return mine | {
            "RUSHES_DATABASE_URL": url,
            "RUSHES_DATA_DIR": str(self.root / "data"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "RUSHES_RUNNER": self.runner,
            "RUSHES_CPUS": "2",
            # Two speakers make several segments of each recording.
            "RUSHES_NUM_SPEAKERS": "2",
            "RUSHES_IMAGE_WEIGHTS": f"path:{self.checkpoint}",
            "RUSHES_IMAGE_ARCHITECTURE": str(self.checkpoint.parent / "tiny.json"),
            "RUSHES_RETRY_BASE_S": "0.2",
            "RUSHES_DATABASE_WAIT_S": "60",
            "HF_HUB_OFFLINE": "1",
            VARIABLE: fault,
        }

    def bring_down(self, immediate: bool) -> int:
        """The server dies: SIGKILL of the postmaster, or the abort that `pg_ctl` calls immediate. Returns its pid."""
        pid = self.server.pid
        os.kill(pid, signal.SIGQUIT if immediate else signal.SIGKILL)
        while is_alive(pid):
            time.sleep(0.01)
        return pid


@contextmanager
def make_world(runner: str, clips: int) -> Iterator[World]:
    """A world in a temporary folder, with a server of its own; both go away with the block."""
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with own_server() as server:
            world = World(root, build_media(root / "media", clips), tiny_clip(root / "clip"), server, runner)
            world.admin(f"CREATE DATABASE {TEMPLATE}")
            with open_connection(world.url(TEMPLATE)) as conn:
                migrate(conn)
            yield world
    finally:
        shutil.rmtree(root, ignore_errors=True)
