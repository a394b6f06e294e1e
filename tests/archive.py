"""A small archive of real sound, and the main job as tests call it."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np

from actors import transcribe
from cluster.settings import load_settings
from jobs.cli.progress import LineReporter
from jobs.ingest import ingest
from jobs.job import IngestOptions
from tests.media_factory import call_wav, silence, write_video, write_wav


def read_call():
    with wave.open(str(call_wav())) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def build_media(folder: Path) -> Path:
    """A call, its copy, a film with sound, one without, silence, a broken file, a note."""
    folder.mkdir()
    call = read_call()
    write_wav(folder / "call.wav", call[: 14 * 16_000], 16_000)
    write_wav(folder / "copy.wav", call[: 14 * 16_000], 16_000)
    write_video(folder / "2024-03-09 film.mp4", 8, call[14 * 16_000 : 22 * 16_000])
    write_video(folder / "mute.mp4", 2, None)
    write_wav(folder / "silence.wav", silence(3), 16_000)
    (folder / "broken.mp4").write_bytes(b"this is not a film")
    (folder / "notes.txt").write_text("not media")
    return folder


# To load the recogniser takes longer than most runs do: the runs of this process share one.
loaded = cache(transcribe._whisper)


def run(url, inputs=(), flags=None, reporter=None, **options):
    # In this process: it holds torch already, and models count their calls here.
    settings = load_settings(
        None, **{"database_url": url, "cpus": 2, "runner": "inline", "retry_base_s": 0.01, **(flags or {})}
    )
    with patch.object(transcribe, "_whisper", loaded):
        return ingest(
            settings, IngestOptions(inputs=inputs, **options), reporter or LineReporter(quiet=True, verbose=False)
        )
