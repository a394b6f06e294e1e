"""Hearing one recording: the stages that ingest runs, over one row that no corpus knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.decode import Decode
from actors.diarize import Diarize
from actors.lanes import speech_chain
from actors.segments import Segments
from actors.texts import Texts
from actors.transcribe import Transcribe
from actors.voices import Voices
from cluster.errors import FailureClass, StageError, classify, first_line, os_reason
from cluster.media.probe import Probe
from cluster.settings import Settings
from cluster.speakers.local_voices import Span, group_inside, local_voices
from cluster.speakers.thresholds import shipped_thresholds
from cluster.stage import Stage, load_stages, run_stage
from cluster.types import SAMPLE_RATE_HZ, audio_array, errors_of, rows_table, waveform, with_column
from serve.errors import ApiError, DeadlineError, InvalidError, TooLargeError, UnavailableError
from serve.models import Heard, HeardVoice, HearRequest

PROBE_DEADLINE_S = 60.0
LANES = ("speech", "voices")

S = TypeVar("S")


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Ear:
    """The speech chain, resident, for one recording at a time; every call blocks, and one thread makes them all."""

    def __init__(self, settings: Settings, threads: int = 1, torch_threads: int = 1) -> None:
        chain = speech_chain(settings, threads=threads, torch_threads=torch_threads)
        self._settings = settings
        self._chain = [stage for stage in chain if not isinstance(stage, Texts)]
        self._words_alone = Segments("whisper")
        self._decode = _only(self._chain, Decode)
        self._transcribe = _only(self._chain, Transcribe)
        self._voices = _only(self._chain, Voices)
        self._diarize = next((stage for stage in self._chain if isinstance(stage, Diarize)), None)

    def load(self) -> None:
        """Bring every model into memory."""
        load_stages(self._chain)

    def close(self) -> None:
        """Let go of the models and the media child."""
        for stage in self._chain:
            stage.close()

    def forward(self) -> None:
        """A second of noise through every model; raises what they raise."""
        noise = np.random.default_rng(0).integers(-3_000, 3_000, SAMPLE_RATE_HZ).astype(np.int16)
        table = with_column(rows_table([{"asset_id": 0, "lanes": LANES}]), "audio", audio_array([noise]))
        table = with_column(table, "speech", [[{"start_ms": 0, "end_ms": 1000}]])
        for stage in (self._transcribe, self._diarize):
            if stage is not None:
                stage.process(table)
        self._voices.embed_waveforms([noise])

    def hear(self, path: str, asked: HearRequest, is_gone: Callable[[], bool]) -> Heard:
        """What is asked of the media file at `path`.

        `is_gone` is asked before each stage; `GoneError` once it says so. Other errors are `ApiError`, with param
        `file` where the file is to blame.
        """
        self._tune(asked)
        probe = self._probed(path)
        table, turns, duration_ms = self._row(path, probe), None, probe.duration_ms or 0
        for stage in self._stages(asked):
            if is_gone():
                raise GoneError
            table = run_stage(stage, table)
            _require_sound(table, path)
            if stage is self._decode:
                decoded_ms = len(waveform(table, 0)) * 1000 // SAMPLE_RATE_HZ
                self._check_length(decoded_ms)
                duration_ms = duration_ms or decoded_ms
            elif stage is self._diarize:
                turns = table.column("turns")[0].as_py()
        return self._heard(table, turns, duration_ms)

    def _tune(self, asked: HearRequest) -> None:
        """Set what a request may choose; the models stay as they are."""
        known = self._transcribe.languages
        if asked.language is not None and asked.language not in known:
            told = ", ".join(known) if len(known) < 5 else f"{len(known)} others"
            raise InvalidError(
                f"the transcriber does not know the language {asked.language!r}, only {told}: give a code as `en`",
                param="language",
            )
        self._transcribe.language = asked.language or self._settings.language
        low, high = asked.num_speakers or asked.min_speakers, asked.num_speakers or asked.max_speakers
        if self._diarize is None:
            if low or high:
                raise InvalidError("this service has no diarizer, so speakers cannot be bounded", param="num_speakers")
            return
        bounds = (low, high) if low or high else self._settings.speaker_bounds()
        self._diarize.min_speakers, self._diarize.max_speakers = bounds

    def _stages(self, asked: HearRequest) -> list[Stage]:
        """The stages in order. Vectors are of segments, which words and turns make together."""
        if "voices" in asked.steps or (self._diarize is None and "turns" in asked.steps):
            return self._chain
        if asked.steps == {"words"}:
            return [*(one for one in self._chain if one.name in ("decode", "speech_activity", "transcribe")),
                    self._words_alone]  # fmt: skip
        left_out = ("voices",) if "words" in asked.steps else ("transcribe", "segments", "voices")
        return [one for one in self._chain if one.name not in left_out]

    def _probed(self, path: str) -> Probe:
        try:
            probe = self._decode.child.probe(path, PROBE_DEADLINE_S)
        except (OSError, StageError) as error:
            said = os_reason(error) if isinstance(error, OSError) else str(error)
            raise _told(classify(error), "probe", said, path) from error
        if probe.audio_stream is None:
            raise InvalidError(f"file: this {probe.kind} ({probe.container}) has no sound", param="file")
        self._check_length(probe.duration_ms or 0)
        return probe

    def _check_length(self, duration_ms: int) -> None:
        most_s = self._settings.serve.max_audio_s
        if duration_ms > most_s * 1000:
            raise TooLargeError(
                f"file: the recording lasts {duration_ms / 1000:.1f} s, {most_s:g} s are taken: send it in pieces",
                param="file",
            )

    def _row(self, path: str, probe: Probe) -> pa.Table:
        """A row as of a registered file: with the stamp that was probed, nothing is hashed."""
        row = {
            "asset_id": 0, "sha256": "", "uri": path, "byte_size": probe.stamp.byte_size,
            "mtime_ns": probe.stamp.mtime_ns, "media_kind": probe.kind, "audio_stream": probe.audio_stream,
            "duration_ms": probe.duration_ms, "root": "speech", "lanes": LANES,
        }  # fmt: skip
        return rows_table([row])

    def _heard(self, table: pa.Table, turns: list[dict[str, Any]] | None, duration_ms: int) -> Heard:
        row = {name: table.column(name)[0].as_py() for name in ("transcript", "segments", "voices")
               if name in table.column_names}  # fmt: skip
        segments, voices = row.get("segments") or [], row.get("voices")
        vectors = {i: np.asarray(one["vector"], np.float32) for i, one in enumerate(voices or ()) if one["vector"]}
        if self._diarize is None and voices is not None:
            segments = self._grouped(segments, vectors)
            turns = [{name: one[name] for name in ("start_ms", "end_ms", "local_speaker")} for one in segments]
        transcript = row.get("transcript") or {}
        spans = _spans(segments)
        alone = local_voices([Span(span.start_ms, span.end_ms, 0) for span in spans], vectors)
        return Heard(
            duration_ms,
            transcript.get("language"),
            transcript.get("language_probability"),
            segments,
            turns or [],
            _people(spans, vectors) if voices is not None else [],
            alone[0].vector if alone else None,
        )

    def _grouped(self, segments: list[dict[str, Any]], vectors: Mapping[int, NDArray[np.float32]]) -> list[Any]:
        """The segments of a recording that was not diarized, with the group of each voice."""
        if not vectors:
            return segments
        order = sorted(vectors)
        lengths_ms = [segments[i]["end_ms"] - segments[i]["start_ms"] for i in order]
        inside = shipped_thresholds(self._voices.choice.engine).inside
        labels = dict(zip(order, group_inside(np.stack([vectors[i] for i in order]), lengths_ms, inside), strict=True))
        return [{**one, "local_speaker": labels.get(i)} for i, one in enumerate(segments)]


def _only(chain: Iterable[Stage], kind: type[S]) -> S:
    return next(stage for stage in chain if isinstance(stage, kind))


def _spans(segments: Sequence[Mapping[str, Any]]) -> list[Span]:
    return [Span(one["start_ms"], one["end_ms"], one["local_speaker"]) for one in segments]


def _people(spans: Sequence[Span], vectors: Mapping[int, NDArray[np.float32]]) -> list[HeardVoice]:
    speech_ms: dict[int, int] = {}
    for span in spans:
        if span.local_speaker is not None:
            speech_ms[span.local_speaker] = speech_ms.get(span.local_speaker, 0) + span.length_ms
    known = {one.local_speaker: one for one in local_voices(spans, vectors)}
    return [
        HeardVoice(who, known[who].vector if who in known else None, ms, known[who].clean_ms if who in known else 0)
        for who, ms in sorted(speech_ms.items())
    ]


def _require_sound(table: pa.Table, path: str) -> None:
    for error in errors_of(table.column("error")[0].as_py()):
        raise _told(FailureClass(error["failure"]), error["stage"], error["message"], path)


def _told(failure: FailureClass, stage: str, said: str, path: str) -> ApiError:
    """The failure of a row as an answer; the path is ours and stays here."""
    words = first_line(said).replace(path, "the file")
    if failure in (FailureClass.BAD_MEDIA, FailureClass.CRASH):
        return InvalidError(f"file: {words}", param="file")
    if failure is FailureClass.RESOURCE and stage in ("probe", "decode"):
        return TooLargeError(f"file: {words}", param="file")
    if failure is FailureClass.TIMEOUT:
        return DeadlineError(f"file: {words}", param="file")
    if failure is FailureClass.BUG:
        return ApiError(f"the service failed in {stage} on this recording; its log says why", code="internal")
    return UnavailableError(f"{stage} cannot run now: {words}")
