"""What people decided about copies, followed to its end, and pairs in connected groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def way(kept: Mapping[int, int], asset_id: int) -> list[int]:
    """From an asset over what each is a copy of to the one that stands for all; `kept` (copy -> kept) has no cycle."""
    found = [asset_id]
    while found[-1] in kept:
        found.append(kept[found[-1]])
    return found


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups that pairs connect, each ascending, by their first."""
    leader: dict[int, int] = {}

    def find(one: int) -> int:
        leader.setdefault(one, one)
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = leader[one]
        return one

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for one in sorted(leader):
        groups.setdefault(find(one), []).append(one)
    return list(groups.values())
