"""Two corpora that say the same give equal dumps; every single difference is found."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cluster.db import runs
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from cluster.db.ledger import ensure_units
from cluster.db.register import NewAsset, add_asset, add_failure, add_source
from cluster.db.results import commit_row
from cluster.db.speakers.actions import label
from cluster.db.speakers.events import Target
from tests.conftest import clone_database
from tests.corpus_rows import LANES, PRINTS, claimed, computed_row, make_spaces, new_asset, new_run, unit_vector

NAMES = ("a.wav", "b.wav", "c.wav")


def fill(conn, names):
    made, run_id = make_spaces(conn), new_run(conn)
    for name in names:
        asset_id = new_asset(conn, name, recorded_at="2024-03-09T10:00:00Z", recorded_at_origin="tag")
        seed = NAMES.index(name) + 1
        row = {**computed_row(asset_id, claimed(conn, run_id, asset_id)), "audio_sha256": f"{seed:064x}"}
        row["voices"] = [
            {**voice, "vector": voice["vector"] and unit_vector(seed * 100 + voice["idx"])} for voice in row["voices"]
        ]
        row["chunks"][0]["vector"] = unit_vector(seed)
        assert commit_row(conn, run_id, row, made) == "done"
        # Segments of corpus_rows are shorter than a voice needs.
        space = made["voice"]
        conn.execute(f"INSERT INTO local_voices_{space.space_id} VALUES (%s, 1, 1500, %s)",
                     (asset_id, np.asarray(unit_vector(seed + 50), np.float32)))  # fmt: skip
    name_people(conn)
    refuse(conn, run_id)
    runs.finish_run(conn, run_id, "partial", {})


def name_people(conn):
    """In b.wav and c.wav: one voice named, one segment too, a cluster of both, one recognised, one forgotten time."""
    ids = dict(conn.execute("SELECT right(uri, 5), asset_id FROM sources").fetchall())
    if "b.wav" not in ids or conn.execute("SELECT 1 FROM speakers").fetchone():
        return
    targets = [Target(ids["b.wav"], 0, 900), Target(ids["c.wav"], 1000, 1900, "segment")]
    for target in targets if ids["b.wav"] < ids["c.wav"] else targets[::-1]:
        label(conn, "Ada", [target], "me")
    [(space_id,)] = conn.execute("SELECT space_id FROM spaces WHERE kind = 'voice'")
    [(cluster_id,)] = conn.execute(
        "INSERT INTO voice_clusters (space_id) VALUES (%s) RETURNING cluster_id", (space_id,)
    )
    [(speaker_id,)] = conn.execute("SELECT speaker_id FROM speakers")
    for name in ("b.wav", "c.wav"):
        conn.execute(
            "INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
            " VALUES (%s, 1, %s, %s, %s, 0.9)", (ids[name], space_id, cluster_id, cluster_id),
        )  # fmt: skip
    conn.execute("INSERT INTO identifications VALUES (%s, 1, %s, %s, 0.5, NULL, 0.7, false, NULL)",
                 (ids["b.wav"], space_id, speaker_id))  # fmt: skip
    conn.execute("INSERT INTO forgotten_voices VALUES (%s, 5000, 6000)", (ids["b.wav"],))


def refuse(conn, run_id):
    asset_id = add_asset(conn, NewAsset(sha256="ff" * 32, byte_size=3))
    add_source(conn, "/media/broken.mp4", asset_id, 3, 1, None)
    ensure_units(conn, [asset_id], PRINTS, LANES)
    common = {"run_id": run_id, "stage": "register", "message": "x"}
    add_failure(
        conn, asset_id=asset_id, uri="/media/broken.mp4", lane="speech", fingerprint="s1", failure="bad_media", **common
    )
    add_failure(conn, asset_id=None, uri="/media/gone.wav", lane=None, fingerprint=None, failure="transient", **common)


@pytest.fixture
def pair(server_url):
    """The same corpus twice; the second came in another order, in several runs."""
    clones = [clone_database(server_url, "template_corpus") for _ in range(2)]
    one, other = (open_connection(next(clone)) for clone in clones)
    fill(one, NAMES)
    new_asset(other, "later taken away")
    other.execute("DELETE FROM assets")
    fill(other, NAMES[:0:-1])
    fill(other, [NAMES[0]])
    yield one, other
    for conn, clone in zip((one, other), clones, strict=True):
        conn.close()
        next(clone, None)


def compare(pair, **options):
    return differences(*map(canonical_dump, pair), **options)


def test_the_same_rows_in_another_order_are_equal(pair):
    assert compare(pair) == []
    dump = canonical_dump(pair[0])
    assert {section: len(rows) for section, rows in dump.facts.items() if rows} == {
        "source": 4, "refused source": 1, "asset": 4, "unit": 12, "segment": 12, "local speaker": 6,
        "voice": 12, "chunk": 3, "space": 2, "speaker": 1, "mark": 2, "member": 2, "identification": 1,
        "forgotten voice": 1,
    }  # fmt: skip
    assert {section: len(rows) for section, rows in dump.vectors.items() if rows} == {
        "voice vector": 9, "text vector": 3, "cached voice": 9, "local voice": 3,
    }  # fmt: skip


MINE = "(SELECT asset_id FROM sources WHERE uri = '/media/b.wav')"
ADD = "UPDATE {} SET embedding = (SELECT array_agg(v + (i = 3)::int * {} ORDER BY i)"
NUDGE = ADD + " FROM unnest(embedding::real[]) WITH ORDINALITY t(v, i))::vector WHERE {}"
ONE_VOICE = f"segment_id = (SELECT segment_id FROM segments WHERE asset_id = {MINE} AND idx = 1)"
ONE_CHUNK = f"chunk_id = (SELECT chunk_id FROM chunks WHERE asset_id = {MINE})"
ONE_CACHED = "audio_sha256 = decode(lpad('2', 64, '0'), 'hex') AND start_sample = 0"
AGAIN = "asset_id, space_id, idx + 1, first_segment, last_segment, start_ms, end_ms, text"
CHANGES = {
    "a word": ("UPDATE segments SET words = jsonb_set(words, '{0,2}', '\"hullo\"')"
               f" WHERE asset_id = {MINE} AND idx = 1", ["segment", ": words "]),
    "a time": (f"UPDATE segments SET end_ms = end_ms + 1 WHERE asset_id = {MINE} AND idx = 1",
               [": end_ms 1900 != 1901"]),
    "a voice": (NUDGE.format("voice_vectors_1", 1e-3, ONE_VOICE), ["voice vector", "differs by 0.001"]),
    "a text": (NUDGE.format("text_vectors_2", 1e-3, ONE_CHUNK), ["text vector", "differs by 0.001"]),
    "a cached voice": (NUDGE.format("voice_cache_1", 1e-3, ONE_CACHED), ["cached voice", "differs by 0.001"]),
    "a missing vector": (f"DELETE FROM voice_vectors_1 WHERE {ONE_VOICE}", ["voice vector", "only in the first"]),
    "a missing cached voice": (f"DELETE FROM voice_cache_1 WHERE {ONE_CACHED}", ["cached voice", "only in the first"]),
    "a doubled chunk": (f"INSERT INTO chunks ({AGAIN.replace(' + 1', '')}) SELECT {AGAIN} FROM chunks"
                        f" WHERE {ONE_CHUNK}", ["chunk", " 1: only in the second"]),
    "a unit": (f"UPDATE units SET state = 'pending' WHERE lane = 'texts' AND asset_id = {MINE}",
               ["unit", "texts t1: state 'done' != 'pending'"]),
    "outputs": (f"UPDATE units SET outputs = 5 WHERE lane = 'texts' AND asset_id = {MINE}",
                ["unit", ": outputs 1 != 5"]),
    "a failure": ("UPDATE failures SET failure = 'crash' WHERE asset_id IS NOT NULL",
                  ["unit", ": failure 'bad_media' != 'crash'"]),
    "the active space": ("UPDATE spaces SET is_active = false WHERE kind = 'text'",
                         ["space text", ": is_active True != False"]),
    "a source": ("DELETE FROM sources WHERE uri = '/media/b.wav'", ["source /media/b.wav: only in the first"]),
    "a refused source": ("DELETE FROM failures WHERE asset_id IS NULL", ["refused source /media/gone.wav: only in"]),
    "a probed fact": (f"UPDATE assets SET duration_ms = 1 WHERE asset_id = {MINE}",
                      ["asset", ": duration_ms 60000 != 1"]),
    "a tagged date": (f"UPDATE assets SET recorded_at = now() WHERE asset_id = {MINE}", ["asset", ": recorded_at "]),
    "a title": (f"UPDATE assets SET title = 'x' WHERE asset_id = {MINE}", ["asset", ": title None != 'x'"]),
    "a channel": (f"UPDATE assets SET channel = 'x' WHERE asset_id = {MINE}", ["asset", ": channel None != 'x'"]),
    "a tag": (f"INSERT INTO asset_tags SELECT {MINE}, 'x'", ["asset", ": tags [] != ['x']"]),
    "a collection": (f"INSERT INTO asset_collections SELECT {MINE}, 'x'", ["asset", ": collections [] != ['x']"]),
    "a given turn": (f"INSERT INTO given_turns SELECT {MINE}, 0, 1, 2, 0, 'Ada'",
                     ["asset", ": given_turns None != [[1, 2, 0, 'Ada']]"]),
    "a local speaker": (f"UPDATE local_speakers SET speech_ms = 1 WHERE asset_id = {MINE} AND local_speaker = 0",
                        ["local speaker", ": speech_ms 1800 != 1"]),
    "a ghost": (f"UPDATE local_speakers SET is_ghost = true WHERE asset_id = {MINE} AND local_speaker = 0",
                ["local speaker", ": is_ghost False != True"]),
    "a name": (f"UPDATE local_speakers SET speaker_id = NULL WHERE asset_id = {MINE} AND local_speaker = 0",
               ["local speaker", ": speaker 'Ada' != None"]),
    "a person": ("UPDATE speakers SET is_used = false", ["speaker Ada: only in the first"]),
    "a labelled segment": ("DELETE FROM segment_labels",
                           ["segment", ": is_labelled True != False", ": labelled 'Ada'"]),
    "a mark": (f"UPDATE speaker_marks SET part = 1, scope = 'part', speaker_id = NULL WHERE asset_id = {MINE}",
               ["mark", "speaker Ada -1: only in the first", "part  1: only in the second"]),
    "a group": (f"INSERT INTO segment_groups SELECT segment_id, asset_id, 0 FROM segments WHERE asset_id = {MINE}"
                " AND idx = 3", ["segment", ": voice_group None != 0"]),
    "a cluster": (f"INSERT INTO voice_clusters (space_id) VALUES (1); UPDATE cluster_members SET cluster_id ="
                  f" (SELECT max(cluster_id) FROM voice_clusters) WHERE asset_id = {MINE}",
                  ["member", ": together_with "]),
    "a recognition": ("UPDATE identifications SET is_accepted = true",
                      ["identification", ": is_accepted False != True"]),
    "a forgotten voice": ("DELETE FROM forgotten_voices", ["forgotten voice", "5000 6000: only in the first"]),
    "a local voice": (NUDGE.format("local_voices_1", 1e-3, f"asset_id = {MINE}"), ["local voice", "differs by 0.001"]),
    "a skip reason": (f"UPDATE voices SET skip_reason = 'odd' WHERE skip_reason IS NOT NULL AND segment_id IN"
                      f" (SELECT segment_id FROM segments WHERE asset_id = {MINE})", ["voice", ": skip_reason "]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_single_change_is_found(name, pair):
    statement, words = CHANGES[name]
    assert pair[1].execute(statement.encode()).rowcount > 0
    found = compare(pair)
    assert len(found) <= 2, found
    assert all(any(word in line for line in found) for word in words), found


def test_a_missing_segment_is_found_with_all_that_hangs_on_it(pair):
    assert pair[1].execute(f"DELETE FROM segments WHERE asset_id = {MINE} AND idx = 1".encode()).rowcount == 1
    sha256 = hashlib.sha256(b"b.wav").hexdigest()[:12]
    assert [line.partition(f" {sha256} ")[0] for line in compare(pair)] == ["segment", "voice", "voice vector"]


def test_rounding_of_a_vector_and_times_of_no_meaning_are_not_differences(pair):
    other = pair[1]
    assert other.execute(NUDGE.format("voice_vectors_1", 1e-6, ONE_VOICE).encode()).rowcount == 1
    pair[0].execute("UPDATE assets SET recorded_at_origin = 'mtime'")
    other.execute("UPDATE assets SET recorded_at_origin = 'mtime', recorded_at = now(), created_at = now()")
    other.execute("UPDATE units SET generation = generation + 3, attempts = 1, started_at = now()")
    assert compare(pair) == []
    assert len(compare(pair, tolerance=1e-8)) == 1


def test_a_vector_that_is_no_number_differs(pair):
    one, other = (canonical_dump(conn) for conn in pair)
    other.vectors["text vector"][min(other.vectors["text vector"])][0] = float("nan")
    assert len(differences(one, other)) == 1
    assert differences(other, one) != []


def test_many_differences_are_cut_with_their_number(pair):
    pair[1].execute("UPDATE segments SET text = text || '!'")
    assert compare(pair, limit=5)[-1] == "and 7 more"
    assert len(compare(pair, limit=5)) == 6
