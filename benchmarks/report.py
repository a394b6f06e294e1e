"""Write one benchmark result with what is needed to repeat it: command, commit, hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(document, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text, end="")
    return path


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and the load that others put on the machine."""
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
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
