"""Thresholds measured on the archive: strangers reach them as rarely as asked, and too few people are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.db.spaces import activate_if_complete
from cluster.db.speakers.actions import label
from cluster.db.speakers.calibrate import calibrate, taus_in_force
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.errors import RushesError
from cluster.speakers.calibrate import LEAST_SPEAKERS, Voices, impostor_taus
from cluster.speakers.scoring import Gallery
from cluster.speakers.thresholds import shipped_thresholds, tau_for
from tests.corpus_rows import make_spaces
from tests.people import DIMENSION, archive, at
from tests.test_cli import rushes

ME = "me"


def crowd(rng: np.random.Generator, people: int, voices: int, dimension: int = 16) -> Any:
    """(people * voices, dimension): voices of one person in a row."""
    own = rng.standard_normal((people, 1, dimension))
    found = own + 0.3 * rng.standard_normal((people, voices, dimension))
    return (found / np.linalg.norm(found, axis=2, keepdims=True)).reshape(-1, dimension).astype(np.float32)


def voices_of(vectors: Any, each: int, assets: Any = None) -> Voices:
    owners = np.repeat(np.arange(len(vectors) // each), each)
    return Voices(vectors, owners, np.arange(len(vectors)) if assets is None else assets)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_strangers_who_were_not_measured_reach_the_threshold_as_rarely_as_asked(seed: int) -> None:
    rng, each, fpir = np.random.default_rng(seed), 3, 0.05
    taus = impostor_taus(voices_of(crowd(rng, 150, each), each), fpir)
    for size in (5, 20, 50):
        reached = []
        for _ in range(20):
            gallery = Gallery(crowd(rng, 60, 1))
            gallery.add(crowd(rng, size, each), np.repeat(np.arange(size), each).tolist())
            reached.append((gallery.matches().score >= tau_for(taus, size)).mean())
        assert fpir / 4 < np.mean(reached) < fpir * 3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 60), st.integers(1, 4))
def test_thresholds_grow_with_the_gallery_and_do_not_depend_on_the_order(seed: int, people: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    voices = voices_of(crowd(rng, people, each), each)
    taus = impostor_taus(voices)
    assert [size for size, _ in taus] == sorted({size for size, _ in taus})
    assert taus[-1][0] == people - 1
    assert [tau for _, tau in taus] == sorted(tau for _, tau in taus)
    assert impostor_taus(voices) == taus


def test_neither_their_own_voices_nor_their_own_asset_make_strangers_look_alike() -> None:
    own = crowd(np.random.default_rng(1), 30, 3)
    # In the asset of each person lie the same voices under the next one's name: an echo on the line.
    vectors = np.concatenate([own, own])
    owners = np.concatenate([np.repeat(np.arange(30), 3), np.repeat((np.arange(30) + 1) % 30, 3)])
    assets = np.concatenate([np.repeat(np.arange(30), 3)] * 2)
    together = impostor_taus(Voices(vectors, owners, assets))
    apart = impostor_taus(Voices(vectors, owners, np.arange(len(owners))))
    assert apart[-1][1] > 0.9
    assert together[-1][1] < 0.85


def test_one_who_speaks_most_does_not_decide() -> None:
    rng = np.random.default_rng(2)
    few, many = crowd(rng, 40, 2), crowd(rng, 1, 400)
    double = np.concatenate([few, many])
    owners = np.concatenate([np.repeat(np.arange(40), 2), np.full(400, 40)])
    one = impostor_taus(Voices(double, owners, np.arange(len(owners))))
    other = impostor_taus(Voices(double[:82], owners[:82], np.arange(82)))
    assert one[0][1] == pytest.approx(other[0][1], abs=0.06)


def labelled(db: Any, people: int) -> Any:
    ids = archive(db, {f"{number}-{take}.wav": [f"p{number}"] for number in range(people) for take in range(2)})
    for number in range(people):
        for take in range(2):
            label(db, f"P{number}", [at(db, ids[f"{number}-{take}.wav"], 0)], ME)
    space = make_spaces(db, DIMENSION)["voice"]
    activate_if_complete(db, space)
    return space


def test_too_few_people_are_refused_with_the_reason_and_nothing_is_stored(db: Any) -> None:
    space = labelled(db, 3)
    with pytest.raises(
        RushesError, match=rf"3 people have a labelled voice, and {LEAST_SPEAKERS} are needed.*label more"
    ):
        calibrate(db, space)
    assert db.execute("SELECT count(*) FROM calibrations").fetchone() == (0,)
    assert taus_in_force(db, space).taus == shipped_thresholds("ge2e").taus


def test_a_calibration_is_in_force_until_it_is_reset(db: Any, db_url: str) -> None:
    space = labelled(db, 21)
    assert rushes("speakers", "calibrate", "--dry-run", url=db_url).returncode == 0
    assert taus_in_force(db, space).at is None
    done = rushes("speakers", "calibrate", "--json", url=db_url)
    told = json.loads(done.stdout)
    assert (told["speakers"], told["voices"], told["stored"]) == (21, 42, True)
    taus = taus_in_force(db, space)
    assert [list(pair) for pair in taus.taus] == told["taus"]
    assert taus.speakers == 21
    archive(db, {"new.wav": ["p3"]})
    found = identify(db, space, IdentifyOptions(), None)
    assert found.named == 1
    stored = db.execute("SELECT tau FROM local_speakers WHERE method = 'knn'").fetchone()
    assert stored[0] == pytest.approx(tau_for(taus.taus, 21), abs=1e-6)
    refused = rushes("speakers", "calibrate", "--reset", url=db_url)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert rushes("speakers", "calibrate", "--reset", "--yes", url=db_url).returncode == 0
    assert taus_in_force(db, space).taus == shipped_thresholds("ge2e").taus
    assert "nothing to reset" in rushes("speakers", "calibrate", "--reset", url=db_url).stdout


def test_thresholds_nobody_measured_are_called_an_estimate(db: Any, caplog: Any) -> None:
    space = labelled(db, 2)
    db.execute("UPDATE spaces SET choice = jsonb_set(choice, '{engine}', '\"pyannote\"') WHERE kind = 'voice'")
    from cluster.db.spaces import get_space

    taus = taus_in_force(db, get_space(db, space.space_id))
    assert taus.is_estimate
    assert "estimate" in caplog.text
    assert "estimate" in taus.describe()
