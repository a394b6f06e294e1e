"""Our speech activity + transcription beside bare faster-whisper: words lost, CPU seconds, fill.

`python -m benchmarks.transcription [ROUNDS]`. Baselines, with the same bundled weights, int8, one
thread, beam 5: `sequential` is `WhisperModel.transcribe(audio)`, `batched` the stock
`BatchedInferencePipeline.transcribe(audio)` with its own VAD; both with word times, as ours.
Accuracy on original recordings only; `long` is a seeded permutation of them and gives speed only.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from actors.speech_activity import SpeechActivity
from actors.transcribe import Transcribe
from benchmarks.report import write_result
from benchmarks.wer import WordErrors, word_errors
from cluster.profiles import choose
from cluster.stage import load_stages, run_stages
from cluster.types import SAMPLE_RATE_HZ, audio_array, rows_table, with_column

READING = Path(__file__).parents[2] / "shared/media/reading"
SEED = 7
LONG_ROUNDS = 4
LONG_PAUSE_S = 1.5

Recording = tuple[np.ndarray, str]
Outcome = tuple[str, dict[str, Any]]
System = Callable[[np.ndarray], Outcome]


def read_wav(path: Path) -> np.ndarray:
    """int16 (samples,) of a 16 kHz mono WAV."""
    with wave.open(str(path), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE_HZ, 1, 2):
            raise ValueError(f"{path} is not 16 kHz mono 16 bit")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def call_recording() -> Recording:
    """pyannote.audio's 30 s telephone call of two people, and its words."""
    spec = importlib.util.find_spec("pyannote.audio")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pyannote.audio is not installed")
    folder = Path(spec.origin).parent / "sample"
    lines = (folder / "sample.stm").read_text("utf-8").splitlines()
    return read_wav(folder / "sample.wav"), " ".join(line.split(None, 5)[5] for line in lines)


def reading_recordings() -> list[Recording]:
    """The sentences of `shared/media/reading` with their words; empty when the folder is absent."""
    if not READING.exists():
        return []
    lines = (READING / "transcripts.tsv").read_text("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line.strip()]
    return [(read_wav(READING / f"{name}.wav"), words) for name, words in pairs]


def permuted(recordings: list[Recording]) -> Recording:
    """One long recording: `LONG_ROUNDS` seeded permutations of the given ones, with pauses between."""
    chance = random.Random(SEED)
    order = [each for _ in range(LONG_ROUNDS) for each in chance.sample(recordings, len(recordings))]
    pause = np.zeros(int(LONG_PAUSE_S * SAMPLE_RATE_HZ), np.int16)
    parts = [part for audio, _ in order for part in (audio, pause)]
    return np.concatenate(parts), " ".join(words for _, words in order)


def systems() -> dict[str, System]:
    """Name -> what turns int16 audio into text and facts; models are loaded here."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from cluster.weights import locate

    choice = choose("transcriber", "bundled", {}, {})
    weights = str(locate(choice.weights))
    model = WhisperModel(weights, device="cpu", compute_type=choice.precision, cpu_threads=1, num_workers=1)
    pipeline = BatchedInferencePipeline(model)
    activity, transcribe = SpeechActivity(), Transcribe(choice)
    load_stages([activity])
    transcribe.attach(model, pipeline)

    def sequential(audio: np.ndarray) -> Outcome:
        found, _ = model.transcribe(_floats(audio), beam_size=choice.beam_size, word_timestamps=True)
        return " ".join(segment.text for segment in found), {}

    def batched(audio: np.ndarray) -> Outcome:
        found, _ = pipeline.transcribe(
            _floats(audio), beam_size=choice.beam_size, batch_size=choice.batch_size, word_timestamps=True
        )
        return " ".join(segment.text for segment in found), {}

    def ours(audio: np.ndarray) -> Outcome:
        row = run_stages([activity, transcribe], _table(audio)).to_pylist()[0]
        if row["error"]:
            raise RuntimeError(row["error"]["message"])
        return " ".join(word["text"] for word in row["words"]), row["transcript"]

    return {"ours": ours, "sequential": sequential, "batched": batched}


def measure(recordings: list[Recording], every: dict[str, System], rounds: int) -> dict[str, Any]:
    """Each system over all recordings, `rounds` times in alternating order; CPU is the median."""
    seconds: dict[str, list[float]] = {name: [] for name in every}
    outcomes: dict[str, list[Outcome]] = {}
    for turn in range(rounds):
        for name in sorted(every, reverse=bool(turn % 2)):
            started = time.process_time()
            outcomes[name] = [every[name](audio) for audio, _ in recordings]
            seconds[name].append(time.process_time() - started)
    audio_s = sum(len(audio) for audio, _ in recordings) / SAMPLE_RATE_HZ
    words = [words for _, words in recordings]
    return {
        "recordings": len(recordings),
        "audio_s": round(audio_s, 2),
        "systems": {name: _row(words, outcomes[name], median(seconds[name]), audio_s) for name in every},
    }


def _row(references: list[str], outcomes: list[Outcome], cpu_s: float, audio_s: float) -> dict[str, Any]:
    pairs = zip(references, outcomes, strict=True)
    errors = sum((word_errors(words, text) for words, (text, _) in pairs), WordErrors())
    row: dict[str, Any] = {
        "words": errors.words,
        "words_said": errors.words - errors.deletions + errors.insertions,
        "wer": round(errors.rate, 4),
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "cpu_s": round(cpu_s, 3),
        "x_realtime_per_core": round(audio_s / cpu_s, 1),
    }
    facts = [fact for _, fact in outcomes if fact]
    if facts:
        windows = sum(fact["windows"] for fact in facts)
        filled = sum(fact["window_fill"] * fact["windows"] for fact in facts)
        row |= {
            "windows": windows,
            "window_fill": round(filled / max(windows, 1), 4),
            "redecoded_windows": sum(fact["redecoded_windows"] for fact in facts),
        }
    return row


def _floats(audio: np.ndarray) -> np.ndarray:
    return audio.astype(np.float32) / 32768.0


def _table(audio: np.ndarray) -> pa.Table:
    return with_column(rows_table([{"asset_id": 1, "lanes": ["speech"]}]), "audio", audio_array([audio]))


def main() -> None:
    """Run and write `results/transcription.json`."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    every = systems()
    call, reading = call_recording(), reading_recordings()
    sets = {"call": [call], **({"reading": reading} if reading else {})}
    results = {name: measure(recordings, every, rounds) for name, recordings in sets.items()}
    long = measure([permuted([call, *reading])], every, rounds)
    for row in long["systems"].values():
        for accuracy in ("wer", "substitutions", "deletions", "insertions"):
            del row[accuracy]
    long["note"] = f"seed {SEED}: {LONG_ROUNDS} permutations, {LONG_PAUSE_S} s pauses; speed, with the words it kept"
    write_result("transcription", {"rounds": rounds, "threads": 1, "n": {**results, "long": long}})


if __name__ == "__main__":
    main()
