"""Ranking by average distance through the means equals the plain SQL form, whatever happened before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.db.connect import open_connection
from cluster.db.speakers.actions import label, merge, undo
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.db.speakers.means import fill_means, rank_speakers, voice_at
from cluster.errors import RushesError
from tests.corpus_rows import make_spaces
from tests.people import DIMENSION, archive, at, commit_spoken, put_in_cluster, spoken, voice_of

ME = "me"


def plain_form(db: Any, space: Any, query: Any) -> list[tuple[int, float, int]]:
    from pgvector import Vector

    return db.execute(
        f"SELECT s.speaker_id, AVG(e.embedding <=> %s), count(*) FROM segment_speakers s JOIN {space.table_name} e"
        " USING (segment_id) WHERE s.speaker_id IS NOT NULL AND s.method IN ('human', 'cluster')"
        " GROUP BY 1 ORDER BY 2, 1",
        (Vector(query),),
    ).fetchall()


def check(db: Any, space: Any, seed: int = 0) -> int:
    query = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    ranked, plain = rank_speakers(db, space, query), plain_form(db, space, query)
    mine = {one.speaker.speaker_id: (one.distance, one.voices) for one in ranked}
    assert mine.keys() == {row[0] for row in plain}
    for who, distance, voices in plain:
        assert mine[who] == (pytest.approx(distance, abs=1e-6), voices)
    assert [one.distance for one in ranked] == sorted(one.distance for one in ranked)
    return len(ranked)


STEP = st.tuples(
    st.sampled_from(["label", "segment", "nobody", "merge", "undo", "commit", "identify"]),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from(["Anna", "Bob", "Carla"]),
)


def take(db: Any, space: Any, verb: str, asset_id: int, segment: int, name: str, number: int) -> None:
    if verb in ("label", "nobody"):
        label(db, None if verb == "nobody" else name, [at(db, asset_id, segment)], ME)
    elif verb == "segment":
        label(db, name, [at(db, asset_id, segment, "segment")], ME)
    elif verb == "merge":
        merge(db, name, "Bob", ME)
    elif verb == "undo":
        undo(db, None, ME)
    elif verb == "commit":
        commit_spoken(db, asset_id, *spoken([*["anna", "bob", "x", "carla"][segment:], "anna"], seed=number + 50))
    else:
        identify(db, space, IdentifyOptions(), None)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=1, max_size=8))
def test_means_are_never_stale(db: Any, steps: list[tuple[str, int, int, str]]) -> None:
    db.execute("TRUNCATE assets, speakers CASCADE")
    files = {"a.wav": ["anna", "bob", "anna", "carla"], "b.wav": ["bob", "anna", "bob", "x"], "c.wav": ["carla", "x"]}
    ids = list(archive(db, files).values())
    space = make_spaces(db, DIMENSION)["voice"]
    put_in_cluster(db, [(ids[0], 0), (ids[1], 1)])
    for number, (verb, file, segment, name) in enumerate(steps):
        with suppress(RushesError):
            take(db, space, verb, ids[file], segment, name, number)
        check(db, space, number)


def test_a_person_counts_with_every_segment_and_a_label_moves_one(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"]})
    space = make_spaces(db, DIMENSION)["voice"]
    assert rank_speakers(db, space, voice_of("anna")) == []
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["a.wav"], 1)], ME)
    ranked = rank_speakers(db, space, voice_at(db, space, at(db, ids["a.wav"], 0), "a.wav"))
    assert [(one.speaker.name, one.voices) for one in ranked] == [("Anna", 2), ("Bob", 1)]
    label(db, "Bob", [at(db, ids["a.wav"], 2, "segment")], ME)
    assert {one.speaker.name: one.voices for one in rank_speakers(db, space, voice_of("anna"))} == {"Anna": 1, "Bob": 2}
    assert len(rank_speakers(db, space, voice_of("anna"), 1)) == 1


def test_one_without_a_voice_is_not_ranked_and_not_looked_for_again(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", None]})
    space = make_spaces(db, DIMENSION)["voice"]
    label(db, "Nobody Heard", [at(db, ids["a.wav"], 1)], ME)
    assert rank_speakers(db, space, voice_of("anna")) == []
    with db.transaction():
        assert fill_means(db, space) == 0
    with pytest.raises(RushesError, match=r"there is no voice at 4\.0 s of a\.wav.*too_short"):
        voice_at(db, space, at(db, ids["a.wav"], 1), "a.wav")


def test_a_ranking_beside_labels_never_sees_a_stale_mean(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{number}.wav": ["anna", "bob"] for number in range(6)})
    space = make_spaces(db, DIMENSION)["voice"]
    stop = threading.Event()

    def rank() -> None:
        with open_connection(db_url) as conn:
            while not stop.is_set():
                rank_speakers(conn, space, voice_of("anna"))

    with ThreadPoolExecutor(1) as pool:
        ranking = pool.submit(rank)
        try:
            name_everybody(db, space, ids)
        finally:
            stop.set()
        ranking.result()
    assert check(db, space) == 2


def name_everybody(db: Any, space: Any, ids: dict[str, int]) -> None:
    for asset_id in ids.values():
        for segment, name in ((0, "Anna"), (1, "Bob")):
            label(db, name, [at(db, asset_id, segment)], ME)
            check(db, space)
    undo(db, None, ME)
