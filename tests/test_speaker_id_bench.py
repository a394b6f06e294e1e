"""The benchmark of recognition on voices whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import speaker_id
from benchmarks.speaker_id import Answers, Corpus, draw, loudest, rates, reached_by
from tests.people import voice_of


def corpus(people: int, each: int) -> Corpus:
    vectors = np.stack([voice_of(f"p{who}", take) for who in range(people) for take in range(each)])
    rows = {f"made/p{who}": np.arange(who * each, (who + 1) * each) for who in range(people)}
    return Corpus(rows, dict.fromkeys(rows, "made"), dict.fromkeys((None, 1.0), vectors))


def test_queries_are_never_recordings_of_the_gallery() -> None:
    drawn = draw(corpus(8, 6), sorted(corpus(8, 6).rows), 3, (1, 5), np.random.default_rng(0))
    assert drawn is not None
    assert not set(drawn.gallery.tolist()) & set(drawn.queries.tolist())
    assert len(drawn.gallery) + len(drawn.queries) == 48
    assert set(drawn.truth.tolist()) == {-1, 0, 1, 2}
    assert draw(corpus(8, 6), sorted(corpus(8, 6).rows), 8, (1, 1), np.random.default_rng(0)) is None


@pytest.mark.parametrize("scorer", speaker_id.SCORERS.values())
def test_every_scorer_finds_people_with_equally_many_voices(scorer: Any) -> None:
    made = corpus(10, 6)
    drawn = draw(made, sorted(made.rows), 4, (3, 3), np.random.default_rng(0))
    assert drawn is not None
    vectors = made.vectors[None]
    answers = scorer(vectors[drawn.gallery], drawn.owners, vectors[drawn.queries])
    tau = reached_by(answers, drawn.truth, 0.01)
    assert rates(answers, drawn.truth, tau) == (1.0, 0.0)


def test_rates_count_right_names_and_accepted_strangers() -> None:
    answers = Answers(np.asarray([0, 1, 0, 1]), np.asarray([0.9, 0.9, 0.4, 0.8]))
    truth = np.asarray([0, 0, -1, -1])
    assert rates(answers, truth, 0.5) == (0.5, 0.5)
    assert 0.8 < reached_by(answers, truth, 0.01) < 0.81


def test_the_benchmark_says_something_of_every_size_that_has_people_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_id, "TRIALS", 3)
    monkeypatch.setattr(speaker_id, "SECONDS", (1.0, None))
    found = speaker_id.measure(corpus(14, 7))
    assert {one["gallery"] for one in found["shipped"]} == {3, 5, 10}
    assert {one["gallery"] for one in found["tuned_on_other_people"]} == {3, 5}
    assert all(one["dir"]["mean"] == 1.0 for one in found["shipped"])
    assert found["targets"]["shipped_fpir_whole_recordings"]["met"]


def test_a_scorer_that_is_behind_any_other_misses_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_id, "TRIALS", 3)
    monkeypatch.setattr(speaker_id, "SECONDS", (None,))
    blind = lambda gallery, owners, queries: Answers(np.zeros(len(queries), np.int64), np.zeros(len(queries)))  # noqa: E731
    monkeypatch.setitem(speaker_id.SCORERS, "ours", blind)
    assert not speaker_id.measure(corpus(14, 7))["targets"]["dir_beside_the_best_uneven_galleries"]["met"]


def test_the_loudest_stretch_is_cut_out() -> None:
    sound = np.zeros(32_000, np.int16)
    sound[20_000:28_000] = 1000
    cut = loudest(sound, 0.5)
    assert len(cut) == 8_000
    assert cut.min() == 1000
    assert len(loudest(sound, None)) == len(loudest(sound, 10.0)) == 32_000
