"""Pictures that look alike: what joins, what leads, in whatever order they come and whatever is killed."""

from __future__ import annotations

import hashlib
import threading
from contextlib import closing

import numpy as np

from cluster.db import visual
from cluster.db.connect import open_connection
from cluster.db.forget import forget_asset
from cluster.db.patience import Session
from cluster.db.pictures import write_image_vectors
from cluster.db.results import commit_row
from cluster.db.spaces import index_name
from cluster.db.visual_cards import count_visual, visual_cards
from cluster.leaders import Leaders, keep_ids
from jobs.visual import cluster, cluster_again
from tests.corpus_rows import claimed, new_run
from tests.picture_rows import PICTURE_PRINTS, commit_pictures, frame, image_space, phash, picture_row, unit

LEAST = 0.72
# By the SHA-256 of their names these three are decided in this order.
A, B, C = sorted(("a.jpg", "b.jpg", "c.jpg"), key=lambda name: hashlib.sha256(name.encode()).digest())


def image(db, space, name, *vectors, informative=True):
    """An image, or a film when there are several vectors, with a hash of its own for each frame."""
    frames = [
        frame(i, phash(hash((name, i))), i * 1000, informative=informative, shot=None if name.endswith(".jpg") else 0)
        for i in range(len(vectors))
    ]
    return commit_pictures(db, name, frames, space=space, vectors=list(vectors))


def groups(db):
    """The clusters as sets of (asset, idx), without their numbers."""
    rows = db.execute(
        "SELECT m.cluster_id, encode(a.sha256, 'hex'), f.idx FROM visual_members m JOIN frames f USING (frame_id)"
        " JOIN assets a USING (asset_id)"
    ).fetchall()
    return {frozenset((sha, idx) for other, sha, idx in rows if other == number) for number, _, _ in rows}


def members(db):
    """(asset, idx) -> cluster and similarity."""
    rows = db.execute(
        "SELECT f.asset_id, f.idx, m.cluster_id, round(m.similarity::numeric, 4) FROM visual_members m"
        " JOIN frames f USING (frame_id)"
    )
    return {row[:2]: row[2:] for row in rows}


def random_vectors(count, seed=0):
    """Unit vectors in loose bundles, so that many are about as alike as the threshold."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, 8))
    found = centres[rng.integers(0, 8, count)] + rng.standard_normal((count, 8)) * 0.6
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_a_picture_joins_the_nearest_leader_that_is_alike_enough_or_leads(db):
    space = image_space(db)
    first = image(db, space, A, unit(1))
    second = image(db, space, B, unit(0.8, 0.6))
    third = image(db, space, C, unit(0.6, 0.8))
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided(joined=1, led=2)
    found = members(db)
    # 0.96 with a member that does not lead counts for nothing, 0.6 with the leader is too little
    assert found[second, 0][0] == found[first, 0][0] != found[third, 0][0]
    assert [float(found[one, 0][1]) for one in (first, second, third)] == [1.0, 0.8, 1.0]
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided()


def test_later_frames_of_a_batch_see_the_leaders_of_earlier_ones(db):
    space = image_space(db)
    image(db, space, "film.mp4", unit(1), unit(0, 1), unit(1, 0.1), unit(0.1, 1))
    visual.decide_waiting(db, space, LEAST)
    assert sorted(len(group) for group in groups(db)) == [2, 2]


def test_flat_pictures_and_pictures_without_a_vector_are_in_no_cluster(db):
    space = image_space(db)
    image(db, space, A, unit(1), informative=False)
    commit_pictures(db, B, [frame(0, phash(3), 0, shot=None)])
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided()
    assert count_visual(db, space) == {"frames": 0, "clusters": 0, "alone": 0, "waiting": 0}


def test_a_threshold_of_one_joins_what_is_the_same_and_nothing_else(db):
    space = image_space(db, 512)
    vector = np.random.default_rng(5).standard_normal((2, 512)).astype(np.float32)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    image(db, space, A, vector[0])
    image(db, space, B, vector[0])
    image(db, space, C, vector[1])
    assert visual.decide_waiting(db, space, 1.0) == visual.Decided(joined=1, led=2)
    assert visual.decide_again(db, space, 1.0).clusters == 2


def test_killed_after_any_batch_and_repeated_it_decides_the_same(db, monkeypatch):
    space = image_space(db)
    for number, vector in enumerate(random_vectors(40)):
        image(db, space, f"{number}.jpg", vector)
    visual.decide_waiting(db, space, LEAST)
    whole = groups(db)
    assert 3 < len(whole) < 30
    monkeypatch.setattr(visual, "BATCH_FRAMES", 7)
    right, calls = visual.decide, []

    def dying(*args):
        calls.append(args)
        if len(calls) % 11 == 0:
            raise KeyboardInterrupt
        return right(*args)

    monkeypatch.setattr(visual, "decide", dying)
    db.execute("DELETE FROM visual_clusters")
    broken = 0
    while True:
        try:
            visual.decide_waiting(db, space, LEAST)
            break
        except KeyboardInterrupt:
            broken += 1
    assert broken > 2
    assert groups(db) == whole


def test_decided_anew_the_order_of_arrival_does_not_matter(db):
    space = image_space(db)
    vectors = random_vectors(40, seed=1)
    for number in np.random.default_rng(2).permutation(40):
        image(db, space, f"{number}.jpg", vectors[number])
        visual.decide_waiting(db, space, LEAST)
    came = groups(db)
    visual.decide_again(db, space, LEAST)
    again = groups(db)
    db.execute("DELETE FROM visual_clusters")
    visual.decide_waiting(db, space, LEAST)
    assert groups(db) == again != came
    assert count_visual(db, space)["frames"] == 40


def test_two_jobs_at_once_decide_each_picture_once(db, db_url):
    space = image_space(db)
    for number, vector in enumerate(random_vectors(60, seed=3)):
        image(db, space, f"{number}.jpg", vector)
    failed = []

    def work():
        try:
            with closing(Session(db_url, 5.0)) as session:
                cluster(session, space, LEAST)
        except Exception as error:  # noqa: BLE001 - counted
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = groups(db)
    db.execute("DELETE FROM visual_clusters")
    visual.decide_waiting(db, space, LEAST)
    assert (failed, found) == ([], groups(db))


def test_frames_that_are_written_anew_go_back_into_their_clusters(db):
    space = image_space(db)
    ids = {name: image(db, space, name, vector) for name, vector in ((A, unit(1)), (B, unit(1, 0.2)), (C, unit(0, 1)))}
    visual.decide_waiting(db, space, LEAST)
    before = members(db)
    db.execute("UPDATE units SET state = 'pending' WHERE asset_id = %s", (ids[A],))
    run_id = new_run(db)
    units = claimed(db, run_id, ids[A], ("frames", "images"), PICTURE_PRINTS)
    row = picture_row(ids[A], units, [frame(0, phash(1), 0, shot=None)], vectors=[unit(1)])
    assert commit_row(db, run_id, row, {"image": space}) == "done"
    assert (ids[A], 0) not in members(db)
    visual.decide_waiting(db, space, LEAST)
    assert members(db) == before


def test_forgetting_the_leaders_asset_leaves_its_members_to_be_decided(db):
    space = image_space(db)
    leader, second, third = (image(db, space, name, v) for name, v in zip((A, B, C), map(unit, (1, 1, 1)), strict=True))
    visual.decide_waiting(db, space, LEAST)
    old = members(db)[second, 0][0]
    assert forget_asset(db, leader)
    assert db.execute(f"SELECT count(*) FROM {space.leaders_table}".encode()).fetchone() == (0,)
    assert count_visual(db, space)["waiting"] == 2
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided(joined=1, led=1)
    assert {number for number, _ in members(db).values()} == {members(db)[third, 0][0]} != {old}


def test_an_asset_that_is_being_forgotten_or_written_is_waited_for_by_nobody(db, db_url):
    space = image_space(db)
    leader, other = image(db, space, A, unit(1)), image(db, space, B, unit(0, 1))
    visual.decide_waiting(db, space, LEAST)
    late, mine = image(db, space, C, unit(1, 0.1)), image(db, space, "late.jpg", unit(0.1, 1))
    with open_connection(db_url) as second, second.transaction():
        second.execute("SELECT 1 FROM assets WHERE asset_id = %s FOR UPDATE", (leader,))
        second.execute("DELETE FROM assets WHERE asset_id = %s", (leader,))
        vectors = [{"idx": 0, "vector": unit(0, 1)}]
        write_image_vectors(second, space, other, vectors, [{"idx": 0}])
        # the leader of one is being deleted; the leader of the other stays although its frame is rewritten
        assert visual.decide_waiting(db, space, LEAST) == visual.Decided(joined=1, led=0)
        assert (late, 0) not in members(db)
        assert (mine, 0) in members(db)
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided(joined=1, led=1)
    assert set(members(db)) == {(other, 0), (late, 0), (mine, 0)}


def test_decided_anew_clusters_keep_the_number_of_those_they_share_most_with(db):
    space = image_space(db)
    image(db, space, "film.mp4", *[unit(1, 0.01 * i) for i in range(5)], *[unit(0, 1, 0.01 * i) for i in range(3)])
    visual.decide_waiting(db, space, LEAST)
    big, small = (card.cluster_id for card in visual_cards(db, space, 10))
    before = members(db)
    assert visual.decide_again(db, space, LEAST) == visual.Again(frames=8, clusters=2, kept=2, dropped=0)
    assert members(db) == before
    # all in one: it shares five with the one and three with the other
    assert visual.decide_again(db, space, 0.0) == visual.Again(frames=8, clusters=1, kept=1, dropped=1)
    assert {number for number, _ in members(db).values()} == {big}
    assert visual.decide_again(db, space, LEAST) == visual.Again(frames=8, clusters=2, kept=1, dropped=0)
    assert [card.frames for card in visual_cards(db, space, 10)] == [5, 3]
    assert visual_cards(db, space, 10)[0].cluster_id == big
    assert small not in {card.cluster_id for card in visual_cards(db, space, 10)}


def test_clusters_without_members_go_when_all_is_decided_anew(db):
    space = image_space(db)
    asset_id = image(db, space, A, unit(1))
    visual.decide_waiting(db, space, LEAST)
    with db.transaction():
        write_image_vectors(db, space, asset_id, [{"idx": 0, "vector": unit(0, 1)}], [{"idx": 0}])
    visual.decide_waiting(db, space, LEAST)
    assert db.execute("SELECT count(*) FROM visual_clusters").fetchone() == (2,)
    assert [card.frames for card in visual_cards(db, space, 10)] == [1]
    assert visual.decide_again(db, space, LEAST) == visual.Again(frames=1, clusters=1, kept=1, dropped=1)


def test_frames_that_change_while_all_is_decided_anew_are_decided_by_what_they_are_then(db, monkeypatch):
    space = image_space(db)
    kept, changed = image(db, space, A, unit(1)), image(db, space, B, unit(1, 0.1))
    gone = image(db, space, C, unit(1, 0.2))
    right = visual.lead_all

    def interrupted(*args):
        found = right(*args)
        with db.transaction():
            write_image_vectors(db, space, changed, [{"idx": 0, "vector": unit(0, 1)}], [{"idx": 0}])
        forget_asset(db, gone)
        return found

    monkeypatch.setattr(visual, "lead_all", interrupted)
    assert visual.decide_again(db, space, LEAST).frames == 1
    found = members(db)
    assert set(found) == {(kept, 0), (changed, 0)}
    assert found[kept, 0][0] != found[changed, 0][0]


def test_from_many_leaders_on_an_index_finds_the_nearest_and_survives_deciding_anew(db, monkeypatch):
    monkeypatch.setattr("cluster.db.spaces.INDEX_FROM_ROWS", 5)
    monkeypatch.setattr(visual, "BATCH_FRAMES", 10)
    space = image_space(db)
    for number, vector in enumerate(random_vectors(60, seed=4)):
        image(db, space, f"{number}.jpg", vector)
    visual.decide_waiting(db, space, LEAST)
    indexed = "SELECT to_regclass(%s) IS NOT NULL"
    name = index_name(space.leaders_table)
    assert db.execute(indexed, (name,)).fetchone() == (True,)
    before = groups(db)
    visual.decide_again(db, space, LEAST)
    assert groups(db) == before
    assert db.execute(indexed, (name,)).fetchone() == (True,)
    late = image(db, space, "late.jpg", random_vectors(1, seed=4)[0])
    assert visual.decide_waiting(db, space, LEAST) == visual.Decided(joined=1)
    assert float(members(db)[late, 0][1]) >= LEAST


def test_leaders_are_those_of_one_by_one_whatever_the_blocks():
    vectors = random_vectors(300, seed=6)
    leaders, expected = [], []
    for vector in vectors:
        cosines = [float(vector @ vectors[leader]) for leader in leaders]
        best = int(np.argmax(cosines)) if leaders else -1
        if best < 0 or cosines[best] < LEAST:
            best = len(leaders)
            leaders.append(len(expected))
        expected.append(best)
    for size in (1, 37, 300):
        found = Leaders(8, LEAST)
        numbers = [found.add(vectors[i : i + size])[0] for i in range(0, 300, size)]
        assert np.concatenate(numbers).tolist() == expected
        assert found.count == len(leaders)


def test_no_old_number_is_given_twice():
    shared = [(0, 7, 2), (1, 7, 5), (0, 9, 1), (2, 9, 1), (3, 4, 1)]
    assert keep_ids(shared) == {1: 7, 0: 9, 3: 4}


def test_nothing_locks_up_beside_commits_and_forgetting(db, db_url):
    space = image_space(db)
    vectors = random_vectors(60, seed=7)
    ids = [image(db, space, f"{number}.mp4", vectors[number], vectors[-number]) for number in range(60)]
    over, failed, rng = threading.Event(), [], np.random.default_rng(8)

    def repeated(work):
        with closing(Session(db_url, 5.0)) as session:
            while not over.is_set():
                try:
                    work(session)
                except Exception as error:  # noqa: BLE001 - counted
                    failed.append(error)
                    return

    def rewrite(session):
        def work(conn):
            with conn.transaction():
                asset_id = ids[rng.integers(20, 60)]
                conn.execute("SELECT 1 FROM assets WHERE asset_id = %s FOR NO KEY UPDATE", (asset_id,))
                new = [{"idx": i, "vector": vectors[rng.integers(60)]} for i in range(2)]
                write_image_vectors(conn, space, asset_id, new, [{"idx": 0}, {"idx": 1}])

        session.run(work)

    def decide(session):
        cluster(session, space, LEAST)

    def decide_anew(session):
        cluster_again(session, space, LEAST)

    works = (rewrite, rewrite, decide, decide, decide_anew)
    threads = [threading.Thread(target=repeated, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        for asset_id in ids[:20]:
            assert forget_asset(db, asset_id)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []
    deadlocks = db.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()[0]
    assert deadlocks == 0
    visual.decide_waiting(db, space, LEAST)
    assert len(members(db)) == 80
    visual.decide_again(db, space, LEAST)
    again = groups(db)
    db.execute("DELETE FROM visual_clusters")
    visual.decide_waiting(db, space, LEAST)
    assert groups(db) == again
