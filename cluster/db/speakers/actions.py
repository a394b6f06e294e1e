"""What a person can decide: label, merge, split, rename, undo. Each is one transaction and calls no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.db.report import asset_names
from cluster.db.speakers import events
from cluster.db.speakers.events import Target
from cluster.db.speakers.names import (
    Speaker,
    clean_name,
    ensure_speaker,
    find_speaker,
    known_speaker,
    root_of,
    speakers_due,
    write_speakers,
)
from cluster.db.speakers.parts import follow_parts
from cluster.db.speakers.state import decide_anew, lock_assets, lock_decisions, lock_reach, pieces_of, touch_speakers
from cluster.errors import RushesError, UsageError
from cluster.speakers.decide import speaks_most


class ConflictError(RushesError):
    """Somebody else decided about the same voice since the caller looked."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Whose voice a target is: local speaker, the person it has now (None: unknown) and by which method."""

    local_speaker: int | None
    speaker: Speaker | None
    method: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was recorded; `speaker` is whom it is about, None for nobody, and `is_new` says it is new."""

    event_id: int
    speaker: Speaker | None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """Whose voices the targets were, when `last_event` was the latest decision."""

    voices: Mapping[Target, Voice]
    last_event: int


def look(conn: psycopg.Connection[Any], targets: Sequence[Target]) -> Seen:
    """Whose voices the targets are now."""
    number = events.last_event(conn)
    return Seen({target: _voice(conn, target) for target in targets}, number)


def label(
    conn: psycopg.Connection[Any],
    name: str | None,
    targets: Sequence[Target],
    author: str,
    *,
    kind: str = "label",
    seen: Seen | None = None,
) -> Decision:
    """Give the voices at these targets a name, None to say that nobody known speaks there.

    The voice's cluster takes the name as far as it is alike. `seen` is what the caller saw: raises
    `ConflictError` when somebody named one of the voices otherwise since.
    """
    with conn.transaction():
        lock_decisions(conn)
        _lock_targets(conn, targets)
        speaker, is_new = (None, False) if name is None else ensure_speaker(conn, name)
        person = None if speaker is None else root_of(conn, speaker)
        _check_seen(conn, seen, person)
        event_id = _mark(conn, kind, author, targets, speaker)
    return Decision(event_id, person, is_new)


def split(
    conn: psycopg.Connection[Any],
    name: str,
    into: str,
    targets: Sequence[Target],
    author: str,
    *,
    seen: Seen | None = None,
) -> Decision:
    """Take the voices at these targets from one person and give them to another.

    Raises `UsageError` for a voice that is not that person's, `RushesError` when all its voices would go,
    `ConflictError` as `label` does.
    """
    with conn.transaction():
        lock_decisions(conn)
        _lock_targets(conn, targets)
        person = known_speaker(conn, name)
        speaker, is_new = ensure_speaker(conn, into)
        other = root_of(conn, speaker)
        if other.speaker_id == person.speaker_id:
            raise UsageError(f"{person.name} cannot be split into {speaker.name}: give the others another name")
        _check_seen(conn, seen, other)
        for target in targets:
            voice = _voice(conn, target)
            if voice.speaker is None or voice.speaker.speaker_id != person.speaker_id:
                who = voice.speaker.name if voice.speaker else "nobody known"
                where = f"{target.start_ms / 1000:.1f} s of {asset_names(conn, [target.asset_id])[target.asset_id]}"
                raise UsageError(f"the voice at {where} is {who}, not {person.name}")
        event_id = _mark(conn, "split", author, targets, speaker)
        if find_speaker(conn, name) is None:
            raise RushesError(f"{person.name} would be left without a labelled voice: rename instead of splitting")
    return Decision(event_id, other, is_new)


def merge(conn: psycopg.Connection[Any], name: str, into: str, author: str) -> Decision:
    """Say that two people are one: `name` becomes `into`. Raises `UsageError` for a merge into itself."""
    with conn.transaction():
        lock_decisions(conn)
        person, other = known_speaker(conn, name), known_speaker(conn, into)
        if person.speaker_id == other.speaker_id:
            raise UsageError(f"{person.name} cannot be merged into itself")
        event_id = events.record(conn, "merge", author, speaker_id=person.speaker_id, into_id=other.speaker_id)
        follow(conn, [person.speaker_id, other.speaker_id])
    return Decision(event_id, other)


def rename(conn: psycopg.Connection[Any], name: str, new_name: str, author: str) -> Decision:
    """Give a person another name; `UsageError` when somebody else has it."""
    with conn.transaction():
        lock_decisions(conn)
        person, wanted, holder = known_speaker(conn, name), clean_name(new_name), find_speaker(conn, new_name)
        if wanted == person.name:
            raise UsageError(f"{person.name} has this name already")
        if holder is not None and holder.speaker_id != person.speaker_id:
            raise UsageError(f"another person is called {holder.name}: if they are one, `rushes speakers merge` them")
        event_id = events.record(conn, "rename", author, speaker_id=person.speaker_id, name=wanted)
        follow(conn, [person.speaker_id])
    return Decision(event_id, Speaker(person.speaker_id, wanted))


def undo(conn: psycopg.Connection[Any], event_id: int | None, author: str) -> Decision:
    """Take a decision back, the latest when no number is given; taking an undo back brings the decision back.

    Raises `UsageError` for an event that is taken back already, `RushesError` where it cannot be without
    contradiction.
    """
    with conn.transaction():
        lock_decisions(conn)
        asked = events.read_event(conn, event_id)
        event = asked if asked.undoes is None else events.read_event(conn, asked.undoes)
        kind = "redo" if asked.kind == "undo" else "undo"
        if kind == "undo" and not event.stands:
            by, who = events.taken_back_by(conn, event.event_id)
            raise UsageError(
                f"event {event.event_id} is undone already, by event {by} ({who}): `rushes speakers undo {by}`"
                " brings it back"
            )
        if kind == "redo" and event.stands:
            raise UsageError(f"event {event.event_id} stands: the undo {asked.event_id} was taken back already")
        done = events.record(conn, kind, author, undoes=event.event_id)
        people = {event.speaker_id, event.into_id, *events.speakers_marked(conn, event.event_id)} - {None}
        parted = follow_parts(conn, event.event_id) if event.kind == "part" else set()
        recognised = {asset_id for asset_id, _ in events.recognised_from(conn, event.event_id)}
        follow(conn, people, parted | recognised | events.assets_marked(conn, event.event_id))
    return Decision(done, None)


def _lock_targets(conn: psycopg.Connection[Any], targets: Sequence[Target]) -> None:
    ids = events.targets_listed(targets)
    if lock_assets(conn, ids) != len(ids):
        raise RushesError("an asset that was pointed at was forgotten a moment ago; nothing was changed")


def _mark(
    conn: psycopg.Connection[Any], kind: str, author: str, targets: Sequence[Target], speaker: Speaker | None
) -> int:
    speaker_id = None if speaker is None else speaker.speaker_id
    event_id = events.record(conn, kind, author, speaker_id=speaker_id)
    people = {speaker_id} - {None}
    for target in targets:
        people |= events.add_mark(conn, event_id, target, speaker_id)
    recognised = {asset_id for asset_id, _ in events.recognised_from(conn, event_id)}
    follow(conn, people, {*events.targets_listed(targets), *recognised})
    return event_id


def follow(conn: psycopg.Connection[Any], people: Iterable[int | None], asset_ids: Iterable[int] = ()) -> None:
    """Bring everything in line with the log: the people first, then the voices of the assets.

    Where who counts as one person changes, or who is anybody, every asset where they may speak is looked at.
    """
    derived = speakers_due(conn, [one for one in people if one is not None])
    anew = [one for one in derived if one.is_another]
    changed = {one.speaker_id for one in anew}
    assets = {*asset_ids, *(events.assets_naming(conn, changed) if changed else ())}
    # A commit that holds an asset waits for its speakers: those of others are not held before their assets are.
    clusters = lock_reach(conn, assets)
    write_speakers(conn, derived)
    touched = decide_anew(conn, assets, clusters) | changed
    touch_speakers(conn, touched | {root for one in anew for root in (one.root_id, one.was[0]) if root is not None})


def _voice(conn: psycopg.Connection[Any], target: Target) -> Voice:
    who = speaks_most(target.start_ms, target.end_ms, pieces_of(conn, target.asset_id))
    row = conn.execute(
        "SELECT s.speaker_id, p.name, method FROM segment_speakers s LEFT JOIN speakers p USING (speaker_id)"
        " WHERE asset_id = %s AND start_ms < %s AND end_ms > %s"
        " AND (local_speaker IS NOT DISTINCT FROM %s OR %s) ORDER BY least(end_ms, %s) - greatest(start_ms, %s) DESC",
        (target.asset_id, target.end_ms, target.start_ms, who, who is None, target.end_ms, target.start_ms),
    ).fetchone()
    if row is None:
        return Voice(who, None, None)
    return Voice(who, None if row[0] is None else Speaker(row[0], row[1]), row[2])


def _check_seen(conn: psycopg.Connection[Any], seen: Seen | None, speaker: Speaker | None) -> None:
    if seen is None or events.last_event(conn) == seen.last_event:
        return
    for target, was in seen.voices.items():
        now = _voice(conn, target)
        agreed = speaker is not None and now.speaker is not None and now.speaker.speaker_id == speaker.speaker_id
        if now != was and not agreed:
            latest = events.latest_by(conn)
            by = "" if latest is None else f" (event {latest[0]} by {latest[1]})"
            who = now.speaker.name if now.speaker else "unknown"
            raise ConflictError(
                f"somebody else decided about this voice a moment ago{by}: it is {who} now;"
                " nothing was changed, look again and repeat if you still want to"
            )
