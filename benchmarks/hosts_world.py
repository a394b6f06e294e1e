"""Where hosts are lost: a small archive, a database server, and a Ray cluster of one head and three workers.

Each is a host of its own (`tests/nodes/hosts.py`); the archive and the thumbnails lie where all of them see them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.chaos_world import Command, build_media
from cluster.types import SAMPLE_RATE_HZ
from tests.archive import read_call
from tests.media_factory import write_wav
from tests.nodes.cluster import Cluster
from tests.nodes.hosts import OWN, Host, Network, network
from tests.nodes.server import ReachableServer, reachable_server
from tests.tiny_clip import tiny_clip

WORKERS = 3
POLL_S = 0.05
LANES = {"light": "speech,voices,texts", "bundled": "speech,voices,texts,frames,images"}


@dataclass(slots=True)
class HostsWorld:
    """One network, one server, one archive; each repetition has a database and a cluster of its own."""

    network: Network
    server: ReachableServer
    media: Path
    checkpoint: Path
    models: str
    pace: float
    names: Iterator[int] = field(default_factory=lambda: count(1))

    def database(self) -> str:
        """A new database for all hosts."""
        return self.server.database(f"hosts_{next(self.names)}")

    def cluster(self, workers: int = WORKERS) -> Cluster:
        """A head without CPUs and workers of two, all started."""
        made = Cluster(self.network)
        made.start_head()
        made.start_workers(workers, 2, LIGHT_PACE=str(self.pace))
        return made

    def submit(self, cluster: Cluster, url: str, host: Host | None = None) -> Command:
        """`rushes ingest MEDIA --address HEAD`, on the head or another host."""
        out = self.network.folder / f"{next(self.names)}.log"
        words = ["ingest", str(self.media), "--json", "--address", cluster.address, "--lanes", LANES[self.models]]
        start = cluster.light if self.models == "light" else cluster.run
        place = host or cluster.head
        assert place is not None
        process = start(words, place, out, **self._settings(url))
        return Command(process, out, out.with_suffix(".err"))

    def _settings(self, url: str) -> dict[str, str]:
        image = {
            "RUSHES_IMAGE_WEIGHTS": f"path:{self.checkpoint}",
            "RUSHES_IMAGE_ARCHITECTURE": str(self.checkpoint.parent / "tiny.json"),
        }
        return {
            "RUSHES_DATABASE_URL": url,
            "RUSHES_DATA_DIR": f"{OWN}/data",
            "RUSHES_STORE": str(self.network.folder / "store"),
            "RUSHES_RETRY_BASE_S": "0.2",
            "RUSHES_NUM_SPEAKERS": "2",
            "LIGHT_PACE": str(self.pace),
            **(image if self.models == "bundled" else {}),
        }


@contextmanager
def make_hosts_world(models: str, clips: int, pace: float = 0.1) -> Iterator[HostsWorld]:
    """A world with `clips` recordings of 5 to 8 s that goes with the block.

    Raises `NoHostsError` where no network namespaces can be made.
    """
    with network() as lan, reachable_server(lan.address) as server:
        media = build_media(lan.folder / "media", 1)
        call = read_call()
        for number in range(1, clips):
            part = call[number * SAMPLE_RATE_HZ :][: (5 + number % 4) * SAMPLE_RATE_HZ]
            write_wav(media / f"{number}.wav", part, SAMPLE_RATE_HZ)
        yield HostsWorld(lan, server, media, tiny_clip(lan.folder / "clip"), models, pace)


def await_claims(url: str, claims: int, command: Command, patience_s: float) -> bool:
    """Wait until so many claims of root units were made; False when the command ends first."""
    query = "SELECT coalesce(sum(generation), 0) FROM units WHERE lane IN ('speech', 'frames')"
    deadline = time.monotonic() + patience_s
    with psycopg.connect(url, autocommit=True) as conn:
        while command.process.poll() is None and time.monotonic() < deadline:
            if value(conn, query) >= claims:
                return True
            time.sleep(POLL_S)
    return False


def value(conn: psycopg.Connection[Any], query: str) -> Any:
    """The one value that a query gives."""
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
