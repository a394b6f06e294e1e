"""Diarization error of the bundled diarizer, beside the baseline that calls everybody one speaker.

DER as pyannote.metrics counts it with collar 0 and overlap scored, over the whole file. The call is
pyannote.audio's own 30 s sample of telephone speech; the conversations are concatenated from
LibriSpeech clips: real voices, read speech, no overlap, so easier than anything spoken.
"""

from __future__ import annotations

import time
import wave
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.diarize import Diarize
from actors.speech_activity import SpeechActivity
from benchmarks.report import write_result
from cluster.profiles import choose
from cluster.stage import load_stages, run_stage
from cluster.types import SAMPLE_RATE_HZ, audio_array, rows_table, with_column

SPEAKERS = Path(__file__).parents[2] / "shared" / "media" / "speakers"
CHOICE = choose("diarizer", "bundled", {"device": "cpu"}, {})
CONVERSATIONS = 12
SEED = 20_240

Audio = NDArray[np.int16]
Turn = tuple[float, float, Any]


def main() -> None:
    audio, reference = sample_call()
    result: dict[str, Any] = {"scoring": "DER, collar 0, overlap scored", "call": measured(audio, reference)}
    clips = speaker_clips()
    if clips:
        runs = [measured(*conversation(clips, SEED + n, 1 + n % 4)) for n in range(CONVERSATIONS)]
        result["conversations"] = {
            "n": len(runs),
            "what": "synthetic: LibriSpeech pieces in random order; pauses inside a piece count as speech",
            **averaged(runs),
        }
        result["each_conversation"] = runs
    write_result("diarization", result)


def measured(audio: Audio, reference: list[Turn]) -> dict[str, Any]:
    """Errors with the count given, without, and as one speaker; CPU cost of the diarizer alone."""
    count = len({speaker for _, _, speaker in reference})
    row = spoken(audio)
    given, _ = diarized(row, count)
    found, cpu_s = diarized(row, None)
    one, _ = diarized(row, 1)
    seconds = len(audio) / SAMPLE_RATE_HZ
    return {
        "speakers": count,
        "seconds": round(seconds, 1),
        "given_count": errors(reference, given, seconds),
        "found_count": errors(reference, found, seconds) | {"speakers": len({turn[2] for turn in found})},
        "one_speaker": errors(reference, one, seconds),
        "cpu_seconds": round(cpu_s, 2),
        "times_realtime": round(seconds / cpu_s),
    }


def spoken(audio: Audio) -> Any:
    """One row with audio and speech regions."""
    table = with_column(rows_table([{"asset_id": 1, "lanes": ["speech"]}]), "audio", audio_array([audio]))
    activity = SpeechActivity()
    load_stages([activity])
    return run_stage(activity, table)


def diarized(row: Any, count: int | None) -> tuple[list[Turn], float]:
    """Turns in seconds, and the CPU seconds they took with the model loaded and one thread."""
    stage = Diarize(CHOICE, count, count)
    load_stages([stage])
    began = time.process_time()
    out = run_stage(stage, row).to_pylist()[0]
    cpu_s = time.process_time() - began
    turns = [(t["start_ms"] / 1000, t["end_ms"] / 1000, t["local_speaker"]) for t in out["turns"]]
    return turns, cpu_s


def errors(reference: list[Turn], hypothesis: list[Turn], seconds: float) -> dict[str, float]:
    """DER and its parts, in percent of the reference speech."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: list[Turn]) -> Annotation:
        out = Annotation()
        for track, (start, end, speaker) in enumerate(turns):
            out[Segment(start, end), track] = str(speaker)
        return out

    metric = DiarizationErrorRate(collar=0, skip_overlap=False)
    whole = Timeline([Segment(0, seconds)])
    parts = metric(annotation(reference), annotation(hypothesis), uem=whole, detailed=True)
    assert isinstance(parts, dict)
    names = {"missed": "missed detection", "false_alarm": "false alarm", "confusion": "confusion"}
    shares = {name: round(100 * float(parts[key] / parts["total"]), 1) for name, key in names.items()}
    return {"der": round(100 * float(parts["diarization error rate"]), 1), **shares}


def averaged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain means over conversations, and the mean distance from the right number of speakers."""
    ways = ("given_count", "found_count", "one_speaker")
    means = {
        way: {part: round(float(np.mean([run[way][part] for run in runs])), 1) for part in runs[0]["given_count"]}
        for way in ways
    }
    wrong = [abs(run["found_count"]["speakers"] - run["speakers"]) for run in runs]
    speed = sum(run["seconds"] for run in runs) / max(sum(run["cpu_seconds"] for run in runs), 0.01)
    return {**means, "speaker_count_error": round(float(np.mean(wrong)), 2), "times_realtime": round(speed)}


def sample_call() -> tuple[Audio, list[Turn]]:
    """pyannote.audio's sample and its reference turns."""
    spec = find_spec("pyannote.audio")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "sample"
    with wave.open(str(folder / "sample.wav")) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    fields = [line.split() for line in (folder / "sample.rttm").read_text("utf-8").splitlines()]
    return audio, [(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in fields]


def speaker_clips() -> dict[str, list[Audio]]:
    """Speaker -> clips without the silence at their ends; empty when the media are not there."""
    import soundfile

    activity = SpeechActivity()
    load_stages([activity])
    clips: dict[str, list[Audio]] = {}
    for path in sorted(SPEAKERS.glob("*.flac")):
        audio, _ = soundfile.read(path, dtype="int16")
        regions = activity.regions(audio)
        spoken = audio[regions[0]["start_ms"] * 16 : regions[-1]["end_ms"] * 16]
        clips.setdefault(path.name.split("-")[0], []).append(spoken.astype(np.int16, copy=False))
    return clips


def conversation(clips: dict[str, list[Audio]], seed: int, speakers: int, turns: int = 14) -> tuple[Audio, list[Turn]]:
    """Pieces of 1.5 to 8 s in random order, with pauses of 0.2 to 0.6 s, and who says them."""
    random = np.random.default_rng(seed)
    cast = random.permutation(sorted(clips))[:speakers].tolist()
    parts: list[Audio] = []
    reference: list[Turn] = []
    at, last = 0, None
    for turn in range(turns):
        others = [name for name in cast if name != last] or cast
        last = cast[turn] if turn < speakers else others[int(random.integers(len(others)))]
        clip = clips[last][int(random.integers(len(clips[last])))]
        length = min(len(clip), int(random.uniform(1.5, 8) * SAMPLE_RATE_HZ))
        start = int(random.integers(len(clip) - length + 1))
        pause = int(random.uniform(0.2, 0.6) * SAMPLE_RATE_HZ)
        parts += [clip[start : start + length], np.zeros(pause, np.int16)]
        reference.append((at / SAMPLE_RATE_HZ, (at + length) / SAMPLE_RATE_HZ, last))
        at += length + pause
    return np.concatenate(parts), reference


if __name__ == "__main__":
    main()
