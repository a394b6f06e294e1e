"""Ten times as many clients as the service takes, for a minute, over a model of 100 ms: it refuses, fast, and lives.

`python -m benchmarks.serve_overload`: the application as `rushes serve run` composes it, with an engine that sleeps in
place of a model. Closed loops in a second process; a client that is refused waits as long as `Retry-After` says.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Load, run_load
from benchmarks.process_tree import adopt_orphans, processes, pss_bytes
from benchmarks.report import at_most, exactly, write_result
from benchmarks.serve import ROOT, free_port, serving
from cluster.watcher import Watcher

IN_FLIGHT, TIMES_OVER, MODEL_S, SECONDS = 16, 10, 0.1, 60.0
REFUSED_P95_MS, MEMORY_GROWTH = 50.0, 1.1
LOOK_S = 2.0


class SleepingEngine:
    """Takes 100 ms for whatever it is given."""

    role: Any = "text"

    def cards(self) -> Sequence[Any]:
        from serve.models import ModelCard

        return [ModelCard("sleeper", "text", "none", "path:/none", 8, 256)]

    def load(self) -> None:
        pass

    async def run(self, items: Sequence[Any]) -> Any:
        import asyncio

        import numpy as np

        from serve.engines.base import Answers

        await asyncio.sleep(MODEL_S)
        return Answers(np.ones((len(items), 8), np.float32), [1] * len(items))

    async def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def sleeping(role: Any, settings: Any) -> SleepingEngine | None:
    """The engine of the only role that is on offer."""
    return SleepingEngine() if role == "text" else None


def serve_sleeper(port: int) -> None:
    """A Ray of this process alone, with the service on it, until it is told to end."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from ray import serve as ray_serve

    from cluster.db.connect import find_database
    from cluster.db.migrate import migrate
    from cluster.settings import load_settings
    from serve.app import compose

    settings = load_settings(None, serve={"in_flight": IN_FLIGHT, "models": ["text"], "port": port})
    database = find_database(settings)
    with database.connect() as conn:
        migrate(conn)
    os.environ["RUSHES_DATABASE_URL"] = database.url
    with tempfile.TemporaryDirectory(prefix="rushes-", ignore_cleanup_errors=True) as folder:
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = load_settings(None, serve=settings.serve.model_dump(), database_url=database.url)
        ray_serve.run(compose(settings, sleeping), name="rushes")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            ray_serve.shutdown()
            ray.shutdown()


class Memory(Watcher):
    """The proportional set size of the replicas and proxies while the block runs, in bytes."""

    every_s = LOOK_S

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []

    def look(self) -> bool:
        """See the class."""
        self.looks.append(sum(pss_bytes(one.pid) for one in processes() if _serves(one.pid)))
        return True


def _serves(pid: int) -> bool:
    try:
        return (
            b"Serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
            or b"Proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


def overload(root: Path, haproxy: bool) -> dict[str, Any]:
    """One minute of it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {"RUSHES_DATA_DIR": str(root), "RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)), "PYTHONPATH": str(ROOT)}
    env["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0.1"
    command = [sys.executable, "-m", "benchmarks.serve_overload", "--serve", str(port)]
    body = json.dumps({"model": "text", "input": "one text"})
    with serving(command, f"{url}/health/ready", env, root / f"overload-{haproxy}.log"), Memory() as memory:
        load = Load(f"{url}/v1/embeddings", [body], IN_FLIGHT * TIMES_OVER, SECONDS, warm_up_s=5.0, backs_off=True)
        told = run_load(load)
        began = time.perf_counter()
        after = run_load(Load(f"{url}/v1/embeddings", [body], 1, 2.0, warm_up_s=0.5))
    early, late = memory.looks[5], memory.looks[int((SECONDS + 5) / LOOK_S) - 1]
    return {
        **told,
        "hangs": told["statuses"].get("hang", 0),
        "memory_after_10_s_bytes": early,
        "memory_at_the_end_bytes": late,
        "memory_growth": round(late / early, 3),
        "one_client_after_it": after,
        "seconds_after_it": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Both proxies, one after the other."""
    if sys.argv[1:2] == ["--serve"]:
        serve_sleeper(int(sys.argv[2]))
        return
    adopt_orphans(True)
    found = {}
    for name, haproxy in (("haproxy", True), ("default_proxy", False)):
        with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
            Path(folder).chmod(0o755)
            found[name] = overload(Path(folder), haproxy)
    production = found["haproxy"]
    write_result(
        "serve_overload",
        {
            "in_flight": IN_FLIGHT,
            "clients": IN_FLIGHT * TIMES_OVER,
            "model_ms": MODEL_S * 1000,
            "seconds": SECONDS,
            **found,
            "targets": {
                "hangs": exactly(0, production["hangs"]),
                "429_p95_ms": at_most(REFUSED_P95_MS, production["ms"].get("429", {}).get("p95", 0.0)),
                "memory_growth": at_most(MEMORY_GROWTH, production["memory_growth"]),
            },
        },
    )


if __name__ == "__main__":
    main()
