"""How fast a role's model is on this device, and what shows that the device was used.

The real stages run over a small bundled sample, repeated until one measurement takes a few seconds. Loading
and the first call stand apart; the rate is the median of three measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.device import Meter, Placement, Use, cpu_name, device_used_gib, gpu_name, placement
from actors.images import Images
from actors.speech_activity import SpeechActivity
from actors.texts import Texts
from actors.transcribe import Transcribe
from actors.voices import Voices
from cluster.errors import RushesError, UsageError
from cluster.image_model import pixel_spec
from cluster.media.child import MediaChild
from cluster.media.pictures import PictureSpec
from cluster.profiles import ModelChoice
from cluster.settings import Settings
from cluster.types import SAMPLE_RATE_HZ, audio_array, rows_table, with_column
from jobs.demo import call_path, film_path
from jobs.runners import this_node

ROLES = {"text": "text", "voice": "voice", "asr": "transcriber", "image": "image"}
REPEATS = 3
TARGET_S = 3.0
MOST_TIMES = 512
DECODE_DEADLINE_S = 60.0

Amounts = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """`run(times)` works through the sample that many times; `amounts` is what one time holds.

    What comes back is no tensor of a device, so that the device has finished when it returns.
    """

    run: Callable[[int], Any]
    amounts: Amounts
    sample: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates per wall second by unit, one for each measurement; times in s, memory in GiB."""

    choice: ModelChoice
    threads: int
    gpu: str | None
    cpu: str
    load_s: float
    warm_up_s: float
    times: int
    sample: str
    rates: dict[str, list[float]]
    placed: Placement
    uses: list[Use]

    def median_rates(self) -> dict[str, float]:
        """Unit -> the median of its measurements."""
        return {unit: median(values) for unit, values in self.rates.items()}

    def refusal(self) -> str | None:
        """Why this is no measurement of the device that the profile asks for; None when it is one."""
        asked = self.choice.device
        if asked == "auto":
            asked = "cuda" if self.gpu is not None else "cpu"
        if self.placed.device == asked and self.placed.share == 1.0:
            return None
        return (
            f"profile {self.choice.profile!r} asks for {self.choice.device}, but {self.placed.share:.0%} of the "
            f"{self.choice.role} model ran on {self.placed.device}: run `rushes doctor`"
        )


def bench(settings: Settings, what: str) -> Speed:
    """Measure `text`, `voice`, `asr` or `image`; `RushesError` when the model does not load on its device."""
    if what not in ROLES:
        raise UsageError(f"nothing to measure under {what!r}: choose from {', '.join(ROLES)}")
    choice, threads = settings.model_choice(ROLES[what]), this_node(settings).cpus
    idle_gib = device_used_gib()
    stage = _stage(what, choice, settings, threads)
    try:
        load_s = _loaded(stage, choice)
        work = _work(what, stage, settings)
        warm_up_s = _timed(lambda: work.run(1))
        times = max(1, min(MOST_TIMES, round(TARGET_S / max(_timed(lambda: work.run(1)), 1e-6))))
        uses = [_measured(work, times, idle_gib) for _ in range(REPEATS)]
        rates = {unit: [times * amount / use.wall_s for use in uses] for unit, amount in work.amounts.items()}
        return Speed(
            choice=choice,
            threads=threads,
            gpu=gpu_name(),
            cpu=cpu_name(),
            load_s=load_s,
            warm_up_s=warm_up_s,
            times=times,
            sample=work.sample,
            rates=rates,
            placed=placement(stage),
            uses=uses,
        )
    finally:
        stage.close()


def _stage(what: str, choice: ModelChoice, settings: Settings, threads: int) -> Any:
    if what == "text":
        return Texts(choice, threads=threads)
    if what == "voice":
        return Voices(choice, threads=threads)
    if what == "image":
        return Images(choice, threads=threads)
    return Transcribe(choice, settings.language, threads=threads)


def _loaded(stage: Any, choice: ModelChoice) -> float:
    try:
        return _timed(stage.load)
    except RushesError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RushesError(
            f"the {choice.role} model {choice.weights} does not load on {choice.device} ({first}): "
            f"run `rushes doctor`, or set RUSHES_{choice.role.upper()}_DEVICE=cpu"
        ) from error


def _work(what: str, stage: Any, settings: Settings) -> Work:
    if what == "text":
        return _texts(stage)
    if what == "image":
        return _pictures(stage, settings)
    sound = _call(settings)
    activity = SpeechActivity()
    activity.load()
    regions = activity.regions(sound)
    return _voices(stage, sound, regions) if what == "voice" else _speech(stage, sound, regions)


def _texts(stage: Texts) -> Work:
    texts = (Path(__file__).parent / "bench_sentences.txt").read_text("utf-8").splitlines()
    words = sum(len(text.split()) for text in texts) / len(texts)
    amounts = {"texts": len(texts)}
    return Work(lambda times: stage.embed_documents(texts * times), amounts, f"texts of {words:.0f} words")


def _pictures(stage: Images, settings: Settings) -> Work:
    size, child = stage.choice.image_size, MediaChild(settings.decode_memory_bytes)
    try:
        film = child.pictures(film_path(), "video", PictureSpec(pixels=pixel_spec(stage.choice)), DECODE_DEADLINE_S)
    finally:
        child.close()
    rgb = film.table.column("pixels")[0].values.field("rgb").to_pylist()
    pictures = [np.frombuffer(picture, np.uint8).reshape(size, size, 3) for picture in rgb]
    amounts = {"pictures": len(pictures)}
    return Work(lambda times: stage.embed_pictures(pictures * times), amounts, f"keyframes of {size} x {size} pixels")


def _voices(stage: Voices, sound: NDArray[np.int16], regions: Sequence[Mapping[str, int]]) -> Work:
    at = SAMPLE_RATE_HZ // 1000
    pieces = [sound[region["start_ms"] * at : region["end_ms"] * at] for region in regions]
    speech_s = sum(len(piece) for piece in pieces) / SAMPLE_RATE_HZ
    amounts = {"segments": len(pieces), "speech seconds": speech_s}
    sample = f"segments of {speech_s / len(pieces):.1f} s"
    return Work(lambda times: stage.embed_waveforms(pieces * times), amounts, sample)


def _speech(stage: Transcribe, sound: NDArray[np.int16], regions: Sequence[Mapping[str, int]]) -> Work:
    length_ms = len(sound) * 1000 // SAMPLE_RATE_HZ

    def run(times: int) -> None:
        # One recording, so that its windows fill the batches as those of a long one do.
        speech = [
            {name: value + time_ * length_ms for name, value in region.items()}
            for time_ in range(times)
            for region in regions
        ]
        table = rows_table([{"asset_id": 1, "lanes": ["speech"]}])
        table = with_column(table, "audio", audio_array([np.tile(sound, times)]))
        stage.process(with_column(table, "speech", [speech]))

    amounts = {"media seconds": len(sound) / SAMPLE_RATE_HZ}
    return Work(run, amounts, f"a telephone call of {length_ms / 1000:.0f} s, repeated")


def _call(settings: Settings) -> NDArray[np.int16]:
    child = MediaChild(settings.decode_memory_bytes)
    try:
        return child.decode(call_path(), 0, DECODE_DEADLINE_S).samples
    finally:
        child.close()


def _measured(work: Work, times: int, idle_gib: float | None) -> Use:
    with Meter(idle_gib) as meter:
        work.run(times)
    return meter.use


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
