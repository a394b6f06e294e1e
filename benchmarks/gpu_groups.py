"""The groups of a plan as processes that share one card, beside the same stages in one process.

What moves between groups lies in files of Arrow's, as it lies in Ray's object store on a cluster. Each arrangement
does the same rows; its clock runs from the moment every process has its models to the end of the last row.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.inline import run_inline
from benchmarks.gpu_child import SPAWN, Child, ChildError, peak_host_gib
from benchmarks.gpu_media import table_of
from benchmarks.gpu_stages import chain_of
from cluster.settings import Settings
from cluster.types import errors_of

HEAR = ("decode", "speech_activity", "transcribe")
SPEAK = ("diarize", "segments", "voices", "texts")
LOOK = ("pictures", "thumbnails", "images")
GROUPS: Mapping[str, tuple[str, ...]] = {"hear": HEAR, "speak": SPEAK, "look": LOOK, "fused": (*HEAR, *SPEAK, *LOOK)}
# How many processes of each group work at a time.
FUSED, SHARED, TWICE = {"fused": 1}, {"hear": 1, "speak": 1, "look": 1}, {"hear": 2, "speak": 2, "look": 2}
ROOT = {"hear": "speech", "speak": "heard", "look": "frames"}


@dataclass(frozen=True, slots=True)
class Setup:
    """What every process needs: settings, the roles whose weights are random, threads, a folder for tables."""

    settings: dict[str, Any]
    random: frozenset[str]
    threads: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Stock:
    """Tables that wait, by what they are: `speech` and `frames` as they come, `heard` behind the hearing group."""

    files: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, folder: Path, speech: Sequence[Any], frames: Sequence[Any]) -> Stock:
        """One file for each row."""
        folder.mkdir(parents=True, exist_ok=True)
        written = {
            root: [_write(table_of(row), folder / f"{root}-{row['asset_id']}.arrow") for row in rows]
            for root, rows in (("speech", speech), ("frames", frames))
        }
        return cls(written)


def arrange(setup: Setup, stock: Stock, counts: Mapping[str, int], till_s: float) -> dict[str, Any]:
    """Run so many processes of each group over the stock, all at once, until `till_s` at the latest.

    Wall seconds, seconds of every stage, and for each group its loading and its memory; `heard` names the tables of
    the hearing group. Raises `ChildError` when a process fails.
    """
    queues = {group: SPAWN.SimpleQueue() for group in counts}
    barrier = SPAWN.Barrier(sum(counts.values()))
    heard = queues.get("speak") if "hear" in counts else None
    (setup.folder / "heard").mkdir(parents=True, exist_ok=True)
    children = {
        group: [
            Child(work, setup, GROUPS[group], queues[group], heard if group == "hear" else None, barrier)
            for _ in range(count)
        ]
        for group, count in counts.items()
    }
    try:
        for group in counts:
            _fill(queues[group], _files(group, stock, counts), 0 if queues[group] is heard else counts[group])
        answers = {}
        for group in sorted(counts, key=lambda name: name != "hear"):
            answers[group] = [child.result(till_s) for child in children[group]]
            if group == "hear" and heard is not None:
                # A simple queue is written at once: all that was heard stands before these ends.
                _fill(heard, (), counts["speak"])
        return _summed(answers)
    finally:
        for one in (child for several in children.values() for child in several):
            one.end()


def _fill(queue: Any, files: Sequence[str], ends: int) -> None:
    for item in (*files, *[None] * ends):
        queue.put(item)


def _files(group: str, stock: Stock, counts: Mapping[str, int]) -> Sequence[str]:
    if group == "fused":
        return [*stock.files["speech"], *stock.files["frames"]]
    return [] if group == "speak" and "hear" in counts else stock.files[ROOT[group]]


def work(setup: Setup, names: Sequence[str], source: Any, sink: Any, barrier: Any) -> dict[str, Any]:
    """One process of a group: tables from `source` until None comes, their results' names to `sink`."""
    try:
        return _worked(setup, names, source, sink, barrier)
    except BaseException:
        # The others would wait for this one's models.
        barrier.abort()
        raise


def _worked(setup: Setup, names: Sequence[str], source: Any, sink: Any, barrier: Any) -> dict[str, Any]:
    settings = Settings.model_validate(setup.settings)
    stages = chain_of(settings, names, setup.random, setup.threads)
    at = {"started": time.monotonic()}
    files: list[str] = []

    def feed() -> Iterator[pa.Table]:
        at["loaded"] = time.monotonic()
        barrier.wait()
        at["began"] = time.monotonic()
        while (file := source.get()) is not None:
            files.append(file)
            yield _read(file)
        at["worked"] = time.monotonic()
        pids = [getattr(getattr(stage, "child", None), "pid", None) for stage in stages]
        figures["host_gib"] = peak_host_gib(*pids)

    figures: dict[str, Any] = {}
    spent, heard = Counter(), []
    for table in run_inline(stages, feed()):
        for row in table.select(["error", "timings"]).to_pylist():
            for error in errors_of(row["error"]):
                raise ChildError(f"{error['stage']}: {error['message']}")
            spent.update({one["stage"]: one["seconds"] for one in row["timings"] or () if one["stage"] in names})
        if names == HEAR:
            heard.append(_write(table, setup.folder / "heard" / Path(files[-1]).name))
            if sink is not None:
                sink.put(heard[-1])
    return {"at": at, "load_s": at["loaded"] - at["started"], "stage_s": dict(spent), "heard": heard, **figures}


def _summed(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    every = [one for several in answers.values() for one in several]
    stage_s = Counter()
    for one in every:
        stage_s.update(one["stage_s"])
    began, worked = (min(one["at"]["began"] for one in every), max(one["at"]["worked"] for one in every))
    return {
        "at": {"began": began, "worked": worked},
        "wall_s": worked - began,
        "stage_s": dict(stage_s),
        "groups": {
            group: {
                "processes": len(several),
                "load_s": max(one["load_s"] for one in several),
                "host_gib": max(one["host_gib"] for one in several),
            }
            for group, several in answers.items()
        },
        "heard": [file for one in every for file in one["heard"]],
    }


def _write(table: pa.Table, path: Path) -> str:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return str(path)


def _read(file: str) -> pa.Table:
    with pa.memory_map(file) as source:
        return pa.ipc.open_file(source).read_all().combine_chunks()
