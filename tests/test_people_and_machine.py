"""People and the machine at work by turns: what stands is always what the log, the clusters and recognition say."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.db.forget import forget_asset
from cluster.db.spaces import Space, get_space
from cluster.db.speakers.actions import label, merge, rename, split, undo
from cluster.db.speakers.clusters import read_points, write_clustering
from cluster.db.speakers.forget import forget_speaker
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.db.speakers.names import derive_speakers
from cluster.db.speakers.parts import derive_parts
from cluster.db.speakers.splits import split_cluster
from cluster.db.speakers.state import lock_decisions, refresh
from cluster.errors import RushesError
from tests.corpus_rows import new_run
from tests.people import archive, at, everything, voice_of
from tests.test_undo import check

ME = "me"
PEOPLE = ["anna", "bob", "carla", "dora"]
NAMES = ["Anna", "Bob", "Carla", "anna", "Dora", "Ed"]
STEPS = 30


def state(conn: Any) -> dict[str, Any]:
    """All that follows, without numbers that a second derivation gives anew."""
    found: dict[str, Any] = everything(conn)
    members = "SELECT asset_id, local_speaker, found_in, cluster_id FROM cluster_members ORDER BY 1, 2"
    return {**found, "segments": [row[:2] for row in found["segments"]], "members": conn.execute(members).fetchall()}


def derived_anew(conn: Any) -> dict[str, Any]:
    """The state that follows from nothing but the log, where clustering put whom, and the identifications."""
    with conn.transaction(force_rollback=True):
        lock_decisions(conn)
        conn.execute("UPDATE speakers SET is_used = false, merged_into = NULL, root_id = NULL, name = first_name")
        conn.execute(
            "UPDATE local_speakers SET speaker_id = NULL, method = NULL, score = NULL, margin = NULL, tau = NULL,"
            " run_id = NULL"
        )
        conn.execute(
            "UPDATE cluster_members SET speaker_id = NULL, score = NULL, margin = NULL, tau = NULL,"
            " cluster_id = found_in"
        )
        conn.execute("DELETE FROM segment_labels")
        derive_speakers(conn, numbers(conn, "SELECT speaker_id FROM speakers"))
        derive_parts(conn, numbers(conn, "SELECT DISTINCT found_in FROM cluster_members"))
        refresh(conn, numbers(conn, "SELECT asset_id FROM assets"))
        return state(conn)


def numbers(conn: Any, query: str) -> list[int]:
    return [row[0] for row in conn.execute(query)]


class World:
    """A small archive, and everything that may happen to it; a step gives the number of its event, if any."""

    def __init__(self, conn: Any, seed: int) -> None:
        self.conn, self.dice = conn, random.Random(seed)
        drawn = {f"{name}.wav": self.dice.choices([*PEOPLE, None], k=self.dice.randint(1, 5)) for name in "abcde"}
        self.files, self.ids = drawn, archive(conn, drawn)
        self.space: Space = get_space(conn, 1)

    def step(self) -> tuple[str, int | None]:
        steps: dict[str, tuple[int, Callable[[], int | None]]] = {
            "label": (5, lambda: label(self.conn, self.name(), [self.place(), self.place()], ME).event_id),
            "segment": (1, lambda: label(self.conn, self.name(), [self.place("segment")], ME).event_id),
            "nobody": (1, lambda: label(self.conn, None, [self.place()], ME).event_id),
            "merge": (2, lambda: merge(self.conn, self.name(), self.name(), ME).event_id),
            "rename": (1, lambda: rename(self.conn, self.name(), self.name(), ME).event_id),
            "split": (1, lambda: split(self.conn, self.name(), self.name(), [self.place()], ME).event_id),
            "undo": (3, self.undo),
            "identify": (2, self.identify),
            "cluster": (2, self.cluster),
            "part": (2, self.part),
            "forget": (1, lambda: forget_speaker(self.conn, self.name()) and None),
            "forget asset": (1, self.forget_asset),
        }
        kind = self.dice.choices(list(steps), [weight for weight, _ in steps.values()])[0]
        return kind, steps[kind][1]()

    def name(self) -> str:
        return self.dice.choice(NAMES)

    def place(self, scope: str = "speaker") -> Any:
        name = self.dice.choice(sorted(self.ids))
        return at(self.conn, self.ids[name], self.dice.randrange(len(self.files[name])), scope)

    def undo(self) -> int | None:
        log = numbers(self.conn, "SELECT event_id FROM speaker_events ORDER BY 1")
        return undo(self.conn, self.dice.choice(log), ME).event_id if log else None

    def identify(self) -> None:
        identify(self.conn, self.space, IdentifyOptions(again=self.dice.random() < 0.5), new_run(self.conn))

    def cluster(self) -> None:
        """By who really speaks, with one voice of an asset in a cluster, and no cluster of one."""
        points = read_points(self.conn, self.space)
        likely = [max(range(4), key=lambda who: float(v @ voice_of(PEOPLE[who], 0, 0.0))) for v in points.vectors]
        pairs = [(asset_id, who) for (asset_id, _), who in zip(points.keys, likely, strict=True)]
        labels = [who if pair not in pairs[:i] else -1 for i, (pair, who) in enumerate(zip(pairs, likely, strict=True))]
        kept = np.asarray([who if labels.count(who) > 1 else -1 for who in labels], np.int64)
        if len(kept):
            write_clustering(self.conn, self.space, points, kept, new_run(self.conn))

    def part(self) -> int | None:
        clusters = numbers(self.conn, "SELECT DISTINCT cluster_id FROM cluster_members ORDER BY 1")
        return split_cluster(self.conn, self.dice.choice(clusters), 2, ME).event_id if clusters else None

    def forget_asset(self) -> None:
        if len(self.ids) > 2:
            forget_asset(self.conn, self.ids.pop(self.dice.choice(sorted(self.ids))))


@pytest.mark.parametrize("seed", range(6))
def test_what_stands_follows_from_what_was_said_whatever_came_in_between(db: Any, seed: int) -> None:
    world = World(db, seed)
    for number in range(STEPS):
        before, event = state(db), None
        try:
            kind, event = world.step()
        except RushesError:
            kind = "refused"
            assert state(db) == before, (number, kind)
        check(db)
        assert state(db) == derived_anew(db), (number, kind)
        if event is None or kind == "undo":
            continue
        after = state(db)
        taken_back = undo(db, event, ME).event_id
        assert state(db) == before, (number, kind, "undo")
        undo(db, taken_back, ME)
        assert state(db) == after, (number, kind, "redo")
