"""Two sequences of hashes laid over each other: copies are found whatever was done to them, others are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cluster.duplicates.align import Samples, align
from cluster.duplicates.bands import MOST_PROBES, NEAR_BITS, anchors, different, distances, probes
from cluster.duplicates.groups import connected, way

RNG = np.random.default_rng(5)


def hashes(count, still=1, rng=RNG):
    """Pictures far from each other, each shown for `still` samples."""
    return np.repeat(rng.integers(0, 2**64, -(-count // still), np.uint64), still)[:count]


def film(values, start_ms=0, step_ms=500):
    return Samples((start_ms + np.arange(len(values)) * step_ms).astype(np.int32), np.asarray(values, np.uint64))


def noisy(values, bits, rng=RNG):
    """Each hash with so many bits turned over."""
    turned = [int(np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, bits, False).astype(np.uint64))) for _ in values]
    return values ^ np.array(turned, np.uint64)


def mirrored(found):
    return None if found is None else (-found.offset_ms, found.coverage_b, found.coverage_a, found.distance)


def both_ways(a, b):
    """The alignment, after checking that the other order gives its mirror image."""
    found = align(a, b)
    other = align(b, a)
    assert mirrored(found) == (
        None if other is None else (other.offset_ms, other.coverage_a, other.coverage_b, other.distance)
    )
    return found


def test_the_keys_of_two_hashes_meet_up_to_the_bound_of_seven_bits():
    values = hashes(200)
    for bits in range(NEAR_BITS + 1):
        others = noisy(values, bits)
        assert (distances(values, others) == bits).all()
        own = probes(others)[:, :, 0]
        keys = probes(values)
        assert ((keys == own[:, :, None]).any(axis=2).any(axis=1)).all(), bits
    # one bit in two places of each band: eight bits that the keys miss
    assert not (probes(values[:1]) == probes(values[:1] ^ np.uint64(0x0003_0003_0003_0003))[:, :, :1]).any()


def test_anchors_are_one_of_each_still_stretch():
    values = hashes(5)
    seen = np.concatenate([values[:1], values[:1] ^ np.uint64(7), values[1:], values[:1]])
    found, is_probe = anchors(seen)
    assert found.tolist() == sorted(set(values.tolist()))
    assert is_probe.all()
    assert [len(part) for part in anchors(values[:0])] == [0, 0]
    assert different(np.concatenate([values, noisy(values, 7)]), 100) == 5


def test_probes_are_few_and_lie_all_over_a_long_film():
    values = hashes(20_000)
    found, is_probe = anchors(values)
    places = np.flatnonzero(np.isin(values, found[is_probe]))
    assert len(places) == MOST_PROBES
    assert np.diff(places).max() <= 20_000 / MOST_PROBES + 2


def test_a_reencoded_copy_lies_on_its_original_from_beginning_to_end():
    values = hashes(120, still=3)
    found = both_ways(film(values), film(noisy(values, 4)))
    assert (found.offset_ms, found.coverage_a, found.coverage_b) == (0, 1, 1)
    assert found.distance == pytest.approx(4, abs=1)


def test_a_trimmed_copy_is_found_with_the_time_at_which_it_begins():
    values = hashes(200, still=2)
    found = both_ways(film(values), film(noisy(values, 6)[20:]))
    assert (found.offset_ms, found.coverage_b) == (10_000, 1)
    assert found.coverage_a == pytest.approx(0.9)


def test_a_clip_is_found_in_a_film_of_ten_hours():
    values = hashes(72_000, still=4)
    found = both_ways(film(noisy(values[50_000:50_040], 3)), film(values))
    assert (found.offset_ms, found.coverage_a) == (-25_000_000, 1)
    assert found.coverage_b < 0.001


def test_two_long_films_of_which_the_last_half_is_the_same_are_found():
    shared = hashes(4000, still=4)
    found = both_ways(film(np.concatenate([hashes(3900, still=4), shared])), film(noisy(shared, 5)))
    assert found.offset_ms == 1_950_000


@pytest.mark.parametrize("beside_ms", [100, 250, -180])
def test_samples_that_lie_beside_the_grid_of_the_other_still_meet(beside_ms):
    for still, within_ms in ((1, 0), (3, 250)):
        values = hashes(90, still=still)
        a, b = film(values), film(noisy(values, 2), start_ms=30_000 + beside_ms)
        found = both_ways(a, b)
        assert abs(found.offset_ms + 30_000 + beside_ms) <= within_ms
        assert found.coverage_b > 0.95


def test_gaps_where_nothing_is_to_be_seen_do_not_hide_a_copy():
    values = hashes(120, still=2)
    keep = np.ones(120, bool)
    keep[10:40] = False
    both = film(values)
    dark = Samples(both.times_ms[keep], noisy(values, 4)[keep])
    found = both_ways(both, dark)
    assert found.offset_ms == 0
    assert found.coverage_b == 1


def test_a_shared_opening_or_title_card_makes_no_duplicate():
    card = hashes(1)
    for shown in (2, 10, 30):
        opening = np.repeat(card, shown)
        films = [film(np.concatenate([opening, hashes(60, still=2)])) for _ in range(3)]
        assert [both_ways(a, b) for a, b in itertools.combinations(films, 2)] == [None] * 3


def test_two_recordings_of_one_still_picture_are_copies_only_when_they_are_equally_long():
    card = hashes(1)
    a, b, c = film(np.repeat(card, 100)), film(np.repeat(card, 60)), film(np.repeat(card, 100))
    assert both_ways(a, b) is None
    found = both_ways(a, film(noisy(c.hashes, 2)))
    assert (found.offset_ms, found.coverage_a, found.coverage_b) == (0, 1, 1)


def test_two_talks_in_one_room_are_no_copies_and_a_trimmed_copy_with_other_scenes_is():
    room = np.repeat(hashes(1), 300)
    talks = [film(noisy(room, 4)) for _ in range(2)]
    assert both_ways(*talks) is None
    assert both_ways(talks[0], film(talks[1].hashes[:280])) is None
    mixed = np.where(np.arange(300) % 60 < 30, talks[0].hashes, hashes(300, still=5))
    assert both_ways(film(mixed), film(noisy(mixed, 3)[30:])).offset_ms == 15_000


def test_the_same_pictures_in_another_order_are_no_copy():
    values = hashes(80, still=4)
    scenes = values.reshape(-1, 4)
    assert both_ways(film(values), film(RNG.permutation(scenes).ravel())) is None


def test_a_picture_for_half_of_its_time_is_not_enough():
    values = hashes(100, still=2)
    other = np.concatenate([values[:56], hashes(44, still=2)])
    assert both_ways(film(values), film(other)) is None
    assert both_ways(film(values), film(np.concatenate([values[:80], hashes(20, still=2)]))) is not None


def test_nothing_aligns_with_nothing():
    assert align(film([]), film(hashes(9))) is None
    one = hashes(1)
    assert both_ways(film(one), film(one)).coverage_a == 1
    assert both_ways(film(one), film(hashes(1))) is None


def test_unrelated_films_do_not_align():
    films = [film(hashes(count, still=2)) for count in (1, 3, 40, 400)]
    assert [both_ways(a, b) for a, b in itertools.combinations(films, 2)] == [None] * 6


def test_groups_follow_pairs_and_copies_follow_what_stands_for_them():
    assert connected([(5, 6), (1, 2), (9, 2), (6, 7)]) == [[1, 2, 9], [5, 6, 7]]
    assert way({3: 2, 2: 1}, 3) == [3, 2, 1]
