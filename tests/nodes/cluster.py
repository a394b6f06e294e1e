"""A Ray cluster on hosts of a network: one raylet a host, each started as an administrator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.hosts import OWN, Host, Network

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
PATIENCE_S = 90.0
# A dead node is found in seconds; what lost its head gives up after the driver has said so (jobs/ray_watch.py).
SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
    "gcs_rpc_server_reconnect_timeout_s": 45,
}
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


def variables(**more: str) -> dict[str, str]:
    """The environment of everything in a host; nothing of ours but what is given."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("RUSHES_", "RAY_"))}
    return {**mine, **QUIET, **more}


@dataclass(slots=True)
class Cluster:
    """A head and its workers on `network`."""

    network: Network
    head: Host | None = None
    workers: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where a driver in any host joins it."""
        assert self.head is not None
        return f"{self.head.address}:{PORT}"

    def start_head(self, cpus: float = 0, **more: str) -> Host:
        """A new host with a head; no rows are worked on there unless it has CPUs."""
        self.head = self.network.host()
        words = ["--head", f"--port={PORT}", f"--num-cpus={cpus:g}", "--include-dashboard=false"]
        _await_ray(self.head, self._ray(self.head, [*words, f"--system-config={json.dumps(SYSTEM)}"], more))
        return self.head

    def start_worker(self, cpus: float = 1, gpus: float = 0, disk: str | None = None, **more: str) -> Host:
        """A new host that joins the cluster; `more` goes into its environment."""
        host, process = self._worker(cpus, gpus, disk, more)
        _await_ray(host, process)
        return host

    def start_workers(self, count: int, cpus: float = 1, **more: str) -> None:
        """Several at once."""
        begun = [self._worker(cpus, 0, None, more) for _ in range(count)]
        for host, process in begun:
            _await_ray(host, process)

    def _worker(
        self, cpus: float, gpus: float, disk: str | None, more: dict[str, str]
    ) -> tuple[Host, subprocess.Popen[bytes]]:
        host = self.network.host(disk)
        self.workers.append(host)
        words = [f"--address={self.address}", f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}"]
        return host, self._ray(host, words, more)

    def _ray(self, host: Host, words: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
        common = [f"--node-ip-address={host.address}", f"--temp-dir={OWN}/ray", "--object-store-memory=100000000"]
        return host.start([RAY, "start", *words, *common, "--block"], variables(**more), _log(host), ROOT)

    def run(self, words: list[str], host: Host, log: Path, **more: str) -> subprocess.Popen[bytes]:
        """`rushes WORDS` in a host."""
        return host.start([sys.executable, "-m", "jobs.cli.main", *words], variables(**more), log, ROOT)

    def light(self, words: list[str], host: Host, log: Path, **more: str) -> subprocess.Popen[bytes]:
        """The same with stages that hold no models."""
        return host.start([sys.executable, "-m", "tests.nodes.light", *words], variables(**more), log, ROOT)

    def kill(self) -> None:
        """Every host loses power."""
        for host in (self.head, *self.workers):
            if host is not None:
                host.kill()
        self.head, self.workers = None, []


def _log(host: Host) -> Path:
    return host.folder / "ray-start.log"


def _await_ray(host: Host, process: subprocess.Popen[bytes]) -> None:
    log, deadline = _log(host), time.monotonic() + PATIENCE_S
    while "Ray runtime started" not in log.read_text("utf-8", errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"Ray does not start on {host.name}: {log.read_text()} {log.with_suffix('.err').read_text()}"
            )
        time.sleep(0.05)
