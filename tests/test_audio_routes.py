"""The routes of audio, with the real small models: OpenAI's shapes, names out of the corpus, bad uploads."""

from __future__ import annotations

import asyncio
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from cluster.db.connect import open_connection
from cluster.db.local_voices import read_local_voice
from cluster.db.patience import DatabaseAwayError
from cluster.db.spaces import activate_if_complete
from cluster.db.speakers.actions import label
from cluster.db.speakers.events import Target
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.db.transcripts import Named, transcript_of
from cluster.formats import to_srt, to_vtt
from cluster.formats.rttm import parse_rttm
from serve.errors import BusyError
from serve.models import Heard, HeardVoice
from serve.names import names_in, names_of
from serve.transcripts import DiarizedTranscription, VerboseTranscription
from serve.voices import Diarization, VoiceVectors
from tests.api_client import Api, api_over
from tests.audio_models import HearingModels
from tests.corpus_rows import make_spaces
from tests.fake_models import heard_voice
from tests.people import DIMENSION, archive, at, everything, voice_of

TRANSCRIPTIONS, DIARIZATION, VOICES = (f"/v1/audio/{name}" for name in ("transcriptions", "diarization", "embeddings"))


@pytest.fixture
def api(corpus_url: str) -> Iterator[Api]:
    """Over the ingested archive."""
    with api_over(corpus_url, HearingModels()) as found:
        yield found


@pytest.fixture
def fakes(db_url: str) -> Iterator[Api]:
    """Over an empty corpus, with models that hear nothing."""
    with api_over(db_url) as found:
        yield found


def send(api: Api, path: str, content: bytes | Path, name: str = "call.wav", **fields: Any) -> Any:
    body = content.read_bytes() if isinstance(content, Path) else content
    model = {TRANSCRIPTIONS: "whisper-1", DIARIZATION: "diarizer", VOICES: "voice"}[path]
    return api.client.post(path, data={"model": model, **fields}, files={"file": (name, body)})


def one_wav() -> bytes:
    return b"RIFF anything: fake models do not look"


def stored_text(url: str, name: str = "call.wav") -> list[tuple[Any, ...]]:
    with open_connection(url) as conn:
        return conn.execute(
            "SELECT local_speaker, start_ms, end_ms, text, asset_id FROM segments JOIN sources USING (asset_id)"
            " WHERE uri LIKE %s AND text <> '' ORDER BY idx",
            (f"%/{name}",),
        ).fetchall()


def named_call(url: str) -> str:
    """The local speaker 0 of the call gets a name; others do not."""
    segment = next(row for row in stored_text(url) if row[0] == 0)
    with open_connection(url) as conn:
        label(conn, "Diane", [Target(segment[4], segment[1], segment[2])], "me")
    return "Diane"


def test_the_openai_client_works_unchanged(api: Api, media: Path) -> None:
    key = api.headers("read")["authorization"].removeprefix("Bearer ")
    client = openai.OpenAI(api_key=key, base_url="http://127.0.0.1/v1", http_client=api.client, max_retries=0)
    stored = stored_text(api.url)
    spoken = " ".join(row[3] for row in stored)

    def ask(**options: Any) -> Any:
        with (media / "call.wav").open("rb") as file:
            return client.audio.transcriptions.create(file=file, model="whisper-1", **options)

    plain = ask(language="en", temperature=0)
    assert sorted(plain.text.split()) == sorted(spoken.split())
    assert plain.usage.seconds == 14.0
    assert ask(response_format="text").split() == plain.text.split()
    verbose = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (verbose.language, verbose.duration, verbose.text) == ("en", 14.0, plain.text)
    assert [word.word for word in verbose.words] == plain.text.split()
    assert all(0 <= word.start <= word.end <= 14 for word in verbose.words)
    assert " ".join(one.text for one in verbose.segments) == plain.text
    assert all(one.avg_logprob < 0 < one.compression_ratio for one in verbose.segments)
    assert ask(response_format="verbose_json").words is None
    diarized = ask(response_format="diarized_json", chunking_strategy="auto")
    assert [(one.start, one.end, one.text) for one in diarized.segments] == [
        (start / 1000, end / 1000, text) for _, start, end, text, _ in stored
    ]
    assert {one.speaker for one in diarized.segments} <= {"A", "B", "UNKNOWN"}
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(prompt="Names: Diane, Sheila")
    assert caught.value.body["param"] == "prompt"


def test_subtitles_are_those_of_the_stored_transcript(api: Api, media: Path) -> None:
    person = named_call(api.url)
    with open_connection(api.url) as conn:
        named = Named(stored_text(api.url)[0][4], "", "call", 14_000)
        stored = transcript_of(conn, named)
    for kind, write in (("srt", to_srt), ("vtt", to_vtt)):
        answer = send(api, TRANSCRIPTIONS, media / "call.wav", response_format=kind)
        assert answer.text == write(stored)
        assert person in answer.text
    assert answer.headers["content-type"].startswith("text/vtt")
    assert "model;dur=" in answer.headers["server-timing"]


def test_names_come_from_the_corpus_and_go_to_one_voice_each(api: Api, media: Path) -> None:
    unnamed = send(api, TRANSCRIPTIONS, media / "call.wav", response_format="diarized_json").json()
    assert "nobody in the corpus" in unnamed["note"]
    person = named_call(api.url)
    answer = send(api, TRANSCRIPTIONS, media / "call.wav", response_format="diarized_json").json()
    DiarizedTranscription.model_validate(answer)
    assert answer["note"] is None
    hers = [one for one in answer["segments"] if one["speaker"] == person]
    assert [one["start"] * 1000 for one in hers] == [row[1] for row in stored_text(api.url) if row[0] == 0]
    assert [one["score"] for one in hers] == [pytest.approx(1.0, abs=1e-3)] * len(hers)
    assert len({one["speaker_id"] for one in hers}) == 1
    diarized = send(api, DIARIZATION, media / "call.wav").json()
    Diarization.model_validate(diarized)
    assert [one["speaker"] for one in diarized["speakers"]].count(person) == 1
    quick = send(api, DIARIZATION, media / "call.wav", names="false").json()
    assert [(one["start"], one["end"]) for one in quick["turns"]] == [
        (one["start"], one["end"]) for one in diarized["turns"]
    ]
    assert person not in {one["speaker"] for one in quick["turns"]}


def test_the_answer_says_when_the_corpus_has_no_voices_of_the_model(db_url: str, media: Path) -> None:
    with api_over(db_url, HearingModels()) as api:
        answer = send(api, TRANSCRIPTIONS, media / "call.wav", response_format="diarized_json").json()
        assert answer["segments"]
        assert "no voices of the model" in answer["note"]


def test_recognition_of_an_upload_is_that_of_an_asset(db: Any) -> None:
    ids = archive(db, {"a": ["ann"], "b": ["bob"], "twins": ["ann", "bob"], "new": ["ann", "ann again", "carl", "bob"]})
    for name in ("a", "b"):
        label(db, {"a": "Ann", "b": "Bob"}[name], [at(db, ids[name], 0)], "me")
    space = make_spaces(db, DIMENSION)["voice"]
    activate_if_complete(db, space)
    found = [read_local_voice(db, space, ids["new"], number) for number in range(4)]
    voices = [HeardVoice(number, one.vector, 3_000, 3_000) for number, one in enumerate(found) if one is not None]
    # a second voice that sounds like the first: one name for both would be wrong
    voices[1] = HeardVoice(1, voice_of("ann", 77), 3_000, 3_000)
    assert [names_of(db, space, [one])[one.local_speaker].name for one in voices[:2]] == ["Ann", "Ann"]
    before = everything(db)
    recognised = names_of(db, space, voices)
    assert everything(db) == before
    best = max((0, 1), key=lambda number: recognised[number].score if number in recognised else -1)
    assert {number: one.name for number, one in recognised.items()} == {best: "Ann", 3: "Bob"}
    identify(db, space, IdentifyOptions([ids["new"]]), None)
    stored = dict(
        db.execute(
            "SELECT local_speaker, score FROM local_speakers WHERE asset_id = %s AND speaker_id IS NOT NULL",
            (ids["new"],),
        ).fetchall()
    )
    assert recognised[3].score == pytest.approx(stored[3], abs=1e-5)
    assert 2 not in recognised.keys() | stored.keys()


def test_voice_vectors_are_those_of_the_corpus(api: Api, media: Path) -> None:
    with open_connection(api.url) as conn:
        rows = conn.execute(
            "SELECT local_speaker, embedding FROM local_voices_1 JOIN sources USING (asset_id)"
            " WHERE uri LIKE '%/call.wav' ORDER BY 1"
        ).fetchall()
    answer = send(api, VOICES, media / "call.wav", per="speaker").json()
    VoiceVectors.model_validate(answer)
    assert [one["speaker"] for one in answer["data"]] == ["AB"[number] for number, _ in rows]
    for one, (_, vector) in zip(answer["data"], rows, strict=True):
        np.testing.assert_allclose(one["embedding"], vector.to_numpy(), atol=1e-4)
    whole = send(api, VOICES, media / "call.wav").json()["data"]
    coded = send(api, VOICES, media / "call.wav", encoding_format="base64").json()["data"]
    assert len(whole) == len(coded) == 1
    decoded = np.frombuffer(b64decode(coded[0]["embedding"]), "<f4")
    np.testing.assert_array_equal(decoded, np.asarray(whole[0]["embedding"], np.float32))
    silent = send(api, VOICES, media / "silence.wav")
    assert (silent.status_code, silent.json()["error"]["param"]) == (422, "file")


def test_rttm_is_read_back_as_the_same_turns(api: Api, media: Path) -> None:
    told = send(api, DIARIZATION, media / "call.wav", name="my call.wav", response_format="rttm").text
    turns = send(api, DIARIZATION, media / "call.wav").json()["turns"]
    read = parse_rttm(told.splitlines(), "it").turns["my_call"]
    assert [(one.start_ms, one.end_ms, one.speaker) for one in read] == [
        (round(one["start"] * 1000), round(one["end"] * 1000), one["speaker"]) for one in turns
    ]


def test_silence_is_a_transcript_without_words(api: Api, media: Path) -> None:
    verbose = send(api, TRANSCRIPTIONS, media / "silence.wav", response_format="verbose_json").json()
    VerboseTranscription.model_validate(verbose)
    assert (verbose["text"], verbose["segments"], verbose["duration"]) == ("", [], 3.0)
    assert send(api, TRANSCRIPTIONS, media / "silence.wav", response_format="srt").text == ""
    assert send(api, DIARIZATION, media / "silence.wav").json()["turns"] == []


def test_media_that_is_no_sound_is_refused_and_nothing_stays(api: Api, media: Path, tmp_path: Path) -> None:
    for name, words in (("broken.mp4", "not readable"), ("mute.mp4", "no sound"), ("notes.txt", "not readable")):
        answer = send(api, TRANSCRIPTIONS, media / name, name="call.wav")
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (422, "file")
        assert words in error["message"]
        assert tempfile.gettempdir() not in answer.text
    used = [Path(call[1][0]) for call in api.models.calls]
    assert len(used) == 3
    assert not any(path.exists() for path in used)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"model": "fake-text"}, 422, "model"),
        ({"language": "english"}, 422, "language"),
        ({"temperature": "0.5"}, 422, "temperature"),
        ({"temperature": "nan"}, 422, "temperature"),
        ({"stream": "true"}, 422, "stream"),
        ({"prompt": "Names: Diane"}, 422, "prompt"),
        ({"include[]": ["logprobs"]}, 422, "include[]"),
        ({"known_speaker_names[]": ["Ann"]}, 422, "known_speaker_names[]"),
        ({"response_format": "docx"}, 422, "response_format"),
        ({"timestamp_granularities[]": ["word"]}, 422, "timestamp_granularities[]"),
        ({"num_speakers": "0"}, 422, "num_speakers"),
        ({"num_speakers": "2", "max_speakers": "3"}, 422, "num_speakers"),
        ({"min_speakers": "4", "max_speakers": "3"}, 422, "min_speakers"),
        ({"volume": "11"}, 422, "volume"),
        ({"language": ["en", "de"]}, 422, "language"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(fakes: Api, fields: dict[str, Any], status: int, param: str) -> None:
    answer = send(fakes, TRANSCRIPTIONS, one_wav(), **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert fakes.models.calls == []


def test_an_upload_is_one_file_that_is_not_empty(fakes: Api) -> None:
    empty = send(fakes, TRANSCRIPTIONS, b"")
    assert (empty.status_code, empty.json()["error"]["param"]) == (422, "file")
    two = fakes.client.post(TRANSCRIPTIONS, data={"model": "whisper-1"}, files=[("file", b"a"), ("file", b"b")])
    assert (two.status_code, two.json()["error"]["param"]) == (422, "file")
    many = fakes.client.post(TRANSCRIPTIONS, data={"model": "whisper-1"}, files=[("file", b"a")] * 3)
    assert many.status_code == 400, many.text
    none = fakes.client.post(TRANSCRIPTIONS, data={"model": "whisper-1", "file": "/etc/passwd"})
    assert (none.status_code, none.json()["error"]["param"]) == (422, "file")
    json = fakes.client.post(TRANSCRIPTIONS, json={"model": "whisper-1", "file": "/etc/passwd"})
    assert (json.status_code, json.json()["error"]["param"]) == (422, "file")
    broken = fakes.client.post(
        TRANSCRIPTIONS, content=b"zz", headers={"content-type": "multipart/form-data; boundary=a"}
    )
    assert broken.status_code == 400
    assert fakes.models.calls == []


def test_a_name_of_the_client_is_no_path(fakes: Api) -> None:
    fakes.models.heard = Heard(1_000, turns=[{"start_ms": 0, "end_ms": 500, "local_speaker": 0}])
    for name, written in (
        ("../../etc/passwd", "passwd"), ("C:\\temp\\a b.wav", "a_b"), ("..", "recording"), ("x y\u202ez.mp3", "x_y_z"),
    ):  # fmt: skip
        told = send(fakes, DIARIZATION, one_wav(), name=name, names="false", response_format="rttm")
        assert told.text.split()[1] == written, (name, told.text)
        used = fakes.models.calls[-1][1][0]
        assert Path(used).parent == Path(tempfile.gettempdir())
        assert written not in used


def test_an_upload_over_the_limit_is_refused(db_url: str) -> None:
    with api_over(db_url, serve={"max_audio_bytes": 4096}) as api:
        answer = send(api, TRANSCRIPTIONS, bytes(8192))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert send(api, TRANSCRIPTIONS, bytes(1024)).status_code == 200


def test_full_models_and_a_corpus_that_is_away_are_told(fakes: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> Any:
        raise BusyError("4 recordings are being heard", retry_after_s=10)

    async def away(*_: Any) -> Any:
        raise DatabaseAwayError("gone")

    monkeypatch.setattr(fakes.service.corpus, "check", away)
    answer = send(fakes, TRANSCRIPTIONS, one_wav(), response_format="diarized_json")
    assert answer.status_code == 503
    # told before the work, not after it
    assert fakes.models.calls == []
    assert send(fakes, TRANSCRIPTIONS, one_wav()).status_code == 200
    monkeypatch.setattr(fakes.models, "hear", full)
    answer = send(fakes, TRANSCRIPTIONS, one_wav())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


def test_a_client_that_hangs_up_takes_its_upload_with_it(fakes: Api) -> None:
    body = (
        b'--a\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--a\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n--a--\r\n'
    )
    paths: list[Path] = []
    sent: list[Any] = []

    async def trial() -> None:
        hearing = asyncio.Event()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def hear(path: str, _: Any) -> Any:
            paths.append(Path(path))
            assert paths[0].read_bytes() == b"sound"
            hearing.set()
            await asyncio.sleep(30)

        async def receive() -> Any:
            for message in messages:
                return message
            await hearing.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        fakes.models.hear = hear
        headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=a")]
        scope = {
            "type": "http", "method": "POST", "path": TRANSCRIPTIONS, "raw_path": TRANSCRIPTIONS.encode(),
            "query_string": b"", "headers": headers, "scheme": "http", "server": ("localhost", 80),
            "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(fakes.client.app(scope, receive, send), 10)

    asyncio.run(trial())
    assert sent == []
    assert not paths[0].exists()


def test_ghosts_get_no_names_and_unknown_voices_letters(fakes: Api) -> None:
    segments = [
        {"idx": i, "start_ms": start, "end_ms": end, "local_speaker": who, "text": f"t{i}", "words": [],
         "text_skip_reason": None}
        for i, (start, end, who) in enumerate([(0, 100_000, 0), (100_000, 100_500, 1), (101_000, 102_000, None)])
    ]  # fmt: skip
    fakes.models.heard = Heard(102_000, "en", 1.0, segments, voices=[heard_voice(0, "a"), heard_voice(1, "b")])
    answer = send(fakes, TRANSCRIPTIONS, one_wav(), response_format="diarized_json").json()
    assert [one["speaker"] for one in answer["segments"]] == ["A", "B", "UNKNOWN"]
    with open_connection(fakes.url) as conn:
        names = names_in(conn, fakes.models.cards()[-1], fakes.models.heard)
    assert names.ghosts == {1}
