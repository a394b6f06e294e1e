"""A media reader as tests use it."""

from __future__ import annotations

from pathlib import Path

from cluster.media.child import Decoded, MediaChild

MEMORY = 2**28
DEADLINE_S = 60.0


def decode(reader: MediaChild, path: Path, stream: int | None = None) -> Decoded:
    if stream is None:
        found = reader.probe(str(path), DEADLINE_S).audio_stream
        assert found is not None
        stream = found
    return reader.decode(str(path), stream, DEADLINE_S)
