"""What each stage takes on this hardware: the real stages over a few files, in this process, without the corpus."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.device import cpu_name, device_used_gib, gpu_name, placement
from actors.lanes import lanes_on, stages_for, whole_chain
from cluster.db.rates import Measured
from cluster.deadline import MS_PER_HOUR
from cluster.errors import RushesError, UsageError
from cluster.hardware import kind_of
from cluster.lanes import root_of
from cluster.settings import Settings
from cluster.stage import Stage, load_stages, run_stage
from cluster.types import errors_of, rows_table, with_column
from cluster.watcher import Watcher
from jobs.demo import call_path, film_path
from jobs.stage_costs import choice_of, stage_identities

# The files are gone through again until so much time is spent, or so often; the first time warms up and is not counted.
LEAST_S, MOST_PASSES = 20.0, 10
LOOK_S = 0.02
PROBE_DEADLINE_S = 60.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Tally:
    """What one stage took so far."""

    load_s: float = 0.0
    host_gib: float = 0.0
    device_gib: float = 0.0
    # By asset, of its fastest time: others use the machine too.
    seconds: dict[int, float] = field(default_factory=dict)
    media_ms: dict[int, int] = field(default_factory=dict)


def bundled_files() -> list[str]:
    """The telephone call and the film clip that installed packages carry."""
    return [str(call_path()), str(film_path())]


def calibrate(settings: Settings, files: Sequence[str]) -> list[Measured]:
    """Every stage of these settings that the files give work, on this machine; one thread for each model on a CPU.

    Raises `UsageError` for a file that is none or holds no media of known length, `RushesError` when a stage fails.
    """
    rows = rows_of(settings, files)
    with tempfile.TemporaryDirectory() as store:
        # Thumbnails are made as ever, and not for the corpus.
        return _calibrated(settings.model_copy(update={"store": store}), rows)


def _calibrated(settings: Settings, rows: Sequence[dict[str, Any]]) -> list[Measured]:
    chain = stages_for(whole_chain(settings), {lane for row in rows for lane in row["lanes"]})
    tallies = {stage.name: _Tally() for stage in chain}
    # Torch and its context on the card count for the process, once.
    gpu_name()
    try:
        for stage in chain:
            with _Peak() as peak:
                began = time.perf_counter()
                stage.load()
                tallies[stage.name].load_s = time.perf_counter() - began
            tallies[stage.name].host_gib, tallies[stage.name].device_gib = peak.host_gib, peak.device_gib
        # They are loaded; what is left to do is to pin threads as in an actor.
        load_stages([])
        _passes(chain, rows, tallies)
        hardware = {stage.name: _hardware(settings, stage) for stage in chain}
    finally:
        for stage in chain:
            stage.close()
    return _measured(settings, tallies, hardware)


def rows_of(settings: Settings, files: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each root lane of each file, as the ledger would make them; `UsageError` for what is no media."""
    from cluster.media.child import MediaChild

    child = MediaChild(settings.decode_memory_bytes)
    try:
        return [row for number, file in enumerate(files, 1) for row in _rows(settings, number, file, child)]
    finally:
        child.close()


def _rows(settings: Settings, asset_id: int, file: str, child: Any) -> list[dict[str, Any]]:
    from cluster.errors import StageError
    from cluster.media.hashing import hash_file

    path = Path(file).absolute()
    try:
        sha256, stamp = hash_file(path)
        probe = child.probe(path, PROBE_DEADLINE_S)
    except (OSError, StageError) as error:
        raise UsageError(f"{file} cannot be measured on: {getattr(error, 'strerror', None) or error}") from error
    if not probe.duration_ms:
        raise UsageError(
            f"{file} cannot be measured on: rates go by the hour, and it has no length; give sound or video"
        )
    lanes = [lane for lane in lanes_on(settings) if _has(probe, lane)]
    shared = {
        "asset_id": asset_id, "sha256": sha256, "uri": str(path), "byte_size": stamp.byte_size,
        "mtime_ns": stamp.mtime_ns, "media_kind": probe.kind, "audio_stream": probe.audio_stream,
        "duration_ms": probe.duration_ms,
    }  # fmt: skip
    roots = dict.fromkeys(root_of(lane) for lane in lanes)
    return [{**shared, "root": root, "lanes": [lane for lane in lanes if root_of(lane) == root]} for root in roots]


def _has(probe: Any, lane: str) -> bool:
    return probe.kind == "video" if root_of(lane) == "frames" else probe.audio_stream is not None


def _passes(chain: Sequence[Stage], rows: Sequence[dict[str, Any]], tallies: dict[str, _Tally]) -> None:
    for row in rows:
        _through(chain, row, tallies, counted=False)
    began = time.perf_counter()
    for _ in range(MOST_PASSES):
        for row in rows:
            _through(chain, row, tallies, counted=True)
        if time.perf_counter() - began > LEAST_S:
            return


def _through(chain: Sequence[Stage], row: dict[str, Any], tallies: dict[str, _Tally], *, counted: bool) -> None:
    """One row through its stages; the first time nothing is `counted` but memory."""
    table = rows_table([row])
    # The claim adds it, empty for whoever makes frames anew.
    table = with_column(table, "frames", [None])
    for stage in chain:
        if not stage.lanes & set(row["lanes"]):
            continue
        with _Peak() as peak:
            began = time.perf_counter()
            table = run_stage(stage, table)
            seconds = time.perf_counter() - began
        _raise_errors(stage, table, row)
        tally, asset_id = tallies[stage.name], row["asset_id"]
        tally.host_gib, tally.device_gib = max(tally.host_gib, peak.host_gib), max(tally.device_gib, peak.device_gib)
        if counted:
            tally.seconds[asset_id] = min(seconds, tally.seconds.get(asset_id, seconds))
            tally.media_ms[asset_id] = row["duration_ms"]


def _raise_errors(stage: Stage, table: pa.Table, row: dict[str, Any]) -> None:
    for error in errors_of(table.column("error")[0].as_py()):
        raise RushesError(f"{stage.name} failed on {row['uri']}: {error['message']}")


def _hardware(settings: Settings, stage: Stage) -> str:
    """The card where the stage's model is on one, else the processor."""
    if choice_of(settings, stage.name) is None:
        return cpu_name()
    try:
        on_card = placement(stage).device == "cuda"
    except ValueError:
        on_card = False
    return (gpu_name() if on_card else None) or cpu_name()


def _measured(settings: Settings, tallies: dict[str, _Tally], hardware: dict[str, str]) -> list[Measured]:
    identities, processor = stage_identities(settings), cpu_name()
    return [
        Measured(
            hardware=hardware[name],
            stage=name,
            identity=identities[name],
            s_per_media_hour=round(sum(tally.seconds.values()) * MS_PER_HOUR / sum(tally.media_ms.values()), 4),
            load_s=round(tally.load_s, 3),
            host_gib=round(max(tally.host_gib, 0.0), 3),
            # What tells a card from a processor is that something lies on it.
            device_gib=0.0 if hardware[name] == processor else max(round(tally.device_gib, 3), 0.001),
            media_s=sum(tally.media_ms.values()) / 1000,
            assets=len(tally.media_ms),
        )
        for name, tally in tallies.items()
        if tally.media_ms
    ]


def merged(found: Sequence[Measured]) -> list[Measured]:
    """One measurement for each stage and hardware: the slowest of those that several nodes made."""
    slowest: dict[tuple[str, str], Measured] = {}
    for one in found:
        known = slowest.setdefault((one.hardware, one.stage), one)
        if one.s_per_media_hour > known.s_per_media_hour:
            slowest[one.hardware, one.stage] = one
    return list(slowest.values())


def by_hardware(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Hardware -> its measurements, in the order of the chain."""
    lists: defaultdict[str, list[Measured]] = defaultdict(list)
    for one in found:
        lists[f"{one.hardware} ({kind_of(one.hardware)})" if kind_of(one.hardware) else one.hardware].append(one)
    return dict(lists)


class _Peak(Watcher):
    """The most memory above that of its beginning that this process, its children and the card took; GiB."""

    every_s = LOOK_S

    def __init__(self) -> None:
        super().__init__()
        self._host, self._device = _resident_gib(), device_used_gib() or 0.0
        self.host_gib = self.device_gib = 0.0

    def look(self) -> bool:
        self.host_gib = max(self.host_gib, _resident_gib() - self._host)
        self.device_gib = max(self.device_gib, (device_used_gib() or 0.0) - self._device)
        return True


def _resident_gib() -> float:
    """Resident memory of this process and its children."""
    pids = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        try:
            pids += [int(pid) for pid in (task / "children").read_text("ascii").split()]
        except OSError:
            continue
    return sum(_pages(pid) for pid in pids) * PAGE_BYTES / 2**30


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
