"""Write one benchmark result with what is needed to repeat it: command, commit, hardware, targets.

`BENCH_RESULTS=FOLDER` sends the results of a trial elsewhere than to `benchmarks/results`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VARIABLE = "BENCH_RESULTS"
RESULTS = Path(os.environ.get(VARIABLE) or Path(__file__).parent / "results")
# Taken before the benchmark puts its own load on the machine.
LOAD_BEFORE = os.getloadavg()[0]


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` and print it; `result` holds n, figures and their baselines."""
    document = {
        "benchmark": name,
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".strip(),
        "commit": _git("rev-parse", "HEAD")
        + ("+changes" if _git("status", "--porcelain", "--", ".", ":!benchmarks/results") else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "hardware": hardware(),
        **result,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(document, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text, end="")
    return path


def at_most(limit: float, measured: float) -> dict[str, Any]:
    """A target that must not be exceeded, and whether it is met."""
    return {"target": f"<= {limit}", "measured": measured, "met": measured <= limit}


def at_least(limit: float, measured: float) -> dict[str, Any]:
    """A target that must be reached, and whether it is met."""
    return {"target": f">= {limit}", "measured": measured, "met": measured >= limit}


def exactly(wanted: Any, measured: Any) -> dict[str, Any]:
    """A target that must be hit, and whether it is met."""
    return {"target": f"= {wanted}", "measured": measured, "met": measured == wanted}


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, and the load on the machine before the benchmark began."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "load_1min_before": round(LOAD_BEFORE, 2),
        "python": platform.python_version(),
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
