"""A client in a process of its own: closed loop over kept connections, so many requests at a time.

`python -m benchmarks.load < order.json > result.json`; the order is a `Load` as JSON. Every body is made before the
clock starts, answers are read whole and their status counted; nothing of them is parsed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of one address; `items` is how many things one body holds.

    With `backs_off` a client that is told to come back later waits as long as `Retry-After` says.
    """

    url: str
    bodies: Sequence[str]
    concurrency: int
    seconds: float
    items: int = 1
    warm_up_s: float = 1.0
    backs_off: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def run_load(load: Load) -> dict[str, Any]:
    """Rates and latencies as a second process sees them."""
    order = json.dumps(asdict(load))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=order, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


class _Tally:
    """What was answered after the warm-up."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.ms: dict[str, list[float]] = {}
        self.answer_bytes = 0

    def add(self, status: str, began_s: float, size_bytes: int) -> None:
        self.statuses[status] += 1
        self.ms.setdefault(status, []).append((time.perf_counter() - began_s) * 1000)
        self.answer_bytes += size_bytes


async def _worker(session: Any, load: Load, number: int, until_s: float, tally: _Tally, count_from_s: float) -> None:
    turn = number
    while (began_s := time.perf_counter()) < until_s:
        body = load.bodies[turn % len(load.bodies)]
        turn += load.concurrency
        status, size, later_s = await _ask(session, load.url, body)
        if began_s >= count_from_s:
            tally.add(status, began_s, size)
        if load.backs_off and later_s:
            await asyncio.sleep(min(later_s, max(0.0, until_s - time.perf_counter())))


async def _ask(session: Any, url: str, body: str) -> tuple[str, int, float]:
    """Status, bytes of the answer, and the seconds to wait before the next."""
    import aiohttp

    try:
        async with session.post(url, data=body.encode()) as answer:
            return str(answer.status), len(await answer.read()), float(answer.headers.get("retry-after", 0))
    except TimeoutError:
        return "hang", 0, 0.0
    except aiohttp.ClientError as error:
        return type(error).__name__, 0, 0.0


async def _run(load: Load) -> dict[str, Any]:
    import aiohttp

    tally, now_s = _Tally(), time.perf_counter()
    count_from_s = now_s + load.warm_up_s
    until_s = count_from_s + load.seconds
    limits = {"connector": aiohttp.TCPConnector(limit=0), "timeout": aiohttp.ClientTimeout(total=WAIT_S)}
    async with aiohttp.ClientSession(headers={"content-type": "application/json", **load.headers}, **limits) as session:
        async with asyncio.TaskGroup() as workers:
            for number in range(load.concurrency):
                workers.create_task(_worker(session, load, number, until_s, tally, count_from_s))
        seconds = time.perf_counter() - count_from_s
    return _told(load, tally, seconds)


def _told(load: Load, tally: _Tally, seconds: float) -> dict[str, Any]:
    good = len(tally.ms.get("200", ()))
    return {
        "concurrency": load.concurrency,
        "items_a_request": load.items,
        "requests_per_s": round(good / seconds, 1),
        "items_per_s": round(good * load.items / seconds, 1),
        "statuses": dict(sorted(tally.statuses.items())),
        "ms": {status: _spread(sorted(found)) for status, found in sorted(tally.ms.items())},
        "answer_bytes": round(tally.answer_bytes / max(1, sum(tally.statuses.values()))),
    }


def _spread(ms: Sequence[float]) -> dict[str, float]:
    last = len(ms) - 1
    return {"p50": round(ms[last // 2], 2), "p95": round(ms[int(last * 0.95)], 2), "most": round(ms[last], 2)}


def main() -> None:
    """Take the order from standard input."""
    print(json.dumps(asyncio.run(_run(Load(**json.load(sys.stdin))))))


if __name__ == "__main__":
    main()
