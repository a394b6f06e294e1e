"""Hosts on one machine: a network namespace, an address, processes and temporary folders of its own each.

A host can be cut off, brought back and killed. Everything goes with the process that made it, also when
that is killed: names hold its pid, and whoever makes hosts next sweeps up what is left.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SHARED_MEMORY = "400m"
# Bound over in each host: what other hosts must not see.
OWN = Path("/var/tmp/rushes-host")
READY_S = 20.0


class NoHostsError(Exception):
    """This machine lets nobody make network namespaces."""


def ip(*words: str, check: bool = True) -> str:
    """One `ip` command; `NoHostsError` with what it said."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=check)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoHostsError(f"ip {' '.join(words)}: {getattr(error, 'stderr', None) or error}".strip()) from error
    return done.stdout


@dataclass(slots=True)
class Host:
    """One host: commands started in it see its network, its processes and its folders only."""

    name: str
    address: str
    link: str
    folder: Path
    init: subprocess.Popen[bytes]
    pid: int = 0
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, words: Sequence[str], variables: dict[str, str], log: Path, cwd: Path) -> subprocess.Popen[bytes]:
        """A command in the host, in a session of its own; what it says goes to `log`, and errors to `log`.err."""
        entered = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--", *words]
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                entered, cwd=cwd, env=variables, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def cut_off(self) -> None:
        """The cable is pulled: nothing reaches it, and it reaches nothing."""
        ip("link", "set", self.link, "down")

    def plug_in(self) -> None:
        """The cable is back."""
        ip("link", "set", self.link, "up")

    def kill(self) -> None:
        """Power fails: every process of the host gets SIGKILL, as the first of its process namespace does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.init.wait()
        for process in self.started:
            process.wait()

    @property
    def alive(self) -> bool:
        """Whether anything can run in it."""
        return self.init.poll() is None


class Network:
    """A bridge with an address of ours, and the hosts on it."""

    def __init__(self, folder: Path) -> None:
        sweep()
        self.folder, self.hosts = folder, 0
        self.bridge = f"rb{os.getpid()}"
        self.prefix = _free_prefix()
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.prefix}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")

    @property
    def address(self) -> str:
        """Where hosts reach what this process serves."""
        return f"{self.prefix}.1"

    def host(self, disk: str | None = None) -> Host:
        """A new host, powered up; `disk` is the size of its own folder (`8m`) where that has to be small."""
        self.hosts += 1
        number = self.hosts
        name, link = f"rushes-{os.getpid()}-{number}", f"rv{os.getpid()}n{number}"
        address = f"{self.prefix}.{number + 1}"
        ip("netns", "add", name)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", link, "master", self.bridge, "up")
        for words in (("link", "set", "lo", "up"), ("addr", "add", f"{address}/24", "dev", "eth0"),
                      ("link", "set", "eth0", "up"), ("route", "add", "default", "via", self.address)):  # fmt: skip
            ip("-n", name, *words)
        folder = self.folder / f"h{number}"
        folder.mkdir()
        return _power_up(Host(name, address, link, folder, _first_process(name, folder, disk)))

    def close(self) -> None:
        """Take everything down that this process made."""
        _remove(os.getpid())


def _first_process(name: str, folder: Path, disk: str | None) -> subprocess.Popen[bytes]:
    """The first process of the host; with it ends every other one, and it ends with us."""
    own = f"mount -t tmpfs -o size={disk} host {OWN}" if disk else f"mount --bind {folder} {OWN}"
    script = (
        f"mount -t tmpfs -o size={SHARED_MEMORY} shm /dev/shm && {own} && mkdir -p {OWN}/ray && echo $$"
        " && exec sleep infinity"
    )
    OWN.mkdir(exist_ok=True)
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--fork",
         "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def _power_up(host: Host) -> Host:
    assert host.init.stdout is not None
    said = host.init.stdout.readline()
    if not said:
        _, error = host.init.communicate()
        raise NoHostsError(error.decode().strip())
    # Its own number is 1; ours for it is that of the only child of `unshare`.
    children = Path(f"/proc/{host.init.pid}/task/{host.init.pid}/children").read_text().split()
    host.pid = int(children[0])
    return host


def _free_prefix() -> str:
    taken = ip("-o", "addr")
    for number in range(os.getpid() % 200, os.getpid() % 200 + 200):
        prefix = f"10.213.{number % 254 + 1}"
        if f" {prefix}." not in taken:
            return prefix
    raise NoHostsError("every address in 10.213.0.0/16 is taken")


def sweep() -> None:
    """Remove what makers left behind that are gone."""
    found = re.findall(r"rushes-(\d+)-\d+", ip("netns", "list"))
    found += re.findall(r"\brb(\d+):", ip("-o", "link"))
    for pid in {int(one) for one in found}:
        if not Path(f"/proc/{pid}").exists():
            _remove(pid)


def _remove(pid: int) -> None:
    for name in re.findall(rf"^(rushes-{pid}-\d+)", ip("netns", "list"), re.MULTILINE):
        for member in ip("netns", "pids", name, check=False).split():
            with suppress(ProcessLookupError):
                os.kill(int(member), signal.SIGKILL)
        ip("netns", "del", name, check=False)
    for link in re.findall(rf"\b(rv{pid}n\d+)@", ip("-o", "link")):
        ip("link", "del", link, check=False)
    ip("link", "del", f"rb{pid}", check=False)


@contextmanager
def network() -> Iterator[Network]:
    """A network without hosts yet; it goes with the block. Raises `NoHostsError` where there can be none."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        made = Network(folder)
        stack.callback(made.close)
        yield made
