"""The engine of recordings: it hears what ingest stores, and every failure has its status."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.db.spaces import active_space
from cluster.errors import BadMediaError, FailureClass, MediaResourceError, MediaTimeoutError
from cluster.settings import load_settings
from serve.engines import audio
from serve.engines.audio import AudioEngine
from serve.engines.hearing import GoneError
from serve.errors import ApiError, DeadlineError, InvalidError, TooLargeError, UnavailableError
from serve.models import Heard, HearRequest
from tests.archive import run
from tests.audio_models import engine

WORDS = HearRequest(frozenset({"words"}))
TURNS = HearRequest(frozenset({"turns"}))
ALL = HearRequest(frozenset({"words", "turns", "voices"}))


def hear(path: Path, asked: HearRequest = ALL, **flags: Any) -> Heard:
    return asyncio.run(engine(**flags).hear(str(path), asked))


def refusal(path: Path, asked: HearRequest = ALL, **flags: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        hear(path, asked, **flags)
    assert str(path) not in caught.value.message
    return caught.value


def stored_segments(conn: Any, name: str) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT s.idx, s.start_ms, s.end_ms, s.local_speaker, s.text, s.words, s.text_skip_reason FROM segments s"
        " JOIN sources USING (asset_id) WHERE uri LIKE %s ORDER BY idx",
        (f"%/{name}",),
    ).fetchall()


def stored_voices(conn: Any, name: str) -> dict[int, tuple[int, int | None, Any]]:
    """Local speaker -> speech, clean speech, vector; of diarized assets and of those whose voices were grouped."""
    rows = conn.execute(
        "SELECT l.local_speaker, l.speech_ms, v.clean_ms, v.embedding FROM local_speakers l"
        " LEFT JOIN local_voices_1 v USING (asset_id, local_speaker) JOIN sources USING (asset_id) WHERE uri LIKE %s",
        (f"%/{name}",),
    ).fetchall()
    return {who: (speech, clean, vector) for who, speech, clean, vector in rows}


def as_stored(heard: Heard) -> list[tuple[Any, ...]]:
    return [
        (
            one["idx"], one["start_ms"], one["end_ms"], one["local_speaker"], one["text"],
            [[w["start_ms"], w["end_ms"], w["text"], round(w["probability"], 4)] for w in one["words"]],
            one["text_skip_reason"],
        )
        for one in heard.segments
    ]  # fmt: skip


def assert_same_voices(heard: Heard, stored: dict[int, tuple[int, int | None, Any]]) -> None:
    assert {one.local_speaker for one in heard.voices} == stored.keys()
    for one in heard.voices:
        speech_ms, clean_ms, vector = stored[one.local_speaker]
        assert (one.speech_ms, one.clean_ms) == (speech_ms, clean_ms or 0)
        assert (one.vector is None) == (vector is None)
        if one.vector is not None:
            assert one.vector.dtype == np.float32
            np.testing.assert_allclose(one.vector, vector.to_numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["call.wav", "2024-03-09 film.mp4", "silence.wav"])
def test_it_hears_what_ingest_stored(corpus: Any, media: Path, name: str) -> None:
    heard = hear(media / name)
    assert as_stored(heard) == stored_segments(corpus, name)
    assert_same_voices(heard, stored_voices(corpus, name))
    [(duration_ms,)] = corpus.execute(
        "SELECT duration_ms FROM assets JOIN sources USING (asset_id) WHERE uri LIKE %s", (f"%/{name}",)
    ).fetchall()
    assert heard.duration_ms == duration_ms
    assert bool(heard.voices) == (name != "silence.wav")


def test_it_groups_voices_as_ingest_does_where_nothing_is_diarized(db: Any, db_url: str, media: Path) -> None:
    flags = {"segment_source": "whisper"}
    assert run(db_url, [str(media / "call.wav")], flags=flags).ok == 1
    heard = hear(media / "call.wav", **flags)
    assert [row[:3] + row[4:] for row in as_stored(heard)] == [
        row[:3] + row[4:] for row in stored_segments(db, "call.wav")
    ]
    groups = db.execute(
        "SELECT idx, g.local_speaker FROM segment_groups g JOIN segments USING (segment_id) ORDER BY 1"
    ).fetchall()
    assert [(one["idx"], one["local_speaker"]) for one in heard.segments if one["local_speaker"] is not None] == groups
    assert_same_voices(heard, stored_voices(db, "call.wav"))
    assert [one["local_speaker"] for one in heard.turns] == [one["local_speaker"] for one in heard.segments]
    assert "diarizer" not in {card.role for card in engine(**flags).cards()}
    bounded = HearRequest(frozenset({"voices"}), num_speakers=2)
    assert refusal(media / "call.wav", bounded, **flags).param == "num_speakers"


def test_only_the_steps_that_were_asked_for_are_taken(media: Path) -> None:
    whole, words, turns = (hear(media / "call.wav", asked) for asked in (ALL, WORDS, TURNS))
    assert words.turns == [] == words.voices
    assert {one["local_speaker"] for one in words.segments} == {None}
    assert _words(words) == _words(whole)
    assert turns.turns == whole.turns != []
    assert (turns.segments, turns.language, turns.whole) == ([], None, None)
    assert whole.whole is not None
    assert np.linalg.norm(whole.whole) == pytest.approx(1, abs=1e-5)


def _words(heard: Heard) -> list[Any]:
    return sorted((word["start_ms"], word["text"]) for one in heard.segments for word in one["words"])


def test_a_request_chooses_the_number_of_speakers_for_itself_alone(media: Path) -> None:
    def people(**bounds: int) -> int:
        asked = HearRequest(frozenset({"turns"}), **bounds)
        return len({one["local_speaker"] for one in hear(media / "call.wav", asked).turns})

    usual = people()
    assert people(num_speakers=2) == 2
    assert people(max_speakers=1) == 1
    assert people() == usual


def test_what_is_no_recording_is_told_with_the_readers_words(media: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    (tmp_path / "empty.wav").write_bytes(b"")
    for path, words in (
        (media / "broken.mp4", "not readable"),
        (media / "notes.txt", "not readable"),
        (media / "mute.mp4", "this video"),
        (tmp_path / "picture.png", "this image"),
        (tmp_path / "empty.wav", "the file is empty"),
        (tmp_path, "a folder"),
    ):
        error = refusal(path)
        assert isinstance(error, InvalidError)
        assert error.param == "file"
        assert words in error.message


def test_a_language_the_model_does_not_know_is_refused_by_name(media: Path) -> None:
    error = refusal(media / "call.wav", HearRequest(frozenset({"words"}), language="de"))
    assert (error.status, error.param) == (422, "language")
    assert "'de'" in error.message


def test_a_long_recording_is_refused_with_the_numbers(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine()._settings.serve, "max_audio_s", 10.0)
    error = refusal(media / "call.wav", WORDS)
    assert isinstance(error, TooLargeError)
    assert "14.0 s" in error.message
    assert "10 s" in error.message


def test_voices_belong_to_the_space_of_the_corpus(corpus: Any) -> None:
    card = next(card for card in engine().cards() if card.role == "voice")
    space = active_space(corpus, "voice")
    assert space is not None
    [(name,)] = corpus.execute("SELECT config_hash FROM spaces WHERE space_id = %s", (space.space_id,)).fetchall()
    assert (card.space_name, card.dimension) == (name, space.dimension)


class FakeEar:
    """Hears nothing; `works` is the work on each recording, `fault` what a forward raises."""

    def __init__(self, *_: Any) -> None:
        self.works: Callable[[str, Callable[[], bool]], None] = lambda path, is_gone: None
        self.fault: Exception | None = None
        self.forwards = 0
        self.heard: list[str] = []

    def hear(self, path: str, asked: HearRequest, is_gone: Callable[[], bool]) -> Heard:
        self.heard.append(path)
        self.works(path, is_gone)
        return Heard(1)

    def forward(self) -> None:
        self.forwards += 1
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(audio, "Ear", FakeEar)
    made = AudioEngine(load_settings(None, serve={"audio_timeout_s": 0.05}))
    yield made
    made.close()


def test_a_cancelled_recording_is_dropped_before_its_turn_and_ended_between_stages(fake: Any) -> None:
    begun, told = threading.Event(), threading.Event()
    ended: list[str] = []

    def work(path: str, is_gone: Callable[[], bool]) -> None:
        begun.set()
        assert told.wait(5)
        if is_gone():
            ended.append(path)
            raise GoneError

    async def trial() -> None:
        fake._ear.works = work
        running, waiting = (asyncio.ensure_future(fake.hear(name, WORDS)) for name in ("running", "waiting"))
        await asyncio.to_thread(begun.wait, 5)
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        told.set()
        assert (await fake.hear("next", WORDS)).duration_ms == 1

    asyncio.run(trial())
    assert fake._ear.heard == ["running", "next"]
    assert ended == ["running"]


def test_a_fault_on_one_recording_leaves_the_others_alone(fake: Any) -> None:
    def fail(path: str, is_gone: Callable[[], bool]) -> None:
        if path == "bad":
            raise ApiError("a fault", code="internal")

    fake._ear.works = fail

    async def trial() -> None:
        with pytest.raises(ApiError, match="a fault"):
            await fake.hear("bad", WORDS)
        assert (await fake.hear("good", WORDS)).duration_ms == 1
        await fake.check()

    asyncio.run(trial())
    assert fake._ear.forwards == 1


def test_a_dead_device_is_said_to_every_request_and_to_the_check(fake: Any) -> None:
    def fail(path: str, is_gone: Callable[[], bool]) -> None:
        raise ApiError("a fault", code="internal")

    fake._ear.works, fake._ear.fault = fail, RuntimeError("CUDA error: device-side assert triggered")

    async def trial() -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="device-side assert"):
                await fake.hear("any", WORDS)
        with pytest.raises(UnavailableError, match="device-side assert"):
            await fake.check()

    asyncio.run(trial())
    assert fake._ear.heard == ["any"]


def test_the_check_runs_the_models_unless_they_just_worked(fake: Any) -> None:
    async def trial() -> None:
        await fake.check()
        await fake.check()
        assert fake._ear.forwards == 1
        fake._worked_s = float("-inf")
        fake._ear.fault = RuntimeError("no device")
        with pytest.raises(RuntimeError, match="no device"):
            await fake.check()

    asyncio.run(trial())


def test_the_check_trusts_a_recording_at_work_until_nobody_can_wait_for_it(fake: Any) -> None:
    begun, told = threading.Event(), threading.Event()

    def work(path: str, is_gone: Callable[[], bool]) -> None:
        begun.set()
        told.wait(5)

    async def trial() -> None:
        fake._ear.works = work
        task = asyncio.ensure_future(fake.hear("long", WORDS))
        await asyncio.to_thread(begun.wait, 5)
        fake._settings.serve.audio_timeout_s = 100.0
        await fake.check()
        fake._settings.serve.audio_timeout_s = 0.01
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError, match="worked on for"):
            await fake.check()
        told.set()
        await task
        await fake.check()

    asyncio.run(trial())
    assert fake._ear.forwards == 0


@pytest.mark.parametrize(
    ("raised", "kind", "status"),
    [
        (BadMediaError("cut off"), InvalidError, 422),
        (MediaResourceError("over 2 GiB"), TooLargeError, 413),
        (MediaTimeoutError("took too long"), DeadlineError, 504),
        (PermissionError(13, "denied"), UnavailableError, 503),
        (ValueError("secret of ours"), ApiError, 500),
    ],
)
def test_a_failure_of_the_reader_has_the_status_of_its_class(
    media: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[ApiError], status: int
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(engine()._ear._decode, "_decode", fail)
    error = refusal(media / "call.wav", WORDS)
    assert (type(error), error.status) == (kind, status)
    assert "secret" not in error.message
    assert (error.param == "file") == (status not in (500, 503))


def test_every_class_of_failure_has_an_answer() -> None:
    from serve.engines.hearing import _told

    for stage in ("decode", "transcribe"):
        assert {_told(failure, stage, "it failed", "/p").status for failure in FailureClass} >= {422, 500, 503, 504}
