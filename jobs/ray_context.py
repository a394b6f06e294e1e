"""Every Ray and Ray Data knob this project sets, each with its reason."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from cluster.environment import MODEL_ENV
from cluster.errors import RushesError, UsageError
from cluster.plan import Node
from cluster.reach import knock, no_cluster
from jobs.guard import LOAD_DEADLINE_S, STDERR_FD
from jobs.nodes import cluster_nodes
from jobs.ray_watch import watched

# A pool that releases idle actors reloads its models for the next block (5 loads for 3 slots).
KEEP_ACTORS = {"RAY_DATA_DEFAULT_ACTOR_POOL_UTIL_DOWNSCALING_THRESHOLD": "-1"}
# Progress is ours: Ray knows blocks, users know files.
QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_session(*, address: str | None, cpus: int, niceness: int, object_store_bytes: int) -> Iterator[list[Node]]:
    """A Ray to run on and its nodes: the cluster at `address`, or a local one that ends with the block."""
    os.environ.update({**KEEP_ACTORS, **QUIET})
    # Workers run at nice 15 by default and starve beside any ordinary process.
    os.environ["RAY_worker_niceness"] = str(niceness)  # noqa: SIM112 - Ray spells it so
    import ray

    if ray.is_initialized():
        yield cluster_nodes(ray)
        return
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": MODEL_ENV},
    }
    # Socket paths are limited to 107 bytes: the folder must be short.
    with tempfile.TemporaryDirectory(prefix="rushes-", ignore_cleanup_errors=True) as folder:
        if address is not None:
            _join(address, common)
        else:
            # It listens for nobody else, and the token file in the home folder is not ours to write.
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                _temp_dir=folder,
                **common,
            )
        with watched(ray):
            try:
                yield cluster_nodes(ray)
            finally:
                ray.shutdown()


@contextmanager
def prints_to(log_path: Path) -> Iterator[None]:
    """Send what is printed to a log; what is written to `sys.stderr` goes where it went before.

    Ray prints the death of every actor, with its traceback, to standard output, where `--json` answers, and
    warnings of its compiled part to the descriptor of standard error; log_to_driver does not silence them.
    """
    with log_path.open("a", encoding="utf-8") as log, redirect_stdout(log), _errors_apart(log):
        yield


@contextmanager
def _errors_apart(log: TextIO) -> Iterator[None]:
    """Descriptor 2 leads to the log; `sys.stderr` and the handlers that write to it lead where that did."""
    python = sys.stderr
    python.flush()
    with os.fdopen(os.dup(STDERR_FD), "w", buffering=1, encoding="utf-8", errors="backslashreplace") as terminal:
        moved = _writes_to(python, STDERR_FD)
        handlers = [
            one
            for one in logging.getLogger().handlers
            if moved and isinstance(one, logging.StreamHandler) and one.stream is python
        ]
        for handler in handlers:
            handler.setStream(terminal)
        os.dup2(log.fileno(), STDERR_FD)
        try:
            with redirect_stderr(terminal if moved else python):
                yield
        finally:
            os.dup2(terminal.fileno(), STDERR_FD)
            for handler in handlers:
                handler.setStream(python)


def _writes_to(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except OSError:
        return False


def _join(address: str, common: dict[str, Any]) -> None:
    if address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is the address of a dashboard: write HEAD:6379 or ray://HEAD:10001")
    knock(address)
    import ray

    try:
        ray.init(address, **common)
    except ConnectionError as error:
        raise RushesError(no_cluster(address)) from error


def set_data_context(longest_row_s: float) -> None:
    """Make Ray Data fail loudly instead of hanging or dropping rows.

    `longest_row_s` is how long one row may take at most, all its stages together.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    # Rows come back as they finish: a long recording must not hold back those behind it.
    context.execution_options.preserve_order = False
    # One long recording alone at the tail is not a stall; its own deadlines end it long before this.
    context.execution_no_progress_timeout_s = int(no_progress_timeout_s(longest_row_s))
    # A share that cannot be placed is refused before (check_room).
    context.wait_for_min_actors_s = LOAD_DEADLINE_S
    # An actor of a running pipeline that fails to load again may have met a bad moment, a third time is no moment.
    context.max_consecutive_actor_init_deaths = 2
    # A load that fails is reported, not repeated in the same process: it would fail again.
    context.actor_init_retry_on_errors = False
    # More than 0 drops whole blocks silently.
    context.max_errored_blocks = 0
    # Exceptions of a stage are data on its row; nothing of ours is worth running again blindly.
    context.actor_task_retry_on_errors = False
    context.retried_map_errors = False
    context.max_map_retries = 0
    # Rows are never merged or split: a row is a unit of work.
    context.target_max_block_size = None
    # Progress is ours: Ray knows blocks, users know files.
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    context.print_on_execution_start = False
    # What ends a run is said in one line of ours (ray_errors); Ray's own traceback stays in its log files.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def no_progress_timeout_s(longest_row_s: float) -> float:
    """Twice what the longest row may take, because a crash repeats it; at least half an hour."""
    return max(1800.0, 2 * longest_row_s)
