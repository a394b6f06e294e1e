"""Speech to words: Whisper through faster-whisper, batched over packed windows of one asset.

Batched decoding of windows ignores Whisper's own safeguards, so each window is judged afterwards
and a suspicious one is decoded again alone. Windows are decoded without timestamp tokens: with
them the batched pipeline drops whatever follows the last complete pair, and they cost 15 % more.
Word times come from cross-attention, utterances from punctuation and pauses.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa

from actors.budget import Budget
from cluster import weights
from cluster.errors import RushesError
from cluster.profiles import ModelChoice
from cluster.types import SAMPLE_RATE_HZ, waveform, with_column
from cluster.windows import EDGE_MS, MODEL_WINDOW_MS, PAUSE_MS, Region, Window, Word, pack, place, window_fill

MAX_WINDOW_S = 29.0
GATES_VERSION = 1
MAX_COMPRESSION = 2.4
MIN_LOGPROB = -1.0
MAX_NO_SPEECH = 0.6
MAX_WORDS_PER_S = 8.0
MIN_WORDS_PER_S = 0.5
SPARSE_FROM_S = 5.0
MAX_UNHEARD_S = 3.0
REPEATED_WORDS = 8
REPEATED_PHRASE = 8
# ctranslate2 seeds its sampler once per worker thread, so `set_random_seed` cannot make a decoding
# at a temperature repeatable. These retries stay deterministic and forbid loops instead.
RETRIES: tuple[dict[str, Any], ...] = ({}, {"repetition_penalty": 1.1, "no_repeat_ngram_size": 4})
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
UTTERANCE_PAUSE_MS = 800
UTTERANCE_MAX_MS = 15_000
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f\u2026][\"'\u201d\u2019)\]]*$")
_MARKS = ".,!?:;-\u2013\u2014\u2026'\"\u2018\u2019\u201c\u201d()[]{}*\u266a\u266b"
_ABBREVIATION = re.compile(r"^(?:[A-Z][a-z]{0,2}|[A-Z](?:\.[A-Z])*)\.$")


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model said about one window: `words` in ms from the window's start."""

    words: tuple[Word, ...] = ()
    text: str = ""
    logprob: float = 0.0
    no_speech: float = 0.0


class Transcribe:
    """Stage: `audio`, `speech` -> `words`, `utterances`, `transcript`.

    `calls` counts model invocations; no speech means none. `load` raises `RushesError` when the
    model does not know `language`, the device does not know the precision, or CUDA lacks cuBLAS 12.
    """

    name = "transcribe"
    version = 1
    lanes = frozenset({"speech"})
    needs = ("audio", "speech")
    adds = ("words", "utterances", "transcript")
    drops = ()

    def __init__(self, choice: ModelChoice, language: str | None = None, threads: int = 1) -> None:
        self.choice = choice
        self.language = language
        self.threads = threads
        self.calls = 0
        self._budget = Budget(self.name, choice.batch_size, "window")
        self._model: Any = None
        self._pipeline: Any = None

    def identity(self) -> dict[str, Any]:
        """Engine, weights, language, decoding and window parameters, version of the gates."""
        return {
            "engine": self.choice.engine,
            "weights": weights.identity(self.choice.weights),
            "language": self.language,
            "beam_size": self.choice.beam_size,
            "precision": self.choice.precision,
            "window": {"max_s": MAX_WINDOW_S, "edge_ms": EDGE_MS, "pause_ms": PAUSE_MS},
            "gates_version": GATES_VERSION,
        }

    def load(self) -> None:
        """Load the model onto the chosen device, with one worker of `threads` threads."""
        from faster_whisper import BatchedInferencePipeline

        model = _whisper(self.choice, self.threads)
        if self.language is not None and self.language not in model.supported_languages:
            raise RushesError(_language_message(self.choice, self.language, model.supported_languages))
        self.attach(model, BatchedInferencePipeline(model))

    def attach(self, model: Any, pipeline: Any) -> None:
        """Use a `WhisperModel` and its `BatchedInferencePipeline`, or doubles with their `transcribe`."""
        self._model = model
        self._pipeline = pipeline

    def process(self, table: pa.Table) -> pa.Table:
        """Transcribe row by row; an asset never shares a window or a batch with another."""
        results = [
            self._asset(waveform(table, row), table.column("speech")[row].as_py() or [])
            for row in range(table.num_rows)
        ]
        for name in self.adds:
            table = with_column(table, name, [result[name] for result in results])
        return table

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device."""
        return self._budget.halvings

    @property
    def languages(self) -> Sequence[str]:
        """The codes of the languages that the loaded model knows."""
        return self._model.supported_languages

    def close(self) -> None:
        """Let go of the model."""
        self._model = self._pipeline = None

    def _asset(self, audio: Any, speech: list[dict[str, int]]) -> dict[str, Any]:
        audio_ms = len(audio) * 1000 // SAMPLE_RATE_HZ
        windows = pack(speech, audio_ms, MAX_WINDOW_S, waveform=audio)
        language, probability, drafts = self._decode(audio, windows)
        redecoded = 0
        for index, (window, draft) in enumerate(zip(windows, drafts, strict=True)):
            if flaws(draft, window.speech, language):
                redecoded += 1
                drafts[index] = self._redecode(audio, window, draft, language)
        words = place([(w, draft.words) for w, draft in zip(windows, drafts, strict=True)], speech, audio_ms)
        return {
            "words": words,
            "utterances": utterances(words),
            "transcript": {
                "language": language,
                "language_probability": probability,
                "windows": len(windows),
                "window_fill": window_fill(windows),
                "redecoded_windows": redecoded,
            },
        }

    def _decode(self, audio: Any, windows: Sequence[Window]) -> tuple[str | None, float | None, list[Draft]]:
        """The language, its probability and one draft per window; a batch per call of the pipeline."""
        language, probability = self.language, None
        drafts: list[Draft] = []
        step = self.choice.batch_size
        for start in range(0, len(windows), step):
            batch = windows[start : start + step]
            said, info = self._budget.run(partial(self._call, audio, batch, language), len(batch))
            drafts += said
            language = info.language
            probability = info.language_probability if probability is None else probability
        return language, probability, drafts

    def _call(self, audio: Any, batch: Sequence[Window], language: str | None, size: int) -> tuple[list[Draft], Any]:
        """One draft per window and the pipeline's info; the model decodes `size` windows at a time.

        The pipeline always gets the whole batch: its clock and its vote on the language go through
        all of it, and would move words if they began anew. Each window starts on a multiple of 30 s:
        there it, counting in samples and in frames of 10 ms, rounds nothing, and `seek` names the window.
        """
        import numpy as np

        slot_s = MODEL_WINDOW_MS // 1000
        packed = np.zeros(len(batch) * slot_s * SAMPLE_RATE_HZ, np.float32)
        clips = []
        for slot, window in enumerate(batch):
            first = slot * slot_s * SAMPLE_RATE_HZ
            packed[first : first + window.length_ms * SAMPLE_RATE_HZ // 1000] = window.cut(audio)
            clips.append({"start": slot * slot_s, "end": slot * slot_s + window.length_ms / 1000})
        self.calls += 1
        # A call that failed half way leaves its clock behind, and word times would depend on it.
        self._pipeline.last_speech_timestamp = 0.0
        found, info = self._pipeline.transcribe(
            packed,
            language=language,
            beam_size=self.choice.beam_size,
            batch_size=size,
            clip_timestamps=clips,
            word_timestamps=True,
            without_timestamps=True,
            language_detection_segments=len(batch),
        )
        segments: list[list[Any]] = [[] for _ in batch]
        for segment in found:
            segments[segment.seek * 10 // MODEL_WINDOW_MS].append(segment)
        drafts = [_draft(said, slot * MODEL_WINDOW_MS, info.language) for slot, said in enumerate(segments)]
        return drafts, info

    def _redecode(self, audio: Any, window: Window, draft: Draft, language: str | None) -> Draft:
        """The best of `draft` and the retries: fewest flaws, then likeliest; stops at a sound one.

        A flawed text on what the model takes for non-speech is dropped.
        """
        candidates = [draft]
        for options in RETRIES:
            segments = self._budget.run(partial(self._alone, audio, window, language, options), 1)
            candidates.append(_draft(segments, 0, language))
            if not flaws(candidates[-1], window.speech, language):
                break
        best = min(
            candidates,
            key=lambda each: (len(flaws(each, window.speech, language)), not each.words, -each.logprob),
        )
        invented = best.no_speech > MAX_NO_SPEECH and flaws(best, window.speech, language)
        return Draft() if invented else best

    def _alone(
        self, audio: Any, window: Window, language: str | None, options: dict[str, Any], _size: int
    ) -> list[Any]:
        """The segments of one window without a batch, decoded with `options`."""
        self.calls += 1
        found, _ = self._model.transcribe(
            window.cut(audio),
            language=language,
            beam_size=self.choice.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            **options,
        )
        return list(found)


def flaws(draft: Draft, speech: Sequence[Region], language: str | None = None) -> list[str]:
    """The gates that `draft` fails: Whisper's own thresholds, loops, rates, and speech passed over.

    `speech` holds the window's regions in ms of the window. `passed_over` is the batched decoder's
    commonest fault: it ends the text early and leaves out the rest of the window.
    """
    count, speech_s = len(draft.words), sum(end - start for start, end in speech) / 1000
    fastest = MAX_WORDS_PER_S * (2 if language in UNSPACED else 1)
    failed = {
        "compression": _compression(draft.text) > MAX_COMPRESSION,
        "logprob": draft.logprob < MIN_LOGPROB,
        "repeated": _repeats([word["text"].lower() for word in draft.words]),
        "too_fast": count > fastest * max(speech_s, 1.0),
        "too_few": speech_s >= SPARSE_FROM_S and count < MIN_WORDS_PER_S * speech_s,
        "passed_over": _longest_unheard_s(draft.words, speech) > MAX_UNHEARD_S,
    }
    return [name for name, yes in failed.items() if yes]


def _longest_unheard_s(words: Sequence[Word], speech: Sequence[Region]) -> float:
    """The most speech between two neighbouring words, before the first or after the last, in s."""
    ends = [float("-inf"), *(word["end_ms"] for word in words)]
    starts = [*(word["start_ms"] for word in words), float("inf")]
    unheard = (
        sum(max(0.0, min(end, till) - max(start, since)) for start, end in speech)
        for since, till in zip(ends, starts, strict=True)
    )
    return max(unheard) / 1000


def utterances(words: Sequence[Word]) -> list[dict[str, int]]:
    """Sentence-like spans: each word lies in exactly one, and none overlaps the next.

    A span ends at a sentence mark, at a pause of 800 ms, or at its widest inner pause when over 15 s.
    """
    spans: list[dict[str, int]] = []
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or _ends_utterance(words[index - 1], words[index]):
            spans += _bounded(words[first:index])
            first = index
    return spans


def _ends_utterance(word: Word, following: Word) -> bool:
    if following["start_ms"] - word["end_ms"] >= UTTERANCE_PAUSE_MS:
        return True
    return bool(_SENTENCE_END.search(word["text"])) and not _ABBREVIATION.match(word["text"])


def _bounded(words: Sequence[Word]) -> Iterator[dict[str, int]]:
    start, end = words[0]["start_ms"], words[-1]["end_ms"]
    if end - start <= UTTERANCE_MAX_MS or len(words) == 1:
        yield {"start_ms": start, "end_ms": end}
        return
    gaps = [after["start_ms"] - before["end_ms"] for before, after in pairwise(words)]
    inner = range(len(gaps) // 4, len(gaps) - len(gaps) // 4)
    cut = 1 + max(inner, key=lambda index: (gaps[index], -abs(2 * index - len(gaps))))
    yield from _bounded(words[:cut])
    yield from _bounded(words[cut:])


def _draft(segments: Sequence[Any], offset_ms: int, language: str | None) -> Draft:
    """One draft of a window's segments; scores are means weighted by tokens."""
    if not segments:
        return Draft()
    sizes = [len(segment.tokens) + 1 for segment in segments]
    total = sum(sizes)
    return Draft(
        words=tuple(_joined((word for segment in segments for word in segment.words or ()), offset_ms, language)),
        text="".join(segment.text for segment in segments).strip(),
        logprob=sum(size * segment.avg_logprob for size, segment in zip(sizes, segments, strict=True)) / total,
        no_speech=sum(size * segment.no_speech_prob for size, segment in zip(sizes, segments, strict=True)) / total,
    )


def _joined(words: Iterable[Any], offset_ms: int, language: str | None) -> list[Word]:
    """Words with text, not mere marks; what was split off without a space ("well", "-known") is put back."""
    joined: list[Word] = []
    for word in words:
        text = word.word.strip()
        start, end = word.start * 1000 - offset_ms, word.end * 1000 - offset_ms
        if text and joined and language not in UNSPACED and not word.word[0].isspace():
            last = joined[-1]
            last["text"] += text
            last["end_ms"] = max(end, last["end_ms"])
            last["probability"] = min(last["probability"], float(word.probability))
        elif text:
            joined.append({"start_ms": start, "end_ms": end, "text": text, "probability": float(word.probability)})
    return [word for word in joined if word["text"].strip(_MARKS)]


def _compression(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _repeats(words: Sequence[str]) -> bool:
    """Whether a phrase of up to 8 words stands three times in a row, over 8 words or more."""
    for size in range(1, REPEATED_PHRASE + 1):
        run = 0
        for before, word in zip(words, words[size:], strict=False):
            run = run + 1 if before == word else 0
            if run >= max(2 * size, REPEATED_WORDS - size):
                return True
    return False


def _whisper(choice: ModelChoice, threads: int) -> Any:
    import ctranslate2
    from faster_whisper import WhisperModel

    path = weights.locate(choice.weights)
    device = choice.device
    cards = ctranslate2.get_cuda_device_count()
    if device == "auto":
        device = "cuda" if cards > 0 else "cpu"
    if device == "cuda" and not cards:
        raise RushesError("no GPU for the transcriber: set RUSHES_TRANSCRIBER_DEVICE=auto or cpu")
    if device == "cuda":
        preload_cublas()
    known = ctranslate2.get_supported_compute_types(device)
    if choice.precision not in ("default", "auto") and choice.precision not in known:
        raise RushesError(
            f"transcriber precision {choice.precision} is not possible on {device}: "
            f"set RUSHES_TRANSCRIBER_PRECISION to default or one of {', '.join(sorted(known))}"
        )
    return WhisperModel(str(path), device=device, compute_type=choice.precision, cpu_threads=threads, num_workers=1)


def preload_cublas() -> None:
    """ctranslate2 opens `libcublas.so.12` by name, torch brings 13: load the wheel's copy first.

    Raises `RushesError` when there is none.
    """
    import ctypes
    import importlib.util
    from pathlib import Path

    try:
        spec = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        spec = None
    folders = [Path(folder) / "lib" for folder in (spec.submodule_search_locations if spec else None) or ()]
    names = ["libcublasLt.so.12", "libcublas.so.12"]
    found = [folder / name for folder in folders for name in names if (folder / name).exists()]
    try:
        for library in found or names:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise RushesError(
            f"the transcriber needs libcublas.so.12 on CUDA ({error}): install the gpu extra "
            "(uv pip install nvidia-cublas-cu12), or set RUSHES_TRANSCRIBER_DEVICE=cpu"
        ) from error


def _language_message(choice: ModelChoice, language: str, known: Sequence[str]) -> str:
    knows = ", ".join(known) if len(known) < 5 else f"{len(known)} other languages"
    return (
        f"the transcriber {choice.weights} (profile {choice.profile}) does not know language {language!r}, "
        f"only {knows}: choose a multilingual model (RUSHES_TRANSCRIBER_PROFILE=quality or "
        "RUSHES_TRANSCRIBER_WEIGHTS), or ask for another language"
    )
