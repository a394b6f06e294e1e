"""Duplicates in words and as JSON."""

from __future__ import annotations

from typing import Any

from jobs.cli.common import clock, short_uri


def group_lines(number: int, group: Any) -> list[str]:
    """A group: its assets, the largest first, then its pairs."""
    head = f"group {number}: {count(len(group.members), 'asset')}, {count(len(group.pairs), 'pair')}"
    return [head, *(f"  {member_line(one)}" for one in group.members), *(f"  {line}" for line in pair_lines(group))]


def member_line(one: Any) -> str:
    """One asset: what it is, how large, how many sources."""
    size = f"{one.width} x {one.height}" if one.width else "no picture"
    length = f", {clock(one.duration_ms)}" if one.duration_ms else ""
    more = f", {len(one.sources)} sources" if len(one.sources) > 1 else ", its file is gone" if not one.sources else ""
    return f"{named(one)}  {one.media_kind}, {size}{length}, {_bytes(one.byte_size)}{more}"


def pair_lines(group: Any) -> list[str]:
    """The pairs of a group in words."""
    names = {one.asset_id: short_uri(one.name) for one in group.members}
    return [_pair_line(pair, names[pair.asset_a], names[pair.asset_b]) for pair in group.pairs]


def _pair_line(pair: Any, a: str, b: str) -> str:
    said = [f"{pair.distance:.1f} bits apart"]
    if pair.similarity is not None:
        said.append(f"cosine {pair.similarity:.2f}")
    if pair.method == "sequence":
        said.insert(0, f"{pair.coverage_a:.0%} of {a}, {pair.coverage_b:.0%} of {b}")
    if pair.decided is not None:
        said.append(f"decided: {pair.decided}")
    return f"{_likeness(pair, a, b)} ({'; '.join(said)})"


def _likeness(pair: Any, a: str, b: str) -> str:
    """How the two lie on each other, in words."""
    if pair.method == "picture" or pair.offset_ms == 0:
        return f"{a} is like {b}"
    whole, part = (a, b) if pair.offset_ms > 0 else (b, a)
    return f"{part} is {whole} from {clock(abs(pair.offset_ms))}"


def plain(group: Any) -> dict[str, Any]:
    """A group for JSON; assets are named by SHA-256."""
    from dataclasses import asdict

    shas = {one.asset_id: one.sha256 for one in group.members}
    pairs = [{**asdict(pair), "asset_a": shas[pair.asset_a], "asset_b": shas[pair.asset_b]} for pair in group.pairs]
    return {"assets": [member(one) for one in group.members], "pairs": pairs}


def member(one: Any) -> dict[str, Any]:
    """One asset for JSON."""
    from dataclasses import asdict

    return {name: value for name, value in asdict(one).items() if name != "asset_id"}


def named(one: Any) -> str:
    """SHA prefix and the end of the source."""
    return f"{one.sha256[:8]} {short_uri(one.name)}"


def _bytes(size: int) -> str:
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def count(number: int, what: str) -> str:
    """`2 pairs`, `1 pair`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def standing(entry: Any) -> str:
    """Whether an event stands, and else what took it back."""
    if entry.verdict == "undo":
        return "-"
    return "stands" if entry.undone_by is None else f"undone by {entry.undone_by}"


def event_line(event: Any) -> str:
    """One event in words."""
    return f"event {event.event} by {event.author}: {event.in_words()} ({standing(event)})"
