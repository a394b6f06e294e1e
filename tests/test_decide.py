"""Who a voice is: precedence, one name per recording, and marks that find their place again."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cluster.speakers.decide import Assignment, Mark, Piece, attach, carried_over, decide
from cluster.speakers.scoring import Gallery
from cluster.speakers.thresholds import SHIPPED, shipped_thresholds, tau_for


def mark(number: int, start: int, end: int, speaker: int | None, scope: Any = "speaker") -> Mark:
    return Mark(number, start, end, scope, speaker, speaker)


def pieces(*rows: tuple[int, int, int | None]) -> list[Piece]:
    return [Piece(i, start, end, who) for i, (start, end, who) in enumerate(rows)]


def test_a_mark_follows_the_voice_that_speaks_most_of_its_time() -> None:
    found = attach([mark(1, 0, 1000, 7)], pieces((0, 300, 0), (300, 1200, 1), (5000, 6000, 1)))
    assert found.local_speakers == {1: mark(1, 0, 1000, 7)}
    assert found.segments == {}


def test_a_mark_where_nobody_speaks_any_more_points_at_nothing() -> None:
    found = attach([mark(1, 0, 1000, 7), mark(2, 0, 1000, 7, "segment")], pieces((2000, 3000, 0)))
    assert (found.segments, found.local_speakers) == ({}, {})


def test_people_taken_for_one_keep_their_own_segments_only() -> None:
    marks = [mark(1, 0, 1000, 7), mark(2, 2000, 3000, 8)]
    found = attach(marks, pieces((0, 1000, 0), (2000, 3000, 0), (4000, 5000, 0)))
    assert found.local_speakers == {}
    assert {segment: one.speaker for segment, one in found.segments.items()} == {0: 7, 1: 8}


def test_a_person_about_a_segment_wins_over_one_about_its_voice() -> None:
    marks = [mark(1, 0, 1000, 7), mark(2, 0, 1000, 8, "segment")]
    found = attach(marks, pieces((0, 1000, 0), (2000, 3000, 0)))
    assert found.local_speakers[0].speaker == 7
    assert found.segments[0].speaker == 8


OFFER = st.builds(
    lambda root, method, score: Assignment(root, root, method, score),
    st.integers(1, 4),
    st.sampled_from(["cluster", "knn"]),
    st.floats(0, 1),
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 6),
    st.dictionaries(st.integers(0, 5), st.integers(1, 4)),
    st.dictionaries(st.integers(0, 5), st.lists(OFFER, max_size=2)),
    st.sets(st.integers(0, 5)),
)
def test_the_machine_gives_a_name_once_and_never_over_a_person(
    count: int, human: dict[int, int], offers: dict[int, list[Assignment]], ghosts: set[int]
) -> None:
    said = {who: mark(1, 0, 1, speaker) for who, speaker in human.items()}
    found = decide(range(count), said, offers, ghosts)
    for who, speaker in human.items():
        if who < count:
            assert (found[who].method, found[who].root) == ("human", speaker)
    given_by_machine = [one.root for one in found.values() if one.method != "human"]
    taken = {one.root for one in found.values() if one.method == "human"}
    assert len(given_by_machine) == len(set(given_by_machine))
    assert not taken.intersection(given_by_machine)
    assert not [who for who in ghosts & found.keys() if found[who].method != "human"]


def test_a_cluster_goes_before_recognition_and_the_better_score_before_the_other() -> None:
    offers = {
        0: [Assignment(1, 1, "knn", 0.99)],
        1: [Assignment(1, 1, "cluster", 0.7), Assignment(2, 2, "knn", 0.9)],
        2: [Assignment(1, 1, "cluster", 0.8)],
    }
    found = decide(range(3), {}, offers)
    assert {who: (one.root, one.method) for who, one in found.items()} == {2: (1, "cluster"), 1: (2, "knn")}


def test_a_voice_found_again_keeps_what_was_known_and_another_one_does_not() -> None:
    before = pieces((0, 10_000, 0), (10_000, 20_000, 1), (20_000, 24_000, 0))
    assert carried_over(before, before) == {0: 0, 1: 1}
    renumbered = pieces((0, 9_800, 1), (9_800, 20_000, 0), (20_000, 24_000, 1))
    assert carried_over(before, renumbered) == {0: 1, 1: 0}
    assert carried_over(before, pieces((0, 24_000, 0))) == {}
    assert carried_over(before, pieces((0, 24_000, None))) == {}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
def test_scores_are_the_mean_of_the_best_three_whatever_the_blocks(
    voices: int, people: int, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = (rng.standard_normal((n, 6)).astype(np.float32) for n in (voices, 5))
    owners = rng.integers(0, people, voices).tolist()
    gallery = Gallery(queries)
    for start in range(0, voices, block):
        gallery.add(vectors[start : start + block], owners[start : start + block])
    want = {who: [] for who in owners}
    for who in want:
        mine = vectors[[owner == who for owner in owners]] @ queries.T
        want[who] = np.sort(mine, axis=0)[::-1][:3].mean(axis=0)
    scores = dict(zip(gallery.people, gallery.scores(), strict=True))
    assert scores.keys() == want.keys()
    for who, score in want.items():
        assert scores[who] == pytest.approx(score, abs=1e-5)
    found = gallery.matches()
    ranked = np.sort(np.stack(list(want.values())), axis=0)[::-1]
    assert found.score == pytest.approx(ranked[0], abs=1e-5)
    if len(want) == 1:
        assert np.isnan(found.margin).all()
    else:
        assert found.margin == pytest.approx(ranked[0] - ranked[1], abs=1e-5)


def test_more_people_ask_for_a_higher_score() -> None:
    for limits in SHIPPED.values():
        taus = [tau_for(limits.taus, people) for people in (1, 5, 10, 20, 50, 120, 200, 1000)]
        assert taus == sorted(taus)
    ge2e = shipped_thresholds("ge2e").taus
    assert tau_for(ge2e, 50) == pytest.approx(0.82)
    assert 0.76 < tau_for(ge2e, 20) < 0.82
