"""`POST /v1/search` and `/v1/knn`: the right place, the right reason, and the right refusal."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.db import spaces
from cluster.db.connect import open_connection
from cluster.db.results import commit_row
from cluster.db.speakers.actions import label
from cluster.db.speakers.events import Target
from serve.finding import Found, matches_of
from serve.models import Heard, ModelCard
from serve.routes import knn as knn_routes
from tests.api_client import Api, api_over
from tests.corpus_rows import claimed, computed_row, make_spaces, new_asset, new_run
from tests.fake_models import FakeModels, vector_of
from tests.picture_rows import PICTURE_PRINTS, commit_pictures, frame, image_space, phash, picture_row

TEXTS = {"a.wav": "the quick brown fox", "b.mp4": "a lazy dog sleeps", "c.wav": "foxes and hounds"}


def cards(conn: Any) -> list[ModelCard]:
    """Models on offer that made the spaces of the corpus."""
    names = spaces.space_names(conn)
    by_kind = {space.kind: names[space.space_id] for space in spaces.list_spaces(conn)}
    return [
        ModelCard("text", "text", "fake", "path:/text", 8, 256, by_kind.get("text")),
        ModelCard("image", "image", "fake", "path:/image", 8, None, by_kind.get("image")),
        ModelCard("voice", "voice", "fake", "path:/voice", 8, None, by_kind.get("voice")),
        ModelCard("reranker", "reranker", "fake", "path:/reranker"),
    ]


@pytest.fixture
def api(db: Any, db_url: str) -> Iterator[Api]:
    """Three recordings with the words of `TEXTS` and their own vectors; Anna speaks first in the second."""
    made, run_id = make_spaces(db), new_run(db)
    for name, text in TEXTS.items():
        kind = "video" if name.endswith("mp4") else "audio"
        asset_id = new_asset(db, name, media_kind=kind)
        row = computed_row(asset_id, claimed(db, run_id, asset_id), text=text)
        row["chunks"][0]["vector"] = list(vector_of(text))
        assert commit_row(db, run_id, row, made) == "done"
    db.execute("UPDATE assets SET channel = 'News' WHERE asset_id = 2")
    label(db, "Anna", [Target(2, 0, 900)], "me")
    with api_over(db_url, FakeModels(cards(db))) as found:
        yield found


def search(api: Api, **body: Any) -> Found:
    answer = api.client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return Found.model_validate_json(answer.content)


def refused(api: Api, path: str = "/v1/search", **body: Any) -> tuple[int, str, str]:
    answer = api.client.post(path, json=body)
    error = answer.json()["error"]
    return answer.status_code, error["param"] or "", error["message"]


def sources(found: Found) -> list[str]:
    return [hit.source for hit in found.hits]


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((120, 80), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def test_a_text_finds_the_passage_its_time_its_words_and_where_to_hear_it(api: Api) -> None:
    answer = api.client.post("/v1/search", json={"text": "a lazy dog sleeps", "k": 1})
    assert {"model;dur", "corpus;dur"} <= {
        part.partition("=")[0] for part in answer.headers["server-timing"].split(", ")
    }
    [hit] = search(api, text="a lazy dog sleeps", k=1).hits
    assert hit.speaker_id == 1
    assert (hit.source, hit.start_ms, hit.end_ms, hit.speaker, hit.media_kind) == (
        "media/b.mp4",
        0,
        4000,
        "Anna",
        "video",
    )
    assert (hit.vector_rank, hit.text_rank) == (1, 1)
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)
    assert [hit.text[start:end] for start, end in hit.matches][:4] == ["a", "lazy", "dog", "sleeps"]
    at = f"/v1/media/{hit.sha256}"
    assert (hit.media_url, hit.clip_url) == (f"{at}/original", f"{at}/clip?start_ms=0&end_ms=4000")
    assert (hit.thumbnail_url, hit.transcript_url) == (f"{at}/frames/0.jpg", f"{at}/transcript.srt")


@pytest.mark.parametrize(("space_id", "status"), [(None, 409), (1, 404)])
def test_a_voice_space_that_is_dropped_while_people_are_ranked_is_gone(
    api: Api, db: Any, monkeypatch: pytest.MonkeyPatch, space_id: int | None, status: int
) -> None:
    rank = knn_routes.rank_speakers

    def drop_and_rank(conn: Any, space: spaces.Space, *asked: Any) -> Any:
        db.execute("UPDATE spaces SET is_active = false WHERE space_id = %s", (space.space_id,))
        for table in space.tables:
            db.execute(f"DROP TABLE IF EXISTS {table} CASCADE".encode())
        return rank(conn, space, *asked)

    monkeypatch.setattr(knn_routes, "rank_speakers", drop_and_rank)
    assert refused(api, "/v1/knn/voices", vector=[1.0] * 8, space_id=space_id)[0] == status


def test_fewer_hits_than_asked_for_say_why(api: Api) -> None:
    found = search(api, text="dog", k=10)
    assert (len(found.hits), found.is_exact, found.ef_search) == (3, True, None)
    assert found.why_fewer == "only 3 vectors are in this space"
    assert search(api, text="dog", k=3).why_fewer is None
    words = search(api, text="dog", mode="words")
    assert (sources(words), words.why_fewer) == (
        ["media/b.mp4"],
        "only 1 passages hold any of these words, but for very common ones",
    )
    kept = search(api, text="lazy fox", mode="words", filters={"kinds": ["video"]})
    assert (sources(kept), kept.why_fewer) == (
        ["media/b.mp4"],
        "only 1 passages that match the filters hold any of these words, but for very common ones",
    )


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("Das Öl, das öl", "ÖL", ["Öl", "öl"]),
        ("un cafe\u0301 caf", "cafe\u0301", ["cafe\u0301"]),
        ("हिन्दी में दम", "दिल में", ["में"]),
        ("שָׁלוֹם עולם", "שָׁלוֹם", ["שָׁלוֹם"]),
        ("東京、大阪。", "大阪", ["大阪"]),
        ("foo_bar", "bar", ["bar"]),
        ("\U0001f3ac b", "b", ["b"]),
    ],
)
def test_matches_are_the_words_that_full_text_search_compares(db: Any, text: str, query: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in matches_of(text, query)] == words
    assert db.execute(
        "SELECT to_tsvector('simple', %s) @@ plainto_tsquery('simple', %s)", (text, words[0])
    ).fetchone() == (True,)


def test_modes_ask_only_what_they_need(api: Api) -> None:
    assert sources(search(api, text="foxes", mode="words")) == ["media/c.wav"]
    assert api.models.calls == []
    by_vector = search(api, text=TEXTS["a.wav"], mode="vector")
    assert sources(by_vector)[0] == "media/a.wav"
    assert {hit.text_rank for hit in by_vector.hits} == {None}
    assert api.models.calls == [("embed_texts", ([TEXTS["a.wav"]], "query"))]


def test_the_reranker_orders_what_was_found(api: Api) -> None:
    found = search(api, text="foxes hounds", rerank=True, k=2)
    assert sources(found)[0] == "media/c.wav"
    assert [hit.score for hit in found.hits] == [hit.rerank_score for hit in found.hits]
    assert len(dict(api.models.calls)["rerank"][1]) == 3
    assert refused(api, text="x", rerank=True, k=101)[0] == 422


FILTERS: list[tuple[Any, list[str]]] = [
    ({"speakers": ["anna"]}, ["media/b.mp4"]),
    ({"speakers": [1]}, ["media/b.mp4"]),
    ({"kinds": ["video"]}, ["media/b.mp4"]),
    ({"channels": ["news"]}, ["media/b.mp4"]),
    ({"channels": ["news"], "kinds": ["audio"]}, []),
    ({"recorded_since": "2024-03-01T00:00:00Z"}, ["media/c.wav"]),
    ({"recorded_since": "2024-03-01T00:00:00Z", "recorded_until": "2024-03-01T01:00:00+02:00"}, []),
]


def test_filters_hold_for_vectors_and_words_alike(api: Api, db: Any) -> None:
    db.execute("UPDATE assets SET recorded_at = '2024-03-02T00:00Z' WHERE asset_id = 3")
    for filters, expected in FILTERS:
        for mode in ("hybrid", "vector", "words"):
            found = search(api, text="fox foxes dog", mode=mode, filters=filters)
            assert sources(found) == expected, (filters, mode)
        why = f"only {len(expected)} vectors match the filters" if expected else "no asset matches the filters"
        assert search(api, text="dog", filters=filters).why_fewer == why


def test_an_asset_is_chosen_by_its_content(api: Api) -> None:
    one = search(api, text="fox").hits[0].sha256
    assert {hit.sha256 for hit in search(api, text="dog", filters={"assets": [one]}).hits} == {one}
    assert refused(api, text="x", filters={"assets": ["ab" * 32]})[:2] == (404, "filters.assets")


def test_a_picture_is_found_by_its_vector_its_words_and_not_by_another_model(api: Api, db: Any) -> None:
    space, picture = image_space(db), png()
    frames = [frame(0, phash(1), 0), frame(1, phash(2), 2000)]
    vectors = [vector_of("a red car"), vector_of(picture)]
    commit_pictures(db, "film.mp4", frames, space=space, vectors=vectors)
    assert refused(api, image=uri(picture))[0] == 409
    api.models._cards = cards(db)
    found = search(api, image=uri(picture), k=1)
    assert (sources(found), found.space_id, found.hits[0].t_ms) == (["media/film.mp4"], space.space_id, 2000)
    assert found.hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert found.hits[0].thumbnail_url == f"/v1/media/{found.hits[0].sha256}/thumbnails/1.jpg"
    assert search(api, text="a red car", target="pictures", k=1).hits[0].t_ms == 0
    api.models._cards = [replace(card, space_name="another") for card in cards(db)]
    for body in ({"image": uri(picture)}, {"text": "a red car", "target": "pictures"}, {"text": "dog"}):
        status, _, message = refused(api, **body)
        assert (status, "serve that profile (RUSHES_" in message) == (409, True)


def test_without_image_vectors_a_picture_is_found_by_its_hash(api: Api, db: Any) -> None:
    picture = png()
    assert refused(api, image=uri(picture))[0] == 409
    commit_pictures(db, "other.jpg", [frame(0, phash(1), 0, shot=None)])
    found = search(api, image=uri(picture))
    assert (found.hits, found.space_id, found.is_exact) == ([], None, True)
    assert found.why_fewer is not None
    assert refused(api, image=uri(picture), filters={"speakers": ["Anna"]})[0] == 422
    assert refused(api, image=uri(b"no picture"))[:2] == (422, "image")


def test_a_voice_finds_segments_like_it_and_people(api: Api, db: Any) -> None:
    [(stored,)] = db.execute("SELECT embedding FROM voice_vectors_1 JOIN segments USING (segment_id)"
                             " WHERE asset_id = 2 AND idx = 0", binary=True)  # fmt: skip
    api.models.heard = Heard(duration_ms=3000, whole=stored.to_numpy())
    found = search(api, voice=uri(b"RIFF", "audio/wav"), k=2)
    assert (found.hits[0].source, found.hits[0].start_ms, found.hits[0].speaker) == ("media/b.mp4", 0, "Anna")
    assert found.hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert [(one.name, one.voices) for one in found.speakers or []] == [("Anna", 1)]
    assert sources(search(api, voice=uri(b"RIFF", "audio/wav"), filters={"kinds": ["audio"]}))[0] != "media/b.mp4"
    api.models.heard = Heard(duration_ms=3000)
    assert refused(api, voice=uri(b"RIFF", "audio/wav"))[:2] == (422, "voice")


NONSENSE: list[tuple[Any, int, str]] = [
    ({}, 422, ""),
    ({"text": "a", "voice": "AAAA"}, 422, ""),
    ({"text": " "}, 422, ""),
    ({"text": "a\u0000b"}, 422, "text"),
    ({"text": "a" * 10_001}, 422, "text"),
    ({"text": "a", "k": 0}, 422, "k"),
    ({"text": "a", "k": 1001}, 422, "k"),
    ({"text": "a", "k": True}, 422, "k"),
    ({"text": "a", "ef_search": 1001}, 422, "ef_search"),
    ({"text": "BAD"}, 422, "text"),
    ({"text": "a", "nothing": 1}, 422, "nothing"),
    ({"text": "a", "target": "smells"}, 422, "target"),
    ({"image": "https://example.org/a.png"}, 422, "image"),
    ({"image": "data:image/png;base64,***"}, 422, "image"),
    ({"voice": "***"}, 422, "voice"),
    ({"text": "a", "filters": {"speakers": ["Nobody"]}}, 422, "filters"),
    ({"text": "a", "filters": {"speakers": [99]}}, 422, "filters"),
    ({"text": "a", "filters": {"tags": ["none"]}}, 422, "filters"),
    ({"text": "a", "filters": {"assets": ["../../etc/passwd"]}}, 422, "filters.assets[0]"),
    ({"text": "a", "filters": {"kinds": ["smell"]}}, 422, "filters.kinds[0]"),
    ({"text": "a", "filters": {"recorded_since": "2024-03-01T00:00:00"}}, 422, "filters.recorded_since"),
]


def test_what_makes_no_sense_is_refused_by_name(api: Api) -> None:
    for body, status, param in NONSENSE:
        assert refused(api, **body)[:2] == (status, param), (body, refused(api, **body))


def test_an_empty_corpus_says_what_to_run(db_url: str) -> None:
    with api_over(db_url) as api:
        for body in ({"text": "dog"}, {"image": uri(png())}, {"text": "dog", "target": "pictures"}):
            status, _, message = refused(api, **body)
            assert (status, "rushes ingest" in message) == (409, True)


def encoded(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def knn(api: Api, kind: str, **body: Any) -> Found:
    answer = api.client.post(f"/v1/knn/{kind}", json=body)
    assert answer.status_code == 200, answer.text
    return Found.model_validate_json(answer.content)


def test_knn_takes_numbers_or_base64_of_any_length(api: Api, db: Any) -> None:
    vector = vector_of(TEXTS["c.wav"])
    plain = knn(api, "texts", vector=vector.tolist(), k=2)
    assert sources(plain)[0] == "media/c.wav"
    assert plain.hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    longer = knn(api, "texts", vector=encoded(vector * 1e30), k=2)
    assert [hit.similarity for hit in longer.hits] == pytest.approx([hit.similarity for hit in plain.hits], abs=1e-5)
    assert knn(api, "texts", vector=(vector.astype(float) * 1e300).tolist(), k=2).hits[0].sha256 == plain.hits[0].sha256
    assert sources(knn(api, "texts", vector=vector.tolist(), filters={"kinds": ["video"]})) == ["media/b.mp4"]


def test_knn_of_frames_tells_each_keyframe_that_is_more_than_flat(api: Api, db: Any) -> None:
    space = image_space(db)
    frames = [frame(0, phash(1), 0), frame(1, phash(2), 900), frame(2, phash(3), 1800, informative=False)]
    commit_pictures(db, "film.mp4", frames, space=space, vectors=[vector_of("x"), vector_of("y"), vector_of("x")])
    found = knn(api, "frames", vector=vector_of("x").tolist())
    assert [hit.t_ms for hit in found.hits] == [0, 900]
    assert found.why_fewer == "only 2 vectors are in this space"


def test_frames_are_filtered_by_who_speaks_meanwhile(api: Api, db: Any) -> None:
    space, run_id = image_space(db), new_run(db)
    frames = [frame(i, phash(i), t_ms) for i, t_ms in enumerate((0, 950, 2_500))]
    vectors = [vector_of(str(i)) for i in range(3)]
    units = claimed(db, run_id, 2, ("frames", "images"), PICTURE_PRINTS)
    assert commit_row(db, run_id, picture_row(2, units, frames, vectors=vectors), {"image": space}) == "done"
    found = knn(api, "frames", vector=vectors[1].tolist(), filters={"speakers": ["Anna"]})
    # Anna's voice is that of the first segment and of the third, from 2 s on.
    assert sorted(hit.t_ms or 0 for hit in found.hits) == [0, 2_500]
    assert found.why_fewer == "only 2 vectors match the filters"
    assert len(knn(api, "frames", vector=vectors[1].tolist()).hits) == 3


def test_knn_of_voices_ranks_people_by_their_average(api: Api) -> None:
    with open_connection(api.url) as conn:
        [(stored,)] = conn.execute("SELECT embedding FROM voice_vectors_1 JOIN segments USING (segment_id)"
                                   " WHERE asset_id = 2 AND idx = 0", binary=True)  # fmt: skip
    found = knn(api, "voices", vector=stored.to_numpy().tolist(), k=3, filters={"speakers": ["Anna"]})
    assert [(hit.source, hit.speaker, hit.speaker_id) for hit in found.hits] == [("media/b.mp4", "Anna", 1)]
    [anna] = found.speakers or []
    assert (anna.name, anna.distance) == ("Anna", pytest.approx(0.0, abs=1e-5))


NO_VECTORS: list[tuple[Any, int, str | None]] = [
    ({}, 422, "vector"),
    ({"vector": [1.0] * 7}, 422, "vector"),
    ({"vector": []}, 422, None),
    ({"vector": [0.0] * 8}, 422, "vector"),
    ({"vector": ["1"] * 8}, 422, None),
    ({"vector": [10**400] * 8}, 422, None),
    ({"vector": encoded([np.nan] * 8)}, 422, "vector"),
    ({"vector": encoded([np.inf] * 8)}, 422, "vector"),
    ({"vector": encoded([1.0] * 8)[:-4]}, 422, "vector"),
    ({"vector": "no base64"}, 422, "vector"),
    ({"vector": [1.0] * 8, "space_id": 99}, 404, "space_id"),
    ({"vector": [1.0] * 8, "space_id": 1}, 404, "space_id"),
    ({"vector": [1.0] * 8, "space_id": 2**70}, 422, "space_id"),
]


def test_a_vector_that_is_none_is_refused(api: Api) -> None:
    for body, status, param in NO_VECTORS:
        found = refused(api, "/v1/knn/texts", **body)
        assert found[0] == status, (body, found)
        assert param is None or found[1] == param, (body, found)


def test_nan_in_json_is_refused(api: Api) -> None:
    answer = api.client.post(
        "/v1/knn/texts", content=b'{"vector": [NaN,1,1,1,1,1,1,1]}', headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)


def test_a_space_that_is_named_is_searched_though_another_is_in_use(api: Api, db: Any) -> None:
    [(space_id,)] = db.execute("UPDATE spaces SET is_active = false WHERE kind = 'text' RETURNING space_id")
    vector = vector_of(TEXTS["c.wav"]).tolist()
    assert refused(api, "/v1/knn/texts", vector=vector)[0] == 409
    found = knn(api, "texts", vector=vector, space_id=space_id)
    assert (sources(found)[0], found.space_id) == ("media/c.wav", space_id)
