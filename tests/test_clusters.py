"""Clusters: one person each as far as voices tell, no asset twice, and sums that add up."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.db.connect import open_connection
from cluster.db.filter import AssetFilter
from cluster.db.spaces import active_space
from cluster.db.speakers.actions import label
from cluster.db.speakers.cards import cluster_cards, lone_voices
from cluster.db.speakers.clusters import read_points, write_clustering
from cluster.errors import RushesError
from cluster.settings import load_settings
from cluster.speakers.clusters import APART, cluster_voices, cohesion, cut_by_marks, divided, similarities
from cluster.speakers.thresholds import shipped_thresholds
from jobs.speakers.cluster import cluster_job
from tests.corpus_rows import new_run
from tests.people import archive, at, commit_spoken, named, spoken, voice_of
from tests.test_cli import rushes

ME = "me"
LIMITS = shipped_thresholds("ge2e")
SPEAKERS = Path(__file__).parents[2] / "shared/media/speakers"


def grouped(vectors: Any, assets: Any = None, clean_ms: int = 20_000) -> Any:
    assets = range(len(vectors)) if assets is None else assets
    return cluster_voices(vectors, assets, np.full(len(vectors), clean_ms), LIMITS)


def voices_of(people: str, spread: float = 0.3) -> Any:
    """A voice per letter: the same letter is the same person in another recording."""
    return np.stack([voice_of(person, seed, spread) for seed, person in enumerate(people)])


def clustered(url: str, *names: str, dry_run: bool = False) -> Any:
    """The job as the command calls it; its sums are checked each time."""
    config = load_settings(None, database_url=url)
    result = cluster_job(config, names, AssetFilter(), dry_run=dry_run, address=None)
    found = result.clustered
    assert found.members + found.noise == found.points
    return result


def members(conn: Any) -> dict[int, list[tuple[int, int]]]:
    rows = conn.execute("SELECT cluster_id, asset_id, local_speaker FROM cluster_members ORDER BY 1, 2, 3")
    found: dict[int, list[tuple[int, int]]] = {}
    for cluster_id, *key in rows:
        found.setdefault(cluster_id, []).append(tuple(key))
    return found


def together(conn: Any) -> set[frozenset[tuple[int, int]]]:
    return {frozenset(keys) for keys in members(conn).values()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.booleans()), max_size=30), st.integers(0, 9))
def test_every_voice_is_in_one_cluster_or_apart_and_no_asset_is_twice_in_one(
    voices: list[tuple[int, int, bool]], seed: int
) -> None:
    vectors = [voice_of("abcde"[who], 0 if copied else seed * 100 + i) for i, (who, _, copied) in enumerate(voices)]
    assets = [asset for _, asset, _ in voices]
    labels = grouped(np.reshape(vectors, (len(voices), 32)).astype(np.float32), assets)
    assert len(labels) == len(voices)
    inside = labels[labels != APART]
    assert sorted(set(inside)) == list(range(len(set(inside))))
    assert list(dict.fromkeys(inside)) == sorted(set(inside))
    assert min(Counter(inside.tolist()).values(), default=2) >= 2
    for number in set(inside):
        there = [asset for asset, one in zip(assets, labels, strict=True) if one == number]
        assert len(set(there)) == len(there)


@pytest.mark.parametrize("people", ["", "a", "ab", "aa", "aaaa", "aabb", "abcd", "aaab", "aaaabbbbcccd"])
def test_few_voices_are_grouped_by_person_and_one_person_alone_is_one_cluster(people: str) -> None:
    labels = grouped(voices_of(people)) if people else grouped(np.empty((0, 32), np.float32))
    for who in set(people):
        mine = {int(label) for label, person in zip(labels, people, strict=True) if person == who}
        assert mine == {APART} if people.count(who) == 1 else len(mine) == 1 and APART not in mine
    assert len(set(labels) - {APART}) == sum(count > 1 for count in Counter(people).values())


def test_copies_of_one_voice_are_one_cluster() -> None:
    for count in (2, 3, 50):
        assert grouped(np.repeat(voices_of("a"), count, axis=0)).tolist() == [0] * count


def test_of_two_voices_of_one_asset_the_more_alike_stays_in_the_cluster() -> None:
    vectors = np.stack([*voices_of("aaaa"), voice_of("a", 9, 0.6)])
    labels = grouped(vectors, [1, 2, 3, 4, 4])
    assert labels.tolist() == [0, 0, 0, 0, APART]


def test_two_alike_people_who_always_speak_together_are_two_clusters() -> None:
    first, other = voices_of("aaaaaa", 0.2), voices_of("bbbbbb", 0.2)
    second = first[::-1] + np.float32(0.3) * other
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    assert (first @ second.T).min() > LIMITS.same
    labels = grouped(np.concatenate([first, second]), [*range(6), *range(6)])
    assert labels.tolist() == [0] * 6 + [1] * 6


def test_with_little_speech_voices_need_to_be_less_alike() -> None:
    vectors = voices_of("aaaa", 0.65)
    assert grouped(vectors, clean_ms=1_500).tolist() == [0, 0, 0, 0]
    assert grouped(vectors, clean_ms=60_000).tolist() == [APART] * 4


def test_memory_does_not_grow_with_the_square_of_the_voices() -> None:
    vectors = np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    grouped(vectors[:10])
    tracemalloc.start()
    grouped(vectors)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4000 * 4000 * 4 / 2


def test_a_cluster_is_divided_into_as_many_parts_as_asked_the_largest_first() -> None:
    assert divided(voices_of("abbbaac"), 3).tolist() in ([0, 1, 1, 1, 0, 0, 2], [1, 0, 0, 0, 1, 1, 2])
    assert sorted(divided(np.repeat(voices_of("a"), 4, axis=0), 3).tolist()) == [0, 0, 1, 2]


def test_voices_without_a_mark_go_to_the_nearest_part() -> None:
    vectors = voices_of("aabbab")
    assert cut_by_marks(vectors, {0: 1, 2: 0}).tolist() == [1, 1, 0, 0, 1, 0]  # type: ignore[union-attr]
    assert cut_by_marks(vectors, {0: 1, 1: 1}) is None
    assert cut_by_marks(vectors, {}) is None


def test_cohesion_is_high_for_one_person_and_low_for_two() -> None:
    mean, low = cohesion(similarities(voices_of("aaaa")))
    assert 0.9 < low <= mean <= 1
    assert cohesion(similarities(voices_of("abab")))[1] < LIMITS.cohesion + 0.1


@pytest.mark.skipif(not SPEAKERS.is_dir(), reason="shared/media/speakers is not here")
def test_real_recordings_of_five_people_are_five_pure_clusters() -> None:
    import soundfile

    from actors.voices import Voices
    from cluster.profiles import choose

    stage = Voices(choose("voice", "bundled", {"device": "cpu"}, {}))
    stage.load()
    files = sorted(SPEAKERS.glob("*.flac"))
    sounds = [soundfile.read(file, dtype="int16")[0] for file in files]
    people, ms = np.array([file.name[:4] for file in files]), np.array([len(sound) // 16 for sound in sounds])
    vectors = stage.embed_waveforms(sounds)

    def found(chosen: Any) -> Any:
        return cluster_voices(vectors[chosen], range(len(vectors[chosen])), ms[chosen], LIMITS)

    for chosen in (slice(None), *(np.arange(start, 20, 2) for start in (0, 1))):
        labels, who = found(chosen), people[chosen]
        assert APART not in labels
        assert len(set(zip(labels.tolist(), who.tolist(), strict=True))) == len(set(labels.tolist())) == 5
    for person in set(people):
        assert found(people == person).tolist() == [0, 0, 0, 0]


def test_the_job_groups_who_is_unknown_and_records_what_it_did(db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"], "b.wav": ["anna"], "c.wav": ["bob", "carla"], "d.wav": [None]})
    assert clustered(db_url, dry_run=True).clustered.clusters == 2
    assert members(db) == {}
    result = clustered(db_url)
    assert together(db) == {
        frozenset({(ids["a.wav"], 0), (ids["b.wav"], 0)}),
        frozenset({(ids["a.wav"], 1), (ids["c.wav"], 0)}),
    }
    assert (result.clustered.points, result.clustered.noise, result.clustered.segments) == (5, 1, 5)
    row = db.execute("SELECT kind, state, summary FROM runs WHERE run_id = %s", (result.run_id,)).fetchone()
    assert row[:2] == ("cluster", "done")
    assert row[2] == {**result.to_dict()}
    before = members(db)
    clustered(db_url)
    assert members(db) == before


def test_known_voices_and_ghosts_are_not_grouped(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abcd"})
    clustered(db_url)
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    new = archive(db, {"e.wav": ["anna"], "f.wav": ["anna"], "g.wav": ["anna"]})
    db.execute("UPDATE local_speakers SET is_ghost = true WHERE asset_id = %s", (new["g.wav"],))
    assert clustered(db_url).clustered.points == 2
    assert together(db) == {
        frozenset((ids[name], 0) for name in ids),
        frozenset({(new["e.wav"], 0), (new["f.wav"], 0)}),
    }
    assert named(db)["a.wav"] == named(db)["d.wav"] == ["Anna"]


def test_a_voice_that_got_a_name_or_changed_meanwhile_is_left_alone(db: Any) -> None:
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abcde"})
    space = active_space(db, "voice")
    points = read_points(db, space, None)  # type: ignore[arg-type]
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    commit_spoken(db, ids["b.wav"], *spoken(["bob"], seed=9))
    db.execute("DELETE FROM assets WHERE asset_id = %s", (ids["c.wav"],))
    found = write_clustering(db, space, points, np.zeros(5, np.int64), new_run(db))  # type: ignore[arg-type]
    assert (found.points, found.members, found.vanished) == (2, 2, 3)
    assert together(db) == {frozenset({(ids["d.wav"], 0), (ids["e.wav"], 0)})}


def test_a_part_of_the_archive_is_grouped_by_itself(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abcde"})
    clustered(db_url, "a.wav", "b.wav")
    assert together(db) == {frozenset({(ids["a.wav"], 0), (ids["b.wav"], 0)})}
    clustered(db_url)
    assert [len(keys) for keys in members(db).values()] == [5]
    clustered(db_url, "a.wav", "b.wav", "c.wav", "d.wav")
    assert together(db) == {frozenset((ids[f"{name}.wav"], 0) for name in "abcd")}
    assert db.execute("SELECT count(*) FROM voice_clusters").fetchone() == (1,)


def test_what_cannot_be_grouped_is_said(db: Any, db_url: str) -> None:
    with pytest.raises(RushesError, match="no voice is stored yet"):
        clustered(db_url)
    ids = archive(db, {"a.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    with pytest.raises(RushesError, match="there is no unknown voice"):
        clustered(db_url)
    archive(db, {"b.wav": ["bob"]})
    db.execute("UPDATE units SET state = 'pending', run_id = NULL WHERE lane = 'voices'")
    db.execute("DELETE FROM local_voices_1")
    with pytest.raises(RushesError, match=r"no voices are stored of 2 asset.*--lanes voices"):
        clustered(db_url)
    assert db.execute("SELECT count(*) FROM runs WHERE kind = 'cluster'").fetchone() == (0,)


def test_a_card_shows_the_medoid_the_nearest_and_the_farthest(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": ["anna", "anna", "bob"] for name in "abcdef"})
    archive(db, {"g.wav": ["carla"]})
    clustered(db_url)
    space = active_space(db, "voice")
    assert space is not None
    cards = cluster_cards(db, space, 10)
    assert [(card.members, card.segments, card.speech_ms, card.unnamed) for card in cards] == [
        (6, 12, 36_000, 6),
        (6, 6, 18_000, 6),
    ]
    for card in cards:
        assert [one.place for one in card.snippets] == ["medoid", "nearest", "nearest", "farthest", "farthest"]
        alike = [one.similarity for one in card.snippets]
        assert alike == sorted(alike, reverse=True)
        assert 0.8 < card.cohesion_p5 <= card.cohesion <= 1
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert [(card.names, card.unnamed_ms) for card in cluster_cards(db, space, 10)] == [([], 18_000), (["Anna"], 0)]
    assert len(cluster_cards(db, space, 1)) == 1
    [lone] = lone_voices(db, space, 10)
    assert lone.snippet is not None
    assert lone.snippet.asset.endswith("g.wav")


def test_clusterings_and_labels_at_once_leave_the_tables_consistent(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": [person] for name, person in zip("abcdefgh", "ppppqqqq", strict=True)})
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            if number % 2:
                clustered(db_url)
            else:
                with open_connection(db_url) as conn:
                    label(conn, f"P{number}", [at(conn, ids["a.wav" if number else "h.wav"], 0)], ME)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for error in failed if "there is no unknown voice" not in str(error)] == []
    wrong = db.execute(
        "SELECT count(*) FROM cluster_members m JOIN voice_clusters c USING (cluster_id) WHERE c.space_id <> m.space_id"
        " OR (SELECT count(*) FROM cluster_members o WHERE o.found_in = m.found_in) < 2"
    ).fetchone()
    assert wrong == (0,)
    assert named(db)["h.wav"] == ["P0"]


def test_the_commands_state_sums_and_list_cards(db: Any, db_url: str) -> None:
    archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["bob"]})
    done = rushes("speakers", "cluster", url=db_url)
    assert done.stdout.startswith(
        "3 voices: 1 cluster with 2, 1 apart\n3 segments, 0:00:09.0: 2 in clusters, 0:00:06.0; "
    )
    done = rushes("speakers", "clusters", url=db_url)
    assert "2 voices in 2 assets" in done.stdout
    assert done.stdout.endswith("3 unknown voices: 2 in clusters, 1 apart\n")
    [card] = json.loads(rushes("speakers", "clusters", "--json", url=db_url).stdout)
    assert (card["members"], card["names"], len(card["snippets"])) == (2, [], 2)
    assert "c.wav" in rushes("speakers", "clusters", "--noise", url=db_url).stdout
    done = rushes("speakers", "clusters", "77", url=db_url)
    assert (done.returncode, done.stderr) == (2, "error: there is no cluster 77: see `rushes speakers clusters`\n")
