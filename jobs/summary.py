"""How a run ended, in numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.lanes import PARENT
from cluster.plan import Plan, Work
from cluster.speakers.counts import Counts


@dataclass(frozen=True, slots=True)
class SourceChanges:
    """Sources that lead elsewhere than before: found at another place, gone, back again."""

    moved: int = 0
    gone: int = 0
    back: int = 0

    def describe(self) -> str:
        """The changes in words; empty for none."""
        words = ((self.moved, "moved"), (self.gone, "gone"), (self.back, "back again"))
        return ", ".join(f"{count} {word}" for count, word in words if count)


@dataclass(slots=True)
class Summary:
    """How a run ended; `exit_code` follows the house rules (0, 1, 3, 130)."""

    run_id: str | None = None
    state: str = "nothing"
    planned: int = 0
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0
    known: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    ignored: int = 0
    new_files: int = 0
    sources: SourceChanges = SourceChanges()
    vanished: int = 0
    media_h: float = 0.0
    wall_s: float = 0.0
    start_up_s: float = 0.0
    predicted_hours_per_hour: float = 0.0
    predicted: dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    runner: str = ""
    lanes: tuple[str, ...] = ()
    outputs: dict[str, int] = field(default_factory=dict)
    speakers: Counts = field(default_factory=Counts)
    recognised: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    retried: int = 0
    halvings: int = 0
    parts: dict[int, frozenset[str]] = field(default_factory=dict)
    outcomes: dict[int, dict[str, str]] = field(default_factory=dict)
    counted: dict[int, str] = field(default_factory=dict)
    lost: dict[tuple[int, str], str] = field(default_factory=dict)
    stage_media_h: dict[str, float] = field(default_factory=dict)
    elsewhere: dict[int, str] = field(default_factory=dict)

    def expect(self, plan: Plan, work: Work) -> None:
        """Note what the plan of the first pass says, to stand beside what comes of it."""
        self.runner, self.predicted_hours_per_hour = plan.runner, plan.hours_per_hour
        self.predicted = {
            "hours_per_hour": round(plan.hours_per_hour, 3),
            "start_up_s": round(plan.load_s, 3),
            "wall_s": round(work.media_s / max(plan.hours_per_hour, 1e-9), 3),
            "stage_s_per_media_hour": dict(plan.stage_s),
            "estimated": list(plan.estimated),
            "bottleneck": plan.bottleneck,
        }

    def measured(self) -> dict[str, Any]:
        """What came of it, in the same terms."""
        per_hour = {name: self.stage_s[name] / hours for name, hours in self.stage_media_h.items() if hours}
        return {
            "hours_per_hour": round(self.hours_per_hour, 3),
            "start_up_s": round(self.start_up_s, 3),
            "wall_s": round(self.wall_s, 3),
            "stage_s_per_media_hour": {name: round(seconds, 3) for name, seconds in per_hour.items()},
        }

    def count(self, row: Mapping[str, Any]) -> None:
        """Count an asset by what became of its rows in the end; a lane that failed for good outweighs the others.

        `parts` says which rows it has: it counts once all of them are settled, or one failed.
        """
        asset_id, outcome = row["asset_id"], row["outcome"]
        for timing in row.get("timings") or ():
            hours = self.stage_media_h.get(timing["stage"], 0.0)
            self.stage_media_h[timing["stage"]] = hours + (row["duration_ms"] or 0) / 3_600_000
        rows, root = self.outcomes.setdefault(asset_id, {}), row["root"]
        if outcome == "retry":
            self.retried += 1
        if outcome is None:
            # Neither result nor failure could be written: reconciliation counts it as missing.
            self.lost[asset_id, root] = f"not committed: {row['uri']}: {row['error']['message']}"
        else:
            self.lost.pop((asset_id, root), None)
        if outcome in (None, "retry") or rows.get(root) == "failed":
            return
        self.elsewhere.pop(asset_id, None)
        if asset_id in self.counted:
            self._tally(self.counted.pop(asset_id), -1, row)
        rows[root] = outcome
        whole = self._whole(asset_id)
        if whole is None:
            return
        self.counted[asset_id] = whole
        self._tally(whole, 1, row)
        if whole not in ("done", "failed"):
            self.elsewhere[asset_id] = f"left to another run: {row['uri']}"

    def _whole(self, asset_id: int) -> str | None:
        """What became of an asset; None while a row of it is under way."""
        expected = self.parts.get(asset_id, frozenset())
        found = self.outcomes[asset_id]
        if "failed" in found.values():
            return "failed"
        if expected - found.keys():
            return None
        return next((outcome for outcome in found.values() if outcome != "done"), "done")

    def _tally(self, outcome: str, step: int, row: Mapping[str, Any]) -> None:
        if outcome == "done":
            self.ok += step
            self.media_h += step * (row["duration_ms"] or 0) / 3_600_000
        elif outcome == "failed":
            self.failed += step
        else:
            self.skipped += step

    @property
    def hours_per_hour(self) -> float:
        """Media hours whose lanes all committed, per hour of wall time since the first claim."""
        return self.media_h * 3600 / self.wall_s if self.wall_s else 0.0

    @property
    def finished(self) -> int:
        """Assets with an outcome."""
        return self.ok + self.failed + self.skipped

    @property
    def exit_code(self) -> int:
        """0 done or nothing to do, 1 error, 3 finished with failures, 130 interrupted."""
        return {"interrupted": 130, "failed": 1, "partial": 3}.get(self.state, 0)


_INNER = ("parts", "outcomes", "counted", "lost", "elsewhere", "stage_media_h")


def summary_dict(summary: Summary) -> dict[str, Any]:
    """The summary as plain values, for `summary.json`, `--json` and the run's record."""
    names = [name for name in Summary.__slots__ if name not in _INNER]
    values = {name: getattr(summary, name) for name in names}
    return {
        **values,
        "lanes": list(summary.lanes),
        "sources": asdict(summary.sources),
        "speakers": asdict(summary.speakers),
        "failures": [
            {key: str(item[key]) for key in ("uri", "lane", "failure", "message")} for item in summary.failures
        ],
        "hours_per_hour": round(summary.hours_per_hour, 3),
        "measured": summary.measured() if summary.predicted else {},
        "exit_code": summary.exit_code,
    }


def final_line(summary: Summary) -> str:
    """The last line of every run: hours, wall time, rate, counts, run id."""
    run = f" · run {summary.run_id[:8]}" if summary.run_id else ""
    hours = f"{duration(summary.media_h * 3600)} in {duration(summary.wall_s)} = {summary.hours_per_hour:.1f} h/h"
    if not summary.media_h and summary.wall_s:
        hours = f"{summary.ok} asset(s) in {duration(summary.wall_s)} = {summary.ok / summary.wall_s:.1f} a second"
    return f"{hours} · {summary.ok} ok · {summary.failed} failed · {summary.skipped} skipped{run}"


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:07:09`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{rest // 60}:{rest % 60:02}"


def size(count_bytes: float | None) -> str:
    """`1.2 GB`, `31.0 MB`, `0.4 kB`; `-` when it is not known."""
    if count_bytes is None:
        return "-"
    unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count_bytes >= f or f == 1e3)
    return f"{count_bytes / factor:.1f} {unit}"


def describe(summary: Summary, *, brief: bool = False) -> list[str]:
    """The end of a run in lines; the last one always states hours, rate, counts and run."""
    if summary.state == "dry-run":
        new = f", besides {summary.new_files} new or changed file(s)" if summary.new_files else ""
        would = f"dry run: {summary.planned} assets, {summary.media_h:.2f} h would be done{new}"
        return [*_sources(summary), *summary.notes, would]
    lines = [] if brief else [*_outputs(summary), *_sources(summary), *_failures(summary), *summary.notes]
    if summary.waiting:
        lacking = {PARENT[lane] for lane in summary.lanes if lane in PARENT} - set(summary.lanes)
        way = f": add {','.join(sorted(lacking))} to --lanes" if lacking else ""
        lines.append(f"{summary.waiting} asset(s) wait for a parent lane under these settings{way}")
    return [*lines, _nothing(summary) if summary.state == "nothing" else final_line(summary)]


def _sources(summary: Summary) -> list[str]:
    changes, lines = summary.sources.describe(), []
    if changes:
        lines.append(f"known sources: {changes}")
    if summary.vanished:
        lines.append(
            f"{summary.vanished} asset(s) vanished and cannot be read: bring a source back and ingest it, "
            "or see `rushes assets list --vanished`"
        )
    return lines


def _nothing(summary: Summary) -> str:
    known = summary.known
    parts = [
        f"{known[state]} {state}" for state in ("done", "failed", "skipped", "pending", "running") if known.get(state)
    ]
    tail = "; see `rushes failures list`" if known.get("failed") else ""
    return f"nothing to do: {', '.join(parts) or 'no recordings found'}{tail}"


_WORDS = {"speech": "segments", "voices": "voices", "texts": "chunks", "frames": "frames", "images": "image vectors"}


def _outputs(summary: Summary) -> list[str]:
    if summary.state == "nothing":
        return []
    out = summary.outputs
    counts = [f"{out[lane]} {word}" for lane, word in _WORDS.items() if lane in out]
    hits = f" ({out['voice_cache_hits']} voices from the cache)" if out.get("voice_cache_hits") else ""
    ignored = f"{summary.ignored} other file(s) ignored" if summary.ignored else ""
    busy = ", ".join(f"{name} {s:.1f}" for name, s in sorted(summary.stage_s.items(), key=lambda item: -item[1])[:5])
    lines = [", ".join(counts) + hits] if counts else []
    if summary.speakers.segments:
        lines.append(summary.speakers.describe())
    if busy:
        lines.append(f"busy seconds: {busy}")
        lines.append(
            f"runner {summary.runner}, start-up {summary.start_up_s:.1f} s; predicted "
            f"{summary.predicted_hours_per_hour:.0f} h/h{_estimated(summary)}, "
            f"measured {summary.hours_per_hour:.0f} h/h"
        )
    retried = f"{summary.retried} attempt(s) failed and were tried again" if summary.retried else ""
    halved = f"the device ran out of memory {summary.halvings} time(s): batches were halved" if summary.halvings else ""
    return [*lines, *(line for line in (halved, retried, ignored) if line)]


def _estimated(summary: Summary) -> str:
    return " (estimate)" if summary.predicted.get("estimated") else ""


def _failures(summary: Summary) -> list[str]:
    return [
        f"failed: {item['uri']}: {item['failure']} in {item['stage']}: {item['message']}" for item in summary.failures
    ]
