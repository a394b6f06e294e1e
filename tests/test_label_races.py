"""Decisions at the same time as others, and as commits: one wins, the other hears of it, nothing locks up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest

from cluster.db.connect import open_connection
from cluster.db.forget import forget_asset
from cluster.db.spaces import active_space
from cluster.db.speakers.actions import ConflictError, label, look, merge, split, undo
from cluster.db.speakers.clusters import read_points, write_clustering
from cluster.db.speakers.events import last_event
from cluster.db.speakers.forget import forget_speaker
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.errors import RushesError, UsageError
from tests.corpus_rows import new_run
from tests.people import archive, at, commit_spoken, everything, named, put_in_cluster, spoken
from tests.test_undo import check, from_scratch, state
from tests.waits import until_it_waits

ME = "me"


def at_once(url: str, *actions: Callable[[Any], Any]) -> list[Any]:
    """Each with a connection of its own, begun together; what it returned, or its error."""
    outcomes: list[Any] = [None] * len(actions)
    begin = threading.Barrier(len(actions))

    def work(number: int, action: Callable[[Any], Any]) -> None:
        with open_connection(url) as conn:
            begin.wait()
            try:
                outcomes[number] = action(conn)
            except (psycopg.Error, RushesError) as error:
                outcomes[number] = error

    threads = [threading.Thread(target=work, args=one) for one in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "they wait for each other"
    return outcomes


def test_of_two_who_label_one_cluster_at_once_one_wins_and_the_other_hears_of_it(db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])
    one, other = at(db, ids["a.wav"], 0), at(db, ids["b.wav"], 0)
    seen = look(db, [one]), look(db, [other])
    outcomes: list[Any] = []

    def second() -> None:
        with open_connection(db_url) as conn:
            try:
                outcomes.append(label(conn, "Berta", [other], "second", seen=seen[1]))
            except RushesError as error:
                outcomes.append(error)

    thread = threading.Thread(target=second)
    with db.transaction():
        label(db, "Anna", [one], "first", seen=seen[0])
        thread.start()
        with open_connection(db_url) as watching:
            until_it_waits(watching, thread)
    thread.join()
    [lost] = outcomes
    assert isinstance(lost, ConflictError)
    assert "(event 1 by first): it is Anna now; nothing was changed" in str(lost)
    assert named(db) == {name: ["Anna"] for name in ids}
    assert state(db) == from_scratch(db)
    label(db, "Berta", [other], "second", seen=look(db, [other]))
    assert named(db)["b.wav"] == ["Berta"]


def test_who_labels_a_voice_whose_person_was_forgotten_meanwhile_hears_of_it(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    target = at(db, ids["a.wav"], 0)
    label(db, "Anna", [target], "first")
    seen = look(db, [target])
    forget_speaker(db, "Anna")
    with pytest.raises(ConflictError, match="a moment ago: it is unknown now; nothing was changed"):
        label(db, "Berta", [target], "second", seen=seen)
    assert named(db) == {"a.wav": [None]}


def test_who_labels_or_splits_in_an_asset_that_was_forgotten_meanwhile_hears_of_it(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    targets = [at(db, asset_id, 0) for asset_id in ids.values()]
    label(db, "Anna", targets, ME)
    forget_asset(db, ids["b.wav"])
    before = everything(db)
    for work in (lambda: label(db, "Berta", targets, ME), lambda: split(db, "Anna", "Berta", targets[1:], ME)):
        with pytest.raises(RushesError, match="forgotten a moment ago; nothing was changed"):
            work()
        assert everything(db) == before


def test_who_labels_the_same_name_at_once_agrees(db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])
    targets = [at(db, asset_id, 0) for asset_id in ids.values()]
    seen = look(db, targets)
    outcomes = at_once(db_url, *(lambda conn, one=one: label(conn, "Anna", [one], ME, seen=seen) for one in targets))
    assert not any(isinstance(one, Exception) for one in outcomes), outcomes
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna"]}
    assert db.execute("SELECT count(*) FROM speakers").fetchone() == (1,)


def test_an_event_is_taken_back_once_however_many_try(db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    before = everything(db)
    event = label(db, "Anna", [at(db, ids["a.wav"], 0)], ME).event_id
    outcomes = at_once(db_url, *[lambda conn: undo(conn, event, ME)] * 3)
    assert sorted(type(one).__name__ for one in outcomes) == ["Decision", "UsageError", "UsageError"]
    assert everything(db) == before
    assert last_event(db) == event + 1


def test_labels_stand_and_nothing_locks_up_beside_commits_of_the_same_voices(db: Any, db_url: str) -> None:
    ids = archive(db, {name: ["anna", "bob", "anna"] for name in ("a.wav", "b.wav", "c.wav")})
    put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])
    put_in_cluster(db, [(asset_id, 1) for asset_id in ids.values()])
    place = at(db, ids["a.wav"], 0), at(db, ids["b.wav"], 1)
    label(db, "Anna", [place[0]], ME)
    label(db, "Bob", [place[1]], ME)
    rounds = 12

    def commits(name: str) -> Callable[[Any], None]:
        def work(conn: Any) -> None:
            for number in range(rounds):
                commit_spoken(conn, ids[name], *spoken(["anna", "bob", "anna"], start_ms=number % 3 * 100))

        return work

    def decisions(conn: Any) -> None:
        for number in range(rounds):
            merged = merge(conn, "Bob", "Anna", ME).event_id
            undo(conn, merged, ME)
            label(conn, f"Other {number % 2}", [place[0]], ME)
            label(conn, "Anna", [place[0]], ME)

    outcomes = at_once(db_url, commits("b.wav"), commits("c.wav"), decisions)
    assert outcomes == [None, None, None]
    assert named(db)["a.wav"] == ["Anna", "Bob", "Anna"]
    assert named(db)["b.wav"][1] == "Bob"
    assert state(db) == from_scratch(db)
    check(db)


def test_many_who_decide_at_once_leave_what_the_log_says(db: Any, db_url: str) -> None:
    ids = archive(db, {name: ["anna", "bob"] for name in ("a.wav", "b.wav", "c.wav")})
    put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])

    def person(number: int) -> Callable[[Any], None]:
        def work(conn: Any) -> None:
            for step in range(8):
                target = at(conn, sorted(ids.values())[(number + step) % 3], step % 2)
                try:
                    done = label(conn, f"P{(number + step) % 4}", [target], ME, seen=look(conn, [target]))
                    if step % 3 == 0:
                        undo(conn, done.event_id, ME)
                except (ConflictError, UsageError):
                    pass

        return work

    assert at_once(db_url, *(person(number) for number in range(4))) == [None] * 4
    assert state(db) == from_scratch(db)
    check(db)


def test_labels_beside_clustering_and_recognition_stand_and_nothing_locks_up(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{number}.wav": ["anna", "bob"] for number in range(6)})
    space = active_space(db, "voice")
    assert space is not None
    label(db, "Anna", [at(db, ids["0.wav"], 0)], ME)
    rounds = 8

    def recognises(conn: Any) -> None:
        for _ in range(rounds):
            identify(conn, space, IdentifyOptions(again=True), None)

    def clusters(conn: Any) -> None:
        for _ in range(rounds):
            points = read_points(conn, space)
            write_clustering(conn, space, points, np.asarray([who for _, who in points.keys]), new_run(conn))

    def decides(conn: Any) -> None:
        for number in range(rounds):
            done = label(conn, "Bob", [at(conn, ids["1.wav"], 1)], ME).event_id
            label(conn, "Carla", [at(conn, ids["2.wav"], number % 2)], ME)
            undo(conn, done, ME)
            label(conn, "Bob", [at(conn, ids["1.wav"], 1)], ME)

    assert at_once(db_url, recognises, clusters, decides) == [None] * 3
    assert named(db)["0.wav"][0] == "Anna"
    assert named(db)["1.wav"][1] == "Bob"
    check(db)
