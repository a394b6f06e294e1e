"""The models of sound in one process: transcriber, diarizer and voices, one recording at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from actors.lanes import space_identities
from cluster.db.spaces import space_name
from cluster.errors import first_line
from cluster.settings import Settings
from serve.engines.hearing import Ear, GoneError
from serve.errors import ApiError, UnavailableError
from serve.models import Heard, HearRequest, ModelCard, Role, Timing, model_id

# A forward that was this recent says that the models work.
FRESH_S = 30.0


class AudioEngine:
    """A `HearingEngine` over the stages of ingest, so that it hears what ingest would store.

    Recordings queue for one thread, in order; how many may wait is the caller's affair. A request that is cancelled
    before its turn is dropped; one that runs ends before its next stage, for a stage cannot be stopped in its middle.
    """

    role: Role = "audio"

    def __init__(self, settings: Settings, threads: int = 1, torch_threads: int = 1) -> None:
        """`threads` go to the recogniser, see `actors.lanes.speech_chain`; nothing is loaded yet."""
        self._settings = settings
        self._ear = Ear(settings, threads, torch_threads)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audio")
        self._worked_s = float("-inf")
        self._began_s: float | None = None
        self._dead: str | None = None

    def cards(self) -> Sequence[ModelCard]:
        """Transcriber, diarizer (where segments follow one) and voice."""
        roles = ["transcriber", *(["diarizer"] if self._settings.segment_source == "diarization" else [])]
        choices = [self._settings.model_choice(role) for role in roles]
        plain = [ModelCard(model_id(one), one.role, one.engine, one.weights) for one in choices]
        voice, identity = space_identities(self._settings, ("voice",))["voice"]
        name = space_name("voice", voice, identity)
        return [
            *plain,
            ModelCard(model_id(voice), "voice", voice.engine, voice.weights, voice.dimension, space_name=name),
        ]

    def load(self) -> None:
        """Bring every model into memory, in the thread that will use them."""
        self._thread.submit(self._ear.load).result()

    async def check(self) -> None:
        """A second of noise through every model, unless one of them worked just now or works.

        Raises `UnavailableError` for a dead device, and for a recording that nobody can be waiting for any more.
        """
        self._require_alive()
        if self._began_s is not None:
            ran_s, limit_s = time.monotonic() - self._began_s, self._settings.serve.audio_timeout_s
            if ran_s > limit_s:
                raise UnavailableError(f"a recording has been worked on for {ran_s:.0f} s, {limit_s:g} s are allowed")
            return
        if time.monotonic() - self._worked_s > FRESH_S:
            await asyncio.wrap_future(self._thread.submit(self._forward))

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        """What is heard in the media file at `path`, which stays until this returns.

        Raises `InvalidError` for a file that is no sound and for a language the model does not know, `TooLargeError`
        for one that is too long or needs too much memory, `DeadlineError` for one whose reader takes too long,
        `UnavailableError` for a device that is dead or full, `ApiError` for a fault of ours.
        """
        self._require_alive()
        gone, asked_s = threading.Event(), time.perf_counter()
        try:
            return await asyncio.wrap_future(self._thread.submit(self._hear, path, asked, gone, asked_s))
        except asyncio.CancelledError:
            gone.set()
            raise

    def close(self) -> None:
        """Let go of the models once the recording in hand is done with; what waits is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._ear.close()

    def _hear(self, path: str, asked: HearRequest, gone: threading.Event, asked_s: float) -> Heard:
        began_s, self._began_s = time.perf_counter(), time.monotonic()
        try:
            self._require_alive()
            heard = self._ear.hear(path, asked, gone.is_set)
            self._worked_s = time.monotonic()
            return replace(heard, timing=Timing(began_s - asked_s, time.perf_counter() - began_s))
        except GoneError:
            return Heard(0)
        except ApiError as error:
            # Every class of failure but a fault of ours has a status of its own.
            if error.status == 500:
                self._look_after(error)
            raise
        finally:
            self._began_s = None

    def _look_after(self, error: ApiError) -> None:
        """A fault may be this recording's alone, or the device's: a forward of something else tells."""
        try:
            self._forward()
        except Exception as fault:  # noqa: BLE001 - whatever it is, the models do not work
            self._dead = f"the device of the audio models is dead: {first_line(fault)}"
            raise UnavailableError(self._dead) from error

    def _forward(self) -> None:
        self._ear.forward()
        self._worked_s = time.monotonic()

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise UnavailableError(self._dead)
