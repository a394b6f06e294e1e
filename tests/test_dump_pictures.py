"""What is shown is part of the dump: frames, hashes, vectors, duplicates and what people decided about them."""

from __future__ import annotations

import pytest

from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from tests.conftest import clone_database
from tests.corpus_rows import new_asset, unit_vector
from tests.picture_rows import commit_pictures, flipped, frame, image_space, phash

FILMS = ("a.mp4", "b.mp4", "c.mp4")


def fill(conn, names):
    """Films whose ids follow `names`; what is said of pairs is the same whichever has the lower id."""
    space, ids = image_space(conn), {}
    for name in names:
        seed = FILMS.index(name)
        frames = [frame(0, flipped(phash(1), [seed]), 500), frame(1, phash(seed + 10), 5500, informative=False)]
        ids[name] = commit_pictures(
            conn, name, frames, space=space, vectors=[unit_vector(seed * 10 + idx) for idx in range(2)]
        )
    one, other = ids["a.mp4"], ids["b.mp4"]
    turned = one > other
    low, high = sorted((one, other))
    conn.execute(
        "INSERT INTO near_duplicates VALUES (%s, %s, 'sequence', 1.5, %s, %s, %s, 0.9)",
        (low, high, *((0.6, 0.9) if turned else (0.9, 0.6)), -200 if turned else 200),
    )
    conn.execute(
        "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, kept) VALUES ('me', 'copy', %s, %s, %s)",
        (low, high, other),
    )
    conn.execute("INSERT INTO visual_clusters (space_id, asset_id, idx) VALUES (%s, %s, 0)", (space.space_id, one))
    conn.execute(
        "INSERT INTO visual_members SELECT frame_id, %s, (SELECT cluster_id FROM visual_clusters), 1 FROM frames"
        " WHERE asset_id = %s", (space.space_id, other),
    )  # fmt: skip


@pytest.fixture
def pair(server_url):
    """The same films twice; the second came in another order."""
    clones = [clone_database(server_url, "template_corpus") for _ in range(2)]
    one, other = (open_connection(next(clone)) for clone in clones)
    fill(one, FILMS)
    new_asset(other, "later taken away")
    other.execute("DELETE FROM assets")
    fill(other, FILMS[::-1])
    yield one, other
    for conn, clone in zip((one, other), clones, strict=True):
        conn.close()
        next(clone, None)


def compare(pair):
    return differences(*map(canonical_dump, pair))


def test_the_same_pictures_in_another_order_are_equal(pair):
    dump = canonical_dump(pair[0])
    assert {section: len(rows) for section, rows in dump.facts.items() if rows} == {
        "source": 3, "asset": 3, "unit": 6, "space": 1, "pictures": 3, "shot": 3, "frame": 6,
        "near duplicate": 1, "duplicate decision": 1, "visual member": 2,
    }  # fmt: skip
    assert {section: len(rows) for section, rows in dump.vectors.items() if rows} == {"image vector": 6}
    assert compare(pair) == []


MINE = "(SELECT asset_id FROM sources WHERE uri = '/media/a.mp4')"
CHANGES = {
    "a time": (f"UPDATE frames SET t_ms = t_ms + 1 WHERE asset_id = {MINE} AND idx = 0", ": t_ms 500 != 501"),
    "a pts": (f"UPDATE frames SET pts = 7 WHERE asset_id = {MINE} AND idx = 0", ": pts 500 != 7"),
    "a hash": (f"UPDATE frames SET phash = ~phash WHERE asset_id = {MINE} AND idx = 1", ": phash "),
    "a flat frame": (f"UPDATE frames SET is_informative = false WHERE asset_id = {MINE} AND idx = 0",
                     ": is_informative True != False"),
    "a thumbnail": (f"UPDATE frames SET thumbnail = sha256('x') WHERE asset_id = {MINE} AND idx = 0", ": thumbnail "),
    "a shot": (f"UPDATE shots SET end_ms = 9 WHERE asset_id = {MINE}", ": end_ms 60000 != 9"),
    "a sample": (f"UPDATE pictures SET sample_times = set_byte(sample_times, 0, 9) WHERE asset_id = {MINE}",
                 ": sample_times "),
    "a missing vector": (f"DELETE FROM image_vectors_1 WHERE frame_id IN (SELECT frame_id FROM frames"
                         f" WHERE asset_id = {MINE} AND idx = 0)", "image vector"),
    "a coverage": ("UPDATE near_duplicates SET coverage_a = coverage_b", ": coverage "),
    "an offset": ("UPDATE near_duplicates SET offset_ms = -offset_ms", ": offset_ms "),
    "a comparison": (f"UPDATE pictures SET is_compared = true WHERE asset_id = {MINE}", ": is_compared False != True"),
    "a decision": ("UPDATE duplicate_events SET kept = asset_a + asset_b - kept", ": kept "),
    "a leader": ("UPDATE visual_clusters SET asset_id = (SELECT asset_id FROM sources WHERE uri = '/media/c.mp4')",
                 ": leader "),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_single_change_is_found(name, pair):
    statement, words = CHANGES[name]
    assert pair[1].execute(statement.encode()).rowcount > 0
    found = compare(pair)
    assert 1 <= len(found) <= 2, found
    assert all(words in line for line in found), found


def test_a_decision_taken_back_is_said_no_more(pair):
    pair[1].execute(
        "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, undoes)"
        " SELECT 'me', 'undo', asset_a, asset_b, event_id FROM duplicate_events"
    )
    [line] = compare(pair)
    assert line.startswith("duplicate decision")
    assert line.endswith("only in the first")
