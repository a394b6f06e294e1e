"""What commands about people share: what followed from a decision, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decide(conn: Any, action: Any, targets: Sequence[Any] = (), *, dry_run: bool = False) -> dict[str, Any]:
    """Do it and read what followed in the same transaction, which a dry run takes back."""
    from cluster.db.speakers import outcome

    found = outcome.decide(conn, action, targets, dry_run=dry_run)
    speaker = found.decision.speaker
    return {
        "event": None if dry_run else found.decision.event_id,
        "speaker": None if speaker is None else speaker.name,
        "is_new": found.decision.is_new,
        "reach": found.reach,
        "held_back": found.held_back,
        "assets": found.voices,
        "unnamed": found.unnamed,
    }


def told(found: dict[str, Any], names: dict[int, str]) -> list[str]:
    """How far the name goes, what held it back, what the assets count, and the way back."""
    from cluster.speakers.counts import describe

    lines = []
    if found["reach"] is not None:
        lines.append(f"{found['speaker']} has {found['reach'].describe()}")
    for held in found["held_back"]:
        count = held.reasons.total()
        why = "; ".join(f"{n}: {reason}" for reason, n in held.reasons.most_common())
        rest = f"{count} voice(s) did not get the name ({why})" if count else "every other voice has the name now"
        lines.append(f"cluster {held.cluster_id}: {rest}")
    shown = list(found["assets"].items())[:10]
    lines += [f"{names[asset_id]}: {describe(voices)}" for asset_id, voices in shown]
    if found["unnamed"]:
        lines.append(
            f"{found['unnamed']} voice(s) that were recognised by it are unknown now: `rushes speakers identify`"
            " looks at them again"
        )
    if found["event"] is None:
        return [*lines, "dry run: nothing was changed"]
    return [*lines, f"event {found['event']}; `rushes speakers undo {found['event']}` takes it back"]


def plain(found: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """The same for JSON."""
    reach = found["reach"]
    return {
        **{key: value for key, value in found.items() if key not in ("reach", "held_back", "assets")},
        "reach": None
        if reach is None
        else {"voices": reach.voices, "segments": reach.segments, "assets": reach.assets},
        "held_back": [{"cluster": held.cluster_id, "reasons": dict(held.reasons)} for held in found["held_back"]],
        "assets": [_counts(names[asset_id], voices) for asset_id, voices in found["assets"].items()],
    }


def _counts(name: str, voices: dict[Any, int]) -> dict[str, Any]:
    known = sum(count for who, count in voices.items() if who.speaker_id is not None)
    total = sum(voices.values())
    return {"asset": name, "segments": total, "known": known, "unknown": total - known}


def asset_names(conn: Any, asset_ids: Sequence[int]) -> dict[int, str]:
    """Asset -> the last parts of its source."""
    from cluster.db.report import asset_names as full_names
    from jobs.cli.common import short_uri

    return {asset_id: short_uri(name) for asset_id, name in full_names(conn, asset_ids).items()}
