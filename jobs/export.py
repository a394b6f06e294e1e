"""Transcripts and vectors of many assets as files: each written whole or not at all, one asset in memory at a time."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cluster.conversation import Segment
from cluster.db import transcripts, uses
from cluster.db.connect import snapshot
from cluster.db.report import sources_of
from cluster.db.spaces import Space, space_names
from cluster.db.speakers.names import Speaker
from cluster.db.transcripts import Named, read_transcript
from cluster.errors import RushesError, StageError, os_reason
from cluster.formats import FORMATS, Transcript
from cluster.media.store import is_remote

if TYPE_CHECKING:
    from jobs.clips import Clips

PARQUET, WAV = "parquet", "wav"
SPEAKER_CHARS = 40
Write = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write, and where: into `folder`, or beside each local source when that is None.

    `spaces` are ids of embedding spaces to export in place of the active ones. `overwrite` is about files
    beside media that hold something else. `speaker`: only that person's segments; `clips` cuts them from the
    sources, for the format `wav`.
    """

    formats: Sequence[str]
    folder: Path | None
    by_speaker: bool = False
    overwrite: bool = False
    spaces: Sequence[int] = ()
    dry_run: bool = False
    speaker: Speaker | None = None
    clips: Clips | None = None


@dataclass(slots=True)
class Exported:
    """What became of an export: files written, files that said the same already, assets without a transcript."""

    files: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    without_transcript: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)


def export(
    conn: Any, chosen: Sequence[Named], options: ExportOptions, on_file: Callable[[str], None] = lambda path: None
) -> Exported:
    """Write every asset's files; what fails is listed, and the others go on.

    Raises `UsageError` for a space that does not exist.
    """
    return _Export(conn, options, on_file).run(chosen)


class _Export:
    def __init__(self, conn: Any, options: ExportOptions, on_file: Callable[[str], None]) -> None:
        self.conn, self.options, self.on_file = conn, options, on_file
        self.spaces: dict[str, Space] = {}
        self.said: dict[str, dict[str, str]] = {}
        if PARQUET in options.formats:
            # Held, so that no sweep drops one between two assets.
            uses.hold(conn, space_names(conn).values())
            self.spaces = transcripts.chosen_spaces(conn, options.spaces)
            self.said = {kind: transcripts.describe_space(conn, space) for kind, space in self.spaces.items()}
        self.result = Exported()
        self.texts: set[Path] = set()

    def run(self, chosen: Sequence[Named]) -> Exported:
        for named in chosen:
            with snapshot(self.conn):
                transcript = read_transcript(self.conn, named)
                if transcript is None:
                    self.result.without_transcript.append(named.name)
                    continue
                self._asset(named, transcript)
            if WAV in self.options.formats and self.options.folder is not None:
                self._wav(self.options.folder, named, self._spoken(transcript))
        return self.result

    def _asset(self, named: Named, transcript: Transcript) -> None:
        texts = [name for name in self.options.formats if name in FORMATS]
        for stem in self._stems(named) if texts else ():
            for suffix, part in self._parts(transcript):
                for name in texts:
                    self._text(stem.with_name(f"{stem.name}{suffix}.{name}"), FORMATS[name](part))
        if PARQUET in self.options.formats and self.options.folder is not None:
            self._parquet(self.options.folder, named, transcript)

    def _parts(self, transcript: Transcript) -> Iterator[tuple[str, Transcript]]:
        """What goes into one file each: the whole, or `.NAME` and the segments of one speaker."""
        if not self.options.by_speaker and self.options.speaker is None:
            yield "", transcript
            return
        labels = _speaker_labels(transcript)
        for name, segments in self._voices(transcript).items():
            yield f".{labels[name]}", replace(transcript, segments=segments)

    def _voices(self, transcript: Transcript) -> dict[str, list[Segment]]:
        """The segments of each speaker that is asked for, by name."""
        if self.options.speaker is None:
            return transcript.by_speaker()
        spoken = self._spoken(transcript)
        return {transcript.speaker_name(spoken[0]): spoken} if spoken else {}

    def _spoken(self, transcript: Transcript) -> list[Segment]:
        """The segments of the person asked for."""
        asked = self.options.speaker
        return [s for s in transcript.segments if asked and transcript.who(s).speaker_id == asked.speaker_id]

    def _stems(self, named: Named) -> list[Path]:
        if self.options.folder is not None:
            return [self.options.folder / named.name]
        uris = sources_of(self.conn, [named.asset_id]).get(named.asset_id, [])
        local = [uri for uri in uris if not is_remote(uri)]
        there = [uri for uri in local if os.path.isfile(uri)]  # noqa: PTH113 - Path.is_file raises for long names
        if not there:
            why = "no source of it is there now" if local or not uris else "it lies in an object store"
            self._fail(uris[0] if uris else named.name, f"{why}: there is no folder to write to, use -o DIR")
        return list(dict.fromkeys(Path(uri).with_suffix("") for uri in there))

    def _text(self, path: Path, text: str) -> None:
        if path in self.texts:
            self._fail(path, "two recordings or speakers share the name: export them apart, with -o DIR")
            return
        self.texts.add(path)
        content = text.encode("utf-8", "replace")
        if self.options.folder is None and self._keep(path, content):
            return
        self._write(path, lambda part: _write_bytes(part, content))

    def _keep(self, path: Path, content: bytes) -> bool:
        """Whether the file beside the media stays as it is: it says the same, or it is not ours to replace."""
        try:
            there = path.exists()
            same = there and path.stat().st_size == len(content) and path.read_bytes() == content
        except OSError as error:
            self._fail(path, os_reason(error))
            return True
        if same:
            self.result.unchanged.append(str(path))
        elif there and not self.options.overwrite:
            self._fail(path, "it exists and says something else: --overwrite replaces it")
        return same or (there and not self.options.overwrite)

    def _parquet(self, folder: Path, named: Named, transcript: Transcript) -> None:
        leaf = Path(f"asset={named.sha256}") / "part-0.parquet"
        alone = self.options.speaker is not None
        if self.options.by_speaker or alone:
            root, written = folder / "segments_by_speaker", set()
            for name, segments in self._voices(transcript).items():
                path = root / f"speaker={quote(name, safe='')}" / leaf
                written.add(path)
                self._write(path, lambda part, chosen=segments: self._segments(part, named, transcript, chosen))
            # of the other speakers nothing is known here
            if not alone:
                self._sweep(root, leaf, written)
        else:
            self._write(folder / "segments" / leaf, lambda part: self._segments(part, named, transcript, None))
        if "text" in self.spaces and not alone:
            self._write(folder / "chunks" / leaf, lambda part: self._chunks(part, named, transcript))

    def _sweep(self, root: Path, leaf: Path, written: set[Path]) -> None:
        # Speakers get other names: what an earlier export wrote under the old ones would be read twice.
        stale = [] if self.options.dry_run else [path for path in root.glob(f"speaker=*/{leaf}") if path not in written]
        for path in stale:
            try:
                path.unlink()
            except OSError as error:
                self._fail(path, os_reason(error))

    def _segments(self, path: Path, named: Named, transcript: Transcript, chosen: Sequence[Segment] | None) -> None:
        from cluster.formats import parquet

        space = self.spaces.get("voice")
        dimension = space.dimension if space else None
        schema = parquet.segments_schema(dimension, self.said.get("voice", {}), partitioned=chosen is not None)
        by_idx = {s.idx: s for s in (transcript.segments if chosen is None else chosen)}
        with _writer(path, schema) as write:
            if space is None:
                write(parquet.segments_table(transcript, by_idx.values(), {}, schema))
                return
            for batch in transcripts.read_voices(self.conn, named.asset_id, space, None if chosen is None else by_idx):
                voices = {idx: (reason, vector) for idx, reason, vector in batch}
                write(parquet.segments_table(transcript, [by_idx[idx] for idx in voices], voices, schema))

    def _chunks(self, path: Path, named: Named, transcript: Transcript) -> None:
        from cluster.formats import parquet

        space = self.spaces["text"]
        schema = parquet.chunks_schema(space.dimension, self.said["text"])
        with _writer(path, schema) as write:
            for batch in transcripts.read_chunks(self.conn, named.asset_id, space):
                write(parquet.chunks_table(transcript, batch, schema))

    def _wav(self, folder: Path, named: Named, segments: Sequence[Segment]) -> None:
        """One clip for each segment; the asset is decoded once, and not at all when it cannot be."""
        assert self.options.clips is not None
        paths = {segment.idx: folder / f"{named.name}.{segment.start_ms}-{segment.end_ms}.wav" for segment in segments}
        if self.options.dry_run or not segments:
            for path in paths.values():
                self._write(path, _write_nothing)
            return
        try:
            sound = self.options.clips.decode(self.conn, named)
        except (RushesError, StageError, OSError) as error:
            self._fail(named.name, os_reason(error) if isinstance(error, OSError) else str(error))
            return
        for segment in segments:
            self._write(paths[segment.idx], lambda part, one=segment: sound.write(part, one.start_ms, one.end_ms))

    def _write(self, path: Path, write: Write) -> None:
        """Write beside the final name, then rename: nobody ever reads half a file."""
        if not self.options.dry_run:
            part = path.with_name(f".rushes-{os.getpid()}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    write(part)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
            except OSError as error:
                self._fail(path, os_reason(error))
                return
        self.result.files.append(str(path))
        self.on_file(str(path))

    def _fail(self, what: Path | str, why: str) -> None:
        self.result.failures.append({"what": str(what), "reason": why})


def _speaker_labels(transcript: Transcript) -> dict[str, str]:
    """Name -> what a file name can hold of it; alike ones are numbered."""
    labels = {name: re.sub(r"[^\w.-]+", "_", name)[:SPEAKER_CHARS] for name in transcript.by_speaker()}
    shared = Counter(label.casefold() for label in labels.values())
    return {
        name: label if shared[label.casefold()] == 1 else f"{label}-{number}"
        for number, (name, label) in enumerate(labels.items())
    }


def _write_nothing(path: Path) -> None:
    """For a file that is only spoken of."""


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@contextmanager
def _writer(path: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    import pyarrow.parquet as pq

    # Vectors never repeat: a dictionary of their elements makes files larger, and writing four times slower.
    repeating = [name for name in schema.names if not name.endswith("_vector")]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating) as writer:
        yield writer.write_table
