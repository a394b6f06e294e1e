"""A corpus of transcripts without media, and text profiles small enough for tests."""

from __future__ import annotations

from typing import Any

from cluster.db import runs
from cluster.db.filter import AssetFilter
from cluster.db.results import commit_row
from cluster.settings import load_settings
from jobs.cli.progress import LineReporter
from jobs.reembed import ReembedOptions, reembed
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run


def store(conn: Any, count: int, prints: Any = None, prefix: str = "a") -> list[int]:
    """So many assets with a transcript and an old text space, as an ingest left them."""
    prints = prints or PRINTS
    made, run_id, ids = make_spaces(conn), new_run(conn), []
    for number in range(count):
        ids.append(new_asset(conn, f"{prefix}{number}.wav"))
        row = computed_row(ids[-1], claimed(conn, run_id, ids[-1], prints=prints), text=f"talk {prefix}{number} about")
        assert commit_row(conn, run_id, row, made) == "done"
    runs.finish_run(conn, run_id, "done", {})
    return ids


def settings_of(url: str, weights: Any, dimension: int, **flags: Any) -> Any:
    """Settings whose text profile `tiny` is the model in this folder."""
    profiles = {"tiny": {"text": {"weights": f"path:{weights}", "dimension": dimension}}}
    given = {"database_url": url, "cpus": 2, "runner": "inline", "profiles": profiles, **flags}
    return load_settings(None, **given).following("text", "tiny")


def reembed_quietly(settings: Any, **options: Any) -> Any:
    """The job as the command calls it."""
    options.setdefault("chosen", AssetFilter())
    return reembed(settings, ReembedOptions(**options), LineReporter(quiet=True, verbose=False))
