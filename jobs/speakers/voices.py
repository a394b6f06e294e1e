"""Voices for one asset that has none yet: what a label needs to be passed on and recognised."""

from __future__ import annotations

from typing import Any

from actors.lanes import stored_fingerprints
from cluster.db.stored import lacks_child, speech_fingerprint, unit_state
from cluster.errors import first_line
from cluster.settings import Settings
from jobs.ingest import ingest
from jobs.job import IngestOptions, Reporter


def lacks_voices(conn: Any, settings: Settings, asset_id: int) -> bool:
    """Whether the transcript of the asset has no voices under these settings; False where there is none."""
    return lacks_child(
        conn, asset_id, "voices", lambda speech: stored_fingerprints(settings, speech, "voices")["voices"]
    )


def extract_voices(conn: Any, settings: Settings, asset_id: int, reporter: Reporter) -> str | None:
    """Run the voices lane of the asset, whole, on the transcript it has; returns why that failed, None when not.

    The asset is decoded once and nothing is transcribed; voices that the cache knows are not computed again.
    """
    speech = speech_fingerprint(conn, asset_id)
    assert speech is not None
    prints = stored_fingerprints(settings, speech, "voices")
    options = IngestOptions(asset_ids=[asset_id], lanes=("voices",), prints=prints, retry_failed=True)
    summary = ingest(settings, options, reporter)
    if summary.exit_code == 130:
        raise KeyboardInterrupt
    if unit_state(conn, asset_id, "voices", prints["voices"]) == "done":
        return None
    if summary.failures:
        return first_line(summary.failures[0]["message"])
    if summary.vanished:
        return "its file is gone"
    return summary.notes[-1] if summary.notes else "another run is at work on it"
