"""How many blocks an actor holds: what a second one may cost is bounded by what is planned for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import blocks_at_hand


@pytest.mark.parametrize(
    ("lengths_s", "actors", "at_hand"),
    [
        ([60.0] * 8, 1, 2),
        ([60.0] * 7, 1, 1),
        ([60.0] * 16, 2, 2),
        ([60.0] * 16, 3, 1),
        ([7200.0, *[60.0] * 100], 1, 1),
        ([7200.0, *[60.0] * 1000], 1, 2),
        ([0.0] * 100, 1, 1),
        ([], 1, 1),
    ],
)
def test_a_second_block_waits_only_where_the_longest_are_a_small_part(lengths_s, actors, at_hand):
    assert blocks_at_hand(lengths_s, actors) == at_hand


def ends_s(lengths_s: list[float], actors: int, at_hand: int) -> list[float]:
    """When each actor ends: every block goes, in order, to one that holds the fewest as soon as one has room."""
    held: list[list[float]] = [[] for _ in range(actors)]
    for length_s in lengths_s:
        now_s = min(sorted(ends)[-at_hand] if len(ends) >= at_hand else 0.0 for ends in held)
        busy = [sum(end > now_s for end in ends) for ends in held]
        mine = held[busy.index(min(busy))]
        mine.append(max([now_s, *mine[-1:]]) + length_s)
    return [ends[-1] if ends else 0.0 for ends in held]


@given(st.lists(st.integers(1, 3_600), min_size=8, max_size=300), st.integers(1, 6))
def test_longest_first_no_actor_ends_later_than_its_part_and_the_two_longest(lengths, actors):
    lengths_s = sorted(map(float, lengths), reverse=True)
    part_s = sum(lengths_s) / actors
    at_hand = blocks_at_hand(lengths_s, actors)
    assert max(ends_s(lengths_s, actors, at_hand)) <= part_s + at_hand * lengths_s[0] + 1e-6
    if at_hand == 2:
        assert max(ends_s(lengths_s, actors, 2)) <= 1.25 * part_s + 1e-6
