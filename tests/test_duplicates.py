"""Near duplicates in the database: found whatever the order, never asked again once decided."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np
import pytest

from cluster.db.connect import open_connection
from cluster.db.duplicates import find
from cluster.db.duplicates.decisions import (
    ContradictionError,
    read_decisions,
    read_history,
    resolve_copies,
    resolve_different,
    undo,
)
from cluster.db.duplicates.find import compare_again, compare_waiting, near_query, waiting
from cluster.db.duplicates.groups import read_groups
from cluster.db.forget import forget_asset
from cluster.db.patience import Session
from cluster.errors import RushesError, UsageError
from jobs.dupes import compare
from tests.picture_rows import commit_pictures, flipped, frame, image_space, phash, unit


def picture(db: Any, name: str, hashed: bytes, *, informative: bool = True, **more: Any) -> int:
    return commit_pictures(db, name, [frame(0, hashed, 0, informative=informative, shot=None)], **more)


def film(db: Any, name: str, samples: list[bytes], *, key_every: int = 8, first: int = 3, **more: Any) -> int:
    """A video with these samples at two a second, of which every so manieth is a keyframe."""
    timed = [(at * 500, hashed) for at, hashed in enumerate(samples)]
    keys = [frame(idx, hashed, t_ms) for idx, (t_ms, hashed) in enumerate(timed[first::key_every])]
    return commit_pictures(db, name, keys, samples=timed, **more)


def scenes(first: int, count: int, still: int = 2) -> list[bytes]:
    return [phash(number) for number in range(first, first + count) for _ in range(still)]


def softly(hashes: list[bytes], bits: int = 3) -> list[bytes]:
    return [flipped(hashed, [(7 * at + 11 * bit) % 64 for bit in range(bits)]) for at, hashed in enumerate(hashes)]


def pairs(db: Any) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Names of the two, in order -> what was found, as from the first to the second."""
    rows = db.execute(
        "SELECT a.name, b.name, method, distance, coverage_a, coverage_b, offset_ms, similarity FROM near_duplicates"
        " JOIN asset_names a ON a.asset_id = asset_a JOIN asset_names b ON b.asset_id = asset_b"
    )
    found = {}
    for a, b, method, distance, of_a, of_b, offset_ms, cosine in rows:
        short = tuple(name.rsplit("/", 1)[-1] for name in (a, b))
        if short[0] < short[1]:
            found[short] = (method, distance, of_a, of_b, offset_ms, cosine)
        else:
            found[short[::-1]] = (method, distance, of_b, of_a, -offset_ms, cosine)
    return found


def open_pairs(db: Any) -> set[frozenset[int]]:
    return {frozenset((pair.asset_a, pair.asset_b)) for group in read_groups(db) for pair in group}


def test_pictures_up_to_seven_bits_apart_are_found_and_none_beyond(db):
    picture(db, "original.jpg", phash(1))
    for bits in range(1, 12):
        spread = [(bit * 16 + bit // 4) % 64 for bit in range(bits)]
        picture(db, f"{bits:02}.jpg", flipped(phash(1), spread))
    compare_waiting(db)
    near = {
        name for pair, found in pairs(db).items() if "original.jpg" in pair for name in pair if name != "original.jpg"
    }
    assert near == {f"{bits:02}.jpg" for bits in range(1, 8)}
    assert pairs(db)["05.jpg", "original.jpg"] == ("picture", 5, 1, 1, 0, None)
    assert waiting(db) == []


def test_flat_pictures_and_films_of_the_same_picture_are_no_duplicates_of_it(db):
    picture(db, "a.jpg", phash(1))
    picture(db, "black.jpg", phash(1), informative=False)
    film(db, "film.mp4", [phash(1)] * 40)
    assert compare_waiting(db) == 0
    assert pairs(db) == {}


def world(db: Any, order: list[int]) -> None:
    """Pictures and films with copies of each other, committed and compared in this order."""
    whole = scenes(0, 60)
    made = [
        lambda: film(db, "film.mp4", whole),
        lambda: film(db, "copy.mp4", softly(whole, 2), first=1),
        lambda: film(db, "trimmed.mp4", softly(whole[12:], 4), key_every=11),
        lambda: film(db, "clip.mp4", softly(whole[71:95], 2), first=9, key_every=30),
        lambda: film(db, "other.mp4", whole[:6] + scenes(100, 50)),
        lambda: picture(db, "a.jpg", phash(900)),
        lambda: picture(db, "b.jpg", flipped(phash(900), [1, 20])),
        lambda: picture(db, "c.jpg", flipped(phash(900), [1, 20, 21, 40, 41, 60, 61, 62])),
    ]
    for number in order:
        made[number]()
        if number % 3 == 0:
            compare_waiting(db)
    compare_waiting(db)


def test_what_is_found_does_not_depend_on_the_order_of_arrival(db, server_url):
    from tests.conftest import clone_database

    world(db, list(range(8)))
    found = pairs(db)
    assert set(found) == {
        ("copy.mp4", "film.mp4"), ("film.mp4", "trimmed.mp4"), ("copy.mp4", "trimmed.mp4"), ("clip.mp4", "film.mp4"),
        ("clip.mp4", "copy.mp4"), ("clip.mp4", "trimmed.mp4"), ("a.jpg", "b.jpg"), ("b.jpg", "c.jpg"),
    }  # fmt: skip
    assert found["film.mp4", "trimmed.mp4"][2:5] == (pytest.approx(0.9), 1, 6_000)
    assert found["clip.mp4", "film.mp4"][4] == -35_500
    rng = np.random.default_rng(3)
    for _ in range(4):
        for url in clone_database(server_url, "template_corpus"):
            with open_connection(url) as conn:
                world(conn, rng.permutation(8).tolist())
                assert pairs(conn) == found
                compare_again(conn)
                compare_waiting(conn)
                assert pairs(conn) == found


def test_keyframes_play_no_part_a_clip_is_found_by_what_lies_between_them(db):
    whole = [flipped(phash(at // 8), [4 * (at % 8) + bit for bit in range(4)]) for at in range(160)]
    for names in (("film1.mp4", "clip1.mp4"), ("clip2.mp4", "film2.mp4")):
        for name in names:
            if name.startswith("film"):
                film(db, name, whole, key_every=40, first=0)
            else:
                film(db, name, whole[42:78], key_every=18, first=0)
            compare_waiting(db)
    assert ("clip1.mp4", "film1.mp4") in pairs(db)
    assert ("clip2.mp4", "film2.mp4") in pairs(db)


def test_ten_films_with_one_opening_are_no_duplicates_and_a_trimmed_copy_is(db):
    card = [phash(500)] * 10 + scenes(501, 3)
    for number in range(10):
        film(db, f"{number}.mp4", card + scenes(number * 40, 30))
    assert compare_waiting(db) == 0
    film(db, "copy.mp4", softly((card + scenes(160, 30))[7:]))
    assert compare_waiting(db) == 1
    assert set(pairs(db)) == {("4.mp4", "copy.mp4")}


def test_long_films_are_not_laid_on_all_that_share_their_opening(db, monkeypatch):
    from cluster.db.duplicates import find

    laid = []
    monkeypatch.setattr(find, "align", lambda a, b: laid.append(len(a)))
    opening = scenes(5_000, 8)
    for number in range(4):
        film(db, f"{number}.mp4", opening + scenes(number * 1_000, 400))
    film(db, "short.mp4", opening + scenes(9_000, 20))
    compare_waiting(db)
    assert len(laid) == 4, "the short one alone has enough of its probes in the others"


def test_image_vectors_that_disagree_undo_a_pair_and_those_that_agree_are_told(db):
    space = image_space(db)
    picture(db, "a.jpg", phash(1), space=space, vectors=[unit(1)])
    picture(db, "b.jpg", flipped(phash(1), [5]), space=space, vectors=[unit(1, 0.2)])
    picture(db, "chance.jpg", flipped(phash(1), [9]), space=space, vectors=[unit(0, 1)])
    picture(db, "bare.jpg", flipped(phash(1), [1, 2]))
    compare_waiting(db)
    found = pairs(db)
    assert set(found) == {("a.jpg", "b.jpg"), ("a.jpg", "bare.jpg"), ("b.jpg", "bare.jpg"), ("bare.jpg", "chance.jpg")}
    assert found["a.jpg", "b.jpg"][5] == pytest.approx(0.98, abs=0.01)
    assert found["a.jpg", "bare.jpg"][5] is None


def test_films_are_confirmed_by_the_keyframes_that_lie_at_the_same_time(db):
    space, whole = image_space(db), scenes(0, 40)
    alike = [unit(1, at) for at in range(10)]
    film(db, "film.mp4", whole, space=space, vectors=alike)
    film(db, "copy.mp4", softly(whole), space=space, vectors=alike)
    film(db, "chance.mp4", softly(whole, 2), space=space, vectors=[unit(0, 0, 0, 1)] * 10)
    compare_waiting(db)
    assert set(pairs(db)) == {("copy.mp4", "film.mp4")}
    assert pairs(db)["copy.mp4", "film.mp4"][5] == pytest.approx(1, abs=1e-3)


def test_new_frames_of_an_asset_are_compared_anew_and_nothing_of_the_old_is_left(db):
    from cluster.db.results import commit_row
    from tests.corpus_rows import claimed, new_run
    from tests.picture_rows import PICTURE_PRINTS, picture_row

    film(db, "a.mp4", scenes(0, 20))
    b = film(db, "b.mp4", softly(scenes(0, 20)))
    assert compare_waiting(db) == 1
    run_id = new_run(db)
    db.execute("UPDATE units SET state = 'pending' WHERE asset_id = %s", (b,))
    units = claimed(db, run_id, b, ("frames",), {"frames": PICTURE_PRINTS["frames"]})
    other = [(at * 500, hashed) for at, hashed in enumerate(scenes(50, 20))]
    row = picture_row(b, units, [frame(0, other[3][1], 1500)], samples=other)
    assert commit_row(db, run_id, row, {}) == "done"
    assert waiting(db) == [b]
    assert compare_waiting(db) == 0
    assert pairs(db) == {}
    assert db.execute("SELECT count(*) FROM anchors WHERE asset_id = %s", (b,)).fetchone() == (20,)


def test_two_that_compare_at_once_find_every_pair_once(db, db_url):
    for number in range(6):
        film(db, f"{number}.mp4", softly(scenes(0, 20), number // 2))
    found = []

    def work() -> None:
        session = Session(db_url, 5.0)
        found.append(compare(session))
        session.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == len(pairs(db)) == 15
    assert compare_waiting(db) == 0


def test_what_is_forgotten_while_it_is_looked_up_is_left_out(db, db_url, monkeypatch):
    first = film(db, "a.mp4", scenes(0, 10))
    film(db, "b.mp4", scenes(0, 10))
    compare_waiting(db)
    near = find._near

    def forgotten_after(conn: Any, place: find.Place, hashes: Any, asset_id: int) -> dict[int, dict[int, int]]:
        found = near(conn, place, hashes, asset_id)
        with open_connection(db_url) as other:
            forget_asset(other, first)
        return found

    film(db, "c.mp4", scenes(0, 10))
    monkeypatch.setattr(find, "_near", forgotten_after)
    assert compare_waiting(db) == 1
    assert pairs(db).keys() == {("b.mp4", "c.mp4")}


def test_the_lookup_goes_through_the_bands_without_statistics(db):
    db.execute(
        "INSERT INTO assets (sha256, byte_size, media_kind) SELECT sha256(int8send(i)), 1, 'image'"
        " FROM generate_series(1, 2000) i"
    )
    db.execute(
        "INSERT INTO frames (asset_id, idx, pts, time_base_num, time_base_den, t_ms, phash, is_informative, thumbnail)"
        " SELECT asset_id, 0, 0, 1, 1, 0, ('x' || substr(encode(sha256, 'hex'), 1, 16))::bit(64), true, sha256"
        " FROM assets"
    )
    hashes = np.array(
        [int.from_bytes(hashlib.sha256(b"\0" * 7 + bytes([n])).digest()[:8], "big") for n in range(1, 9)], np.uint64
    )
    with db.transaction():
        db.execute("SET LOCAL enable_seqscan = off")
        query, values = near_query("pictures", hashes ^ np.uint64(0x8001_0000_0180_0100), 0)
        plan = "\n".join(row[0] for row in db.execute(b"EXPLAIN " + query.as_bytes(db), values, prepare=False))
        found = [row[2] for row in db.execute(query, values, prepare=False)]
    assert all(f"frames_band{n}" in plan for n in range(4)), plan
    assert "Seq Scan" not in plan
    assert found == [5] * 8


@pytest.fixture
def three(db):
    """A picture and two copies of it, found."""
    ids = [picture(db, f"{name}.jpg", flipped(phash(1), [bit])) for bit, name in enumerate("abc")]
    assert compare_waiting(db) == 3
    return ids


def test_a_decision_is_never_asked_again_whatever_is_computed_anew(db, three):
    a, b, c = three
    resolve_different(db, [a, b], "kim")
    assert open_pairs(db) == {frozenset((a, c)), frozenset((b, c))}
    db.execute("UPDATE pictures SET is_compared = false")
    db.execute("DELETE FROM near_duplicates")
    compare_waiting(db)
    assert len(pairs(db)) == 3
    assert open_pairs(db) == {frozenset((a, c)), frozenset((b, c))}


def test_what_stands_for_two_copies_decides_about_the_pair_of_them_too(db, three):
    a, b, c = three
    assert resolve_copies(db, a, [b, c], "kim") == [1, 2]
    assert open_pairs(db) == set()
    assert resolve_copies(db, a, [c, b], "lee") == []
    undo(db, 1, "kim")
    assert open_pairs(db) == {frozenset((a, b)), frozenset((b, c))}


def test_copies_of_copies_lead_to_one_and_a_circle_is_refused(db, three):
    a, b, c = three
    resolve_copies(db, b, [c], "kim")
    resolve_copies(db, a, [b], "kim")
    assert read_decisions(db).root(c) == a
    with pytest.raises(ContradictionError, match=r"media/b.jpg is a copy of media/a.jpg \(event 2 by kim\).*undo 2"):
        resolve_copies(db, b, [a], "lee")
    with pytest.raises(ContradictionError, match="undo 1"):
        resolve_copies(db, c, [a], "lee")
    with pytest.raises(ContradictionError, match="undo 1"):
        resolve_copies(db, a, [c], "lee")
    with pytest.raises(ContradictionError, match="undo"):
        resolve_different(db, [a, c], "lee")
    with pytest.raises(UsageError, match=r"media/a.jpg cannot be a copy of itself"):
        resolve_copies(db, a, [a], "lee")
    assert len(list(read_history(db))) == 2


def test_a_copy_of_what_was_told_apart_is_refused_whole(db, three):
    a, b, c = three
    resolve_different(db, [a, c], "kim")
    with pytest.raises(ContradictionError, match=r"media/a.jpg and media/c.jpg are different \(event 1 by kim\)"):
        resolve_copies(db, a, [b, c], "lee")
    assert read_decisions(db).kept == {}
    resolve_copies(db, a, [b], "lee")
    assert open_pairs(db) == set(), "b is a, and a is not c"


def test_a_pair_that_no_machine_found_can_be_decided(db):
    a, b = picture(db, "a.jpg", phash(1)), picture(db, "b.jpg", phash(2))
    resolve_copies(db, a, [b], "kim")
    assert read_decisions(db).decided(b, a) == "copy"


def test_of_two_people_at_once_one_is_told_what_the_other_decided(db, three, db_url):
    a, b, _ = three
    said: list[str] = []
    ready = threading.Barrier(2)

    def decide(verdict: Any) -> None:
        with open_connection(db_url) as conn:
            ready.wait()
            try:
                verdict(conn)
            except RushesError as error:
                said.append(str(error))

    verdicts = (
        lambda conn: resolve_copies(conn, a, [b], "kim"),
        lambda conn: resolve_different(conn, [a, b], "lee"),
    )
    threads = [threading.Thread(target=decide, args=(verdict,)) for verdict in verdicts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == len(list(read_history(db))) == 1
    assert "nothing was changed" in said[0]


def test_undo_takes_the_latest_back_and_an_event_only_once(db, three):
    a, b, c = three
    resolve_different(db, [a, b], "kim")
    resolve_copies(db, a, [c], "kim")
    assert undo(db, None, "lee").event == 2
    assert undo(db, None, "lee").event == 1
    for number, words in (
        (None, "nothing to undo"),
        (1, "taken back already, by event 4"),
        (3, "took event 2 back"),
        (9, "no event 9"),
    ):
        with pytest.raises(UsageError, match=words):
            undo(db, number, "lee")
    assert len(open_pairs(db)) == 3
    assert resolve_copies(db, b, [a], "lee") == [5]


def test_decisions_name_assets_that_are_there_and_go_with_them(db, three):
    a, b, c = three
    resolve_copies(db, a, [b], "kim")
    db.execute("DELETE FROM assets WHERE asset_id = %s", (a,))
    assert list(read_history(db)) == []
    assert open_pairs(db) == {frozenset((b, c))}
    with pytest.raises(RushesError, match="forgotten a moment ago"):
        resolve_copies(db, b, [a], "kim")
