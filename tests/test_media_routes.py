"""`/v1/media`: facts, transcripts, originals, clips and pictures of the ingested archive over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.db.connect import open_connection
from cluster.media import store
from cluster.settings import load_settings
from serve import media as desk_module
from serve.errors import BusyError, ConflictError, InvalidError
from serve.file_cache import FileCache
from serve.media import CHILDREN, MediaDesk, _Job
from tests.api_client import Api, api_over
from tests.archive import read_call
from tests.media_factory import tone, write_wav


@pytest.fixture
def api(corpus_url: str, tmp_path: Path, ingested: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    # thumbnails lie in the store of the run that made them
    data = next(path for path in Path(tmp_path.parent).glob("data*") if (path / "store").is_dir())
    with api_over(corpus_url, data_dir=tmp_path / "own", store=str(data / "store")) as found:
        yield found


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def film(media: Path) -> str:
    return sha_of(media / "2024-03-09 film.mp4")


@pytest.fixture
def call(media: Path) -> str:
    return sha_of(media / "call.wav")


def code(answer: Any) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["param"]


def test_the_list_names_every_asset_without_a_path(api: Api, media: Path, film: str) -> None:
    listed = api.client.get("/v1/media").json()
    assert listed["next_offset"] is None
    assert len(listed["data"]) == api_rows(api)
    assert str(media) not in api.client.get("/v1/media").text
    found = next(item for item in listed["data"] if item["sha256"] == film)
    assert found["kind"] == "video"
    assert found["sources"] == ["all/2024-03-09 film.mp4"]
    assert found["lanes"]["speech"] == "done"
    assert sum(one["segments"] for one in found["speakers"]) > 0
    pages, offset = [], 0
    while offset is not None:
        page = api.client.get("/v1/media", params={"limit": 2, "offset": offset}).json()
        pages += page["data"]
        offset = page["next_offset"]
    assert pages == listed["data"]
    kinds = api.client.get("/v1/media", params={"kind": "video"}).json()["data"]
    assert {item["kind"] for item in kinds} == {"video"}
    assert api.client.get("/v1/media", params={"tag": "nobody"}).status_code == 422


def api_rows(api: Api) -> int:
    with open_connection(api.url) as conn:
        row = conn.execute("SELECT count(*) FROM assets").fetchone()
    assert row is not None
    return row[0]


def test_every_address_of_an_asset_answers(api: Api, film: str) -> None:
    facts = api.client.get(f"/v1/media/{film}").json()
    assert (facts["width"], facts["height"], facts["kind"]) == (64, 48, "video")
    addresses = [facts["original_url"], facts["frames_url"], *facts["transcript_urls"].values()]
    frames = api.client.get(facts["frames_url"]).json()
    addresses += [frames["data"][0]["thumbnail_url"], frames["data"][0]["picture_url"]]
    addresses.append(f"{facts['clip_url']}?start_ms=0&end_ms=500")
    for address in addresses:
        assert api.client.get(address).status_code == 200, address
        if not address.endswith("/frames"):
            head = api.client.head(address)
            assert (head.status_code, head.content) == (200, b""), address


def test_an_original_is_given_whole_in_parts_and_under_its_own_name(api: Api, media: Path, film: str) -> None:
    content = (media / "2024-03-09 film.mp4").read_bytes()
    whole = api.client.get(f"/v1/media/{film}/original")
    assert whole.content == content
    assert whole.headers["etag"] == f'"{film}"'
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert 'filename="2024-03-09 film.mp4"' in whole.headers["content-disposition"]
    part = api.client.get(f"/v1/media/{film}/original", headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert api.client.get(f"/v1/media/{film}/original", headers={"range": "bytes=99999999-"}).status_code == 416


def moved(api: Api, sha256: str, path: Path) -> None:
    """Let a file of the test's own be the only source of the asset."""
    status = path.stat()
    with open_connection(api.url) as conn:
        conn.execute("DELETE FROM sources WHERE asset_id = (SELECT asset_id FROM assets WHERE sha256 = %s)",
                     (bytes.fromhex(sha256),))  # fmt: skip
        conn.execute(
            "INSERT INTO sources (uri, asset_id, byte_size, mtime_ns) SELECT %s, asset_id, %s, %s FROM assets"
            " WHERE sha256 = %s",
            (str(path), status.st_size, status.st_mtime_ns, bytes.fromhex(sha256)),
        )


def test_content_that_changed_is_never_given_under_the_old_name(
    api: Api, media: Path, film: str, tmp_path: Path
) -> None:
    own = tmp_path / "secret folder" / "one.mp4"
    own.parent.mkdir()
    own.write_bytes((media / "2024-03-09 film.mp4").read_bytes())
    moved(api, film, own)
    assert api.client.get(f"/v1/media/{film}/original").status_code == 200
    own.write_bytes(b"something else altogether")
    for address in ("original", "clip?start_ms=0&end_ms=500", "frames/100.jpg"):
        answer = api.client.get(f"/v1/media/{film}/{address}")
        assert answer.status_code == 409, address
        assert "changed since it was registered" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
    own.unlink()
    for address in ("original", "clip?start_ms=0&end_ms=500", "frames/100.jpg"):
        answer = api.client.get(f"/v1/media/{film}/{address}")
        assert answer.status_code == 409, address
        assert str(tmp_path) not in answer.text
    with open_connection(api.url) as conn:
        conn.execute("UPDATE sources SET gone_at = now() WHERE uri = %s", (str(own),))
    assert api.client.get(f"/v1/media/{film}/original").json()["error"]["code"] == "no_source"


def test_an_object_of_a_store_is_read_in_parts_without_a_copy(
    api: Api, media: Path, film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    content = (media / "2024-03-09 film.mp4").read_bytes()
    (bucket / "film.mp4").write_bytes(content)
    remote = SubTreeFileSystem(str(bucket), LocalFileSystem())
    monkeypatch.setattr(store, "_filesystem", lambda uri: (remote, uri.removeprefix("s3://bucket/")))
    moved(api, film, bucket / "film.mp4")
    with open_connection(api.url) as conn:
        conn.execute("UPDATE sources SET uri = 's3://bucket/film.mp4' WHERE uri = %s", (str(bucket / "film.mp4"),))
    part = api.client.get(f"/v1/media/{film}/original", headers={"range": "bytes=-500"})
    assert (part.status_code, part.content) == (206, content[-500:])
    assert not (tmp_path / "own/cache").exists()
    # cutting needs the file: it is brought to this node, and then served from there
    assert api.client.get(f"/v1/media/{film}/clip?start_ms=0&end_ms=500").status_code == 200
    (bucket / "film.mp4").unlink()
    assert api.client.get(f"/v1/media/{film}/original").content == content


def test_transcripts_are_those_of_the_export(api: Api, corpus: Any, call: str, film: str) -> None:
    from cluster.db.transcripts import name_asset, transcript_of
    from cluster.formats import FORMATS

    with open_connection(api.url) as conn:
        row = conn.execute("SELECT asset_id FROM assets WHERE sha256 = %s", (bytes.fromhex(film),)).fetchone()
        assert row is not None
        known = transcript_of(conn, name_asset(conn, row[0]))
    types = {"json": "application/json", "srt": "application/x-subrip", "vtt": "text/vtt; charset=utf-8"}
    for form, write in FORMATS.items():
        answer = api.client.get(f"/v1/media/{film}/transcript.{form}")
        assert answer.text == write(known)
        assert answer.headers["content-type"] == types.get(form, answer.headers["content-type"])
    assert api.client.get(f"/v1/media/{film}/transcript.exe").status_code == 422


def test_an_asset_without_a_transcript_says_why(api: Api, media: Path) -> None:
    answer = api.client.get(f"/v1/media/{sha_of(media / 'mute.mp4')}/transcript.srt")
    assert answer.status_code == 409
    assert "no audio stream" in answer.json()["error"]["message"]


def test_a_clip_of_sound_holds_the_samples_that_were_heard(api: Api, call: str) -> None:
    answer = api.client.get(f"/v1/media/{call}/clip?start_ms=2345&end_ms=4001&form=wav")
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert np.array_equal(samples, read_call()[2345 * 16 : 4001 * 16])
    assert api.client.get(f"/v1/media/{call}/clip?start_ms=0&end_ms=900").headers["content-type"] == "audio/mp4"


def test_a_clip_of_a_film_plays_and_can_be_read_in_parts(api: Api, film: str) -> None:
    address = f"/v1/media/{film}/clip?start_ms=1000&end_ms=3000"
    whole = api.client.get(address)
    assert whole.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(whole.content)) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert abs((container.duration or 0) - 2_000_000) < 200_000
    part = api.client.get(address, headers={"range": "bytes=10-19", "if-range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert api.client.get(address, headers={"if-none-match": whole.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("start_ms=0", 422, "end_ms"),
        ("start_ms=-1&end_ms=5", 422, "start_ms"),
        ("start_ms=500&end_ms=500", 422, "end_ms"),
        ("start_ms=9000&end_ms=9500", 422, "start_ms"),
        ("start_ms=0&end_ms=99000", 422, "end_ms"),
        ("start_ms=0&end_ms=700000", 413, "end_ms"),
        ("start_ms=nan&end_ms=5", 422, "start_ms"),
        ("start_ms=0&end_ms=99999999999", 422, "end_ms"),
        ("start_ms=0&end_ms=500&form=exe", 422, "form"),
    ],
)
def test_times_that_make_no_sense_are_refused_by_name(api: Api, film: str, query: str, status: int, param: str) -> None:
    assert code(api.client.get(f"/v1/media/{film}/clip?{query}")) == (status, param)


def test_forms_that_an_asset_does_not_have_are_refused(api: Api, media: Path, call: str) -> None:
    mute = sha_of(media / "mute.mp4")
    assert code(api.client.get(f"/v1/media/{call}/clip?start_ms=0&end_ms=500&form=mp4")) == (422, "form")
    assert code(api.client.get(f"/v1/media/{mute}/clip?start_ms=0&end_ms=500&form=wav")) == (422, "form")
    assert api.client.get(f"/v1/media/{call}/frames/0.jpg").status_code == 409
    assert api.client.get(f"/v1/media/{call}/frames").json() == {"data": [], "shots": []}


def test_the_picture_at_a_time_is_the_one_shown_then(api: Api, media: Path, film: str) -> None:
    answer = api.client.get(f"/v1/media/{film}/frames/2345.jpg")
    with av.open(str(media / "2024-03-09 film.mp4")) as container:
        track = container.streams.video[0]
        known = [frame.to_ndarray(format="rgb24") for frame in container.decode(track) if frame.time <= 2.345][-1]
    ours = np.asarray(Image.open(io.BytesIO(answer.content)), int)
    assert np.abs(ours - known).mean() < 3
    again = api.client.get(f"/v1/media/{film}/frames/2345.jpg", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert "immutable" in answer.headers["cache-control"]
    assert code(api.client.get(f"/v1/media/{film}/frames/99000.jpg")) == (422, "t_ms")


def test_thumbnails_come_from_the_store_and_a_lost_one_says_so(api: Api, film: str, tmp_path: Path) -> None:
    address = f"/v1/media/{film}/thumbnails/0.jpg"
    answer = api.client.get(address)
    assert hashlib.sha256(answer.content).hexdigest() == answer.headers["etag"].strip('"')
    assert api.client.get(address, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert api.client.get(f"/v1/media/{film}/thumbnails/9999.jpg").status_code == 404
    object.__setattr__(api.service, "settings", load_settings(store=str(tmp_path / "empty")))
    lost = api.client.get(address)
    assert lost.status_code == 409
    assert str(tmp_path) not in lost.text


@pytest.mark.parametrize("name", ["original", "transcript.srt", "clip?start_ms=0&end_ms=5", "frames", "frames/0.jpg",
                                  "thumbnails/0.jpg", ""])  # fmt: skip
def test_path_tricks_reach_no_file(api: Api, film: str, name: str) -> None:
    assert api.client.get(f"/v1/media/{'0' * 64}/{name}".rstrip("/")).status_code == 404
    tricks = [film.upper(), film[:63], film + "0", "..%2f..%2fetc%2fpasswd", "%2e%2e", "..", "%00", "a%2fb"]
    for trick in tricks:
        answer = api.client.get(f"/v1/media/{trick}/{name}".rstrip("/"))
        assert answer.status_code in (404, 422), trick
    for tail in ("frames/..%2f..%2fx.jpg", "frames/-1.jpg", "thumbnails/..%2fx.jpg", "transcript...%2fx"):
        assert api.client.get(f"/v1/media/{film}/{tail}").status_code in (404, 422), tail


def test_one_cut_serves_all_who_ask_for_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = MediaDesk(load_settings(data_dir=tmp_path / "data"))
    made: list[str] = []

    def slow_cut(child: Any, source: Any, spec: Any, anchor: Any, sink: int, limit_s: float, cache: Path) -> None:
        made.append(source["uri"])
        time.sleep(0.2)
        os.write(sink, b"a clip")

    monkeypatch.setattr(desk_module, "take_clip", slow_cut)
    path = write_wav(tmp_path / "tone.wav", tone(1))
    sources = [{"uri": str(path), "sha256": "0" * 64}]

    async def ask() -> None:
        spec = desk_module.ClipSpec("wav", 0, 500, 0)
        found = await asyncio.gather(*(desk.clip(sources, spec, None) for _ in range(50)))
        assert {one.read(0, one.size_bytes) for one in found} == {b"a clip"}
        await desk.clip(sources, spec, None)

    asyncio.run(ask())
    desk.close()
    assert len(made) == 1


def test_a_cancelled_request_ends_its_child_and_frees_its_place(tmp_path: Path, slow: Path) -> None:
    desk = MediaDesk(load_settings(data_dir=tmp_path / "data"))

    async def hang_up() -> None:
        tasks = [asyncio.ensure_future(desk.read(lambda child: child.decode(slow, 0, 60))) for _ in range(CHILDREN)]
        while len(desk._jobs) < CHILDREN or any(job.child is None or job.child.pid is None for job in desk._jobs):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        # both places are free long before the file is decoded
        probed = await asyncio.wait_for(desk.read(lambda child: child.probe(slow, 60)), 30)
        assert probed.kind == "audio"
        assert all(task.done() for task in tasks)

    asyncio.run(hang_up())
    desk.close()


def test_a_full_desk_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "WAITING", 1)
    desk, go = MediaDesk(load_settings(data_dir=tmp_path / "data")), threading.Event()

    async def crowd() -> None:
        tasks = [asyncio.ensure_future(desk.read(lambda child: go.wait(30))) for _ in range(CHILDREN + 1)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError):
            await desk.read(lambda child: None)
        go.set()
        assert await asyncio.gather(*tasks) == [True] * (CHILDREN + 1)

    asyncio.run(crowd())
    desk.close()


def test_the_cache_stays_within_its_bound_and_drops_what_is_unused(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "clips", 2_500)

    def write(sink: int) -> None:
        os.write(sink, bytes(1000))

    cache.make("a", write)
    cache.make("b", write)
    time.sleep(0.01)
    assert cache.find("a") is not None
    held = cache.find("b")
    assert held is not None
    cache.find("a")
    cache.make("c", write)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a", "c"]
    # who has it open reads on
    assert held.read(0, 1000) == bytes(1000)

    def fail(sink: int) -> None:
        os.write(sink, b"half")
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        cache.make("d", fail)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a", "c"]


def test_a_sent_picture_is_read_as_those_of_the_corpus(tmp_path: Path) -> None:
    desk = MediaDesk(load_settings(data_dir=tmp_path / "data"))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    frame = asyncio.run(desk.read_picture(file.getvalue()))
    assert (len(frame["phash"]), frame["is_informative"]) == (8, True)
    for bad in (b"", b"no picture", write_wav(tmp_path / "tone.wav", tone(1)).read_bytes()):
        with pytest.raises(InvalidError, match="image: "):
            asyncio.run(desk.read_picture(bad))
    desk.close()


def test_a_job_that_ends_as_it_is_cancelled_leaves_the_child_to_the_next(tmp_path: Path) -> None:
    desk, interrupted = MediaDesk(load_settings(data_dir=tmp_path / "data")), []

    class Ending:
        """The job's future in the moment between giving the child back and being done."""

        def __init__(self) -> None:
            self.states = iter([False, True])

        def cancel(self) -> bool:
            return False

        def done(self) -> bool:
            return next(self.states)

    job = _Job(lambda child: setattr(child, "interrupt", lambda: interrupted.append(child)))
    desk._run(job)
    job.future = Ending()  # type: ignore[assignment]
    job._end()
    desk.close()
    assert interrupted == []
