"""Ray nodes of one machine by Ray's cluster utility: one address, processes and a raylet of its own each.

What a host of its own would bring, `tests/nodes/hosts.py` has; here a node takes two seconds to start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.nodes.cluster import RAY, ROOT, SYSTEM
from tests.nodes.hosts import NoHostsError

START_S = 60.0
STORE_BYTES = 100 * 2**20
CLOCK = Path(__file__).parent / "clock"


class Nodes:
    """A head without work of its own, and the nodes that are added; ids are Ray's own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "temp_dir": str(folder),
            "object_store_memory": STORE_BYTES,
            "_system_config": SYSTEM,
        }
        self.folder = folder
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.plain: dict[str, Any] = {}
        self.odd: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Where a driver joins."""
        return self.cluster.gcs_address

    def add(self, cpus: float = 1, gpus: float = 0, **variables: str) -> str:
        """A node with these variables in its environment; its id."""
        node = self.cluster.add_node(
            num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE_BYTES, env_vars=variables or None
        )
        self.plain[node.node_id] = node
        return node.node_id

    def add_odd(self, script: str, **variables: str) -> str:
        """A node of one CPU in a mount namespace of its own, which the shell `script` prepares before Ray starts.

        Raises `NoHostsError` where this machine lets nobody make one.
        """
        trial = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
        if trial.returncode:
            raise NoHostsError(trial.stderr.strip())
        before = self.alive()
        start = (
            f"{RAY} start --address={self.address} --num-cpus=1 --object-store-memory={STORE_BYTES}"
            " --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 --block"
        )
        with (self.folder / f"odd-{len(self.odd)}.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", f"{script} && exec {start}"],
                cwd=ROOT, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not (new := self.alive() - before):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node does not start: {Path(log.name).read_text()}")
            time.sleep(0.1)
        self.odd[min(new)] = process
        return min(new)

    def alive(self) -> set[str]:
        """The ids of all nodes, the head's too."""
        return set(self.cluster.global_state.total_resources_per_node())

    def fill(self, node_id: str, path: Path) -> None:
        """Somebody writes there until the odd node's disk is full."""
        seen = Path(f"/proc/{self.odd[node_id].pid}/root", *path.parts[1:])
        with suppress(OSError), seen.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def lose(self, node_id: str) -> None:
        """The node loses power."""
        if node_id in self.odd:
            process = self.odd.pop(node_id)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        self.cluster.remove_node(self.plain.pop(node_id), allow_graceful=False)

    def lose_all(self) -> None:
        """Only the head is left."""
        for node_id in [*self.odd, *self.plain]:
            self.lose(node_id)

    def drain(self, node_id: str, within_s: float) -> None:
        """The cloud takes the node back in so many seconds, as `ray drain-node` tells the cluster."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        accepted, why = GcsClient(self.address).drain_node(
            node_id,
            autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "taken back",
            int((time.time() + within_s) * 1000),
        )
        assert accepted, why

    def close(self) -> None:
        """All lose power."""
        self.lose_all()
        self.cluster.shutdown()


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster that goes with the block, and with the process that made it."""
    # Socket paths are limited to 107 bytes: the folder must be short.
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Nodes(Path(folder))
        try:
            yield made
        finally:
            made.close()
