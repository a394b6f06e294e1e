"""Recognition: known voices get their name, strangers none, one name per asset, and the counts add up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.db.connect import open_connection
from cluster.db.spaces import Space, activate_if_complete, active_space
from cluster.db.speakers.actions import label, merge, undo
from cluster.db.speakers.events import point_at
from cluster.db.speakers.identify import Identified, IdentifyOptions, identify
from cluster.errors import RushesError
from cluster.speakers.identify import Call, call_voices, closest
from cluster.speakers.thresholds import MARGIN
from jobs.speakers.recognise import alone
from tests.archive import run
from tests.corpus_rows import make_spaces, new_run
from tests.people import DIMENSION, archive, at, commit_spoken, everything, named, put_in_cluster, spoken, voice_of
from tests.test_cli import rushes

ME = "me"


def voice_space(db: Any) -> Space:
    space = make_spaces(db, DIMENSION)["voice"]
    activate_if_complete(db, space)
    return space


def recognise(db: Any, run_id: Any = None, **options: Any) -> Identified:
    found = identify(db, voice_space(db), IdentifyOptions(**options), run_id)
    assert found.known_before + found.named - found.lost + found.unknown.total() == found.voices
    assert found.segments.known + found.segments.unknown == found.segments.segments
    return found


def brute_force(queries: Any, people: dict[int, Any], present: Any, tau: float) -> list[Call | None]:
    calls: list[Call | None] = []
    for query, here in zip(queries, present, strict=True):
        scores = sorted(
            ((float(np.sort(voices @ query)[-3:].mean()), who) for who, voices in people.items() if who not in here),
            reverse=True,
        )
        if not scores:
            calls.append(None)
            continue
        margin = scores[0][0] - scores[1][0] if len(scores) > 1 else None
        calls.append(Call(scores[0][1], scores[0][0], margin, tau))
    return calls


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30))
def test_blocks_of_any_size_give_what_one_look_at_everything_gives(seed: int, people: int, block: int) -> None:
    rng = np.random.default_rng(seed)

    def units(count: int) -> Any:
        vectors = rng.standard_normal((count, 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    voices = {who: units(int(rng.integers(1, 6))) for who in range(people)}
    owners = [who for who, mine in voices.items() for _ in mine]
    vectors, queries = np.concatenate(list(voices.values())), units(9)
    present = [set(rng.choice(people, int(rng.integers(0, people + 1)), replace=False).tolist()) for _ in queries]
    blocks = [(owners[i : i + block], vectors[i : i + block]) for i in range(0, len(owners), block)]
    found = call_voices(queries, blocks, present, ((10, 0.5),))
    for call, expected in zip(found, brute_force(queries, voices, present, 0.5), strict=True):
        if call is None or expected is None:
            assert call is expected
            continue
        assert call.speaker == expected.speaker
        assert call.score == pytest.approx(expected.score, abs=1e-5)
        assert call.margin == pytest.approx(expected.margin, abs=1e-5)


def test_the_closest_calls_are_those_that_nearly_went_the_other_way() -> None:
    calls = {
        (1, 0): Call(1, 0.90, 0.06, 0.76),
        (1, 1): Call(1, 0.78, None, 0.76),
        (2, 0): Call(1, 0.75, 0.30, 0.76),
        (3, 0): Call(2, 0.90, 0.01, 0.76),
        (4, 0): Call(2, 0.20, 0.30, 0.76),
    }
    assert [calls[key].refused_by for key in calls] == [None, None, "score", "margin", "score"]
    assert [key for key, _ in closest(calls, 4)] == [(1, 0), (2, 0), (1, 1), (3, 0)]
    assert MARGIN == 0.05


def test_known_voices_are_named_everywhere_and_strangers_nowhere(db: Any) -> None:
    ids = archive(
        db,
        {
            "a.wav": ["anna"],
            "b.wav": ["bob"],
            "c.wav": ["anna", "carla", "anna"],
            "d.wav": ["bob", "anna"],
            "e.wav": ["x"],
        },
    )
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["b.wav"], 0)], ME)
    run_id = new_run(db)
    found = recognise(db, run_id)
    assert named(db) == {
        "a.wav": ["Anna"], "b.wav": ["Bob"], "c.wav": ["Anna", None, "Anna"], "d.wav": ["Bob", "Anna"], "e.wav": [None],
    }  # fmt: skip
    assert (found.known_before, found.named, dict(found.unknown)) == (2, 3, {"score": 2})
    rows = db.execute("SELECT method, score, margin, tau, run_id FROM local_speakers WHERE method = 'knn'").fetchall()
    assert len(rows) == 3
    assert all(score >= tau and margin >= MARGIN and run == run_id for _, score, margin, tau, run in rows)
    before = everything(db)
    again = recognise(db)
    assert (again.asked, again.named) == (2, 0)
    assert everything(db) == before


def test_the_machine_names_one_voice_of_an_asset_and_says_which_it_left(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna", "twin", "anna"]})
    table = voice_space(db).local_voices_table
    db.execute(f"UPDATE {table} SET embedding = (SELECT embedding FROM {table} WHERE asset_id = %s)", (ids["a.wav"],))
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    found = recognise(db)
    assert named(db)["b.wav"].count(None) in (1, 2)
    assert (found.named, dict(found.unknown)) == (1, {"taken": 1})
    label(db, "Anna", [at(db, ids["b.wav"], 1)], ME)
    found = recognise(db, again=True)
    assert named(db)["b.wav"] == [None, "Anna", None]
    assert dict(found.unknown) == {"taken": 1}


def test_what_was_recognised_is_no_example_for_others(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    table = voice_space(db).local_voices_table
    near, far = voice_of("anna", 1, 0.0), voice_of("other", 1, 0.0)

    def between(weight: float) -> Any:
        vector = near * (1 - weight) + far * weight
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    for name, weight in (("a.wav", 0.0), ("b.wav", 0.4), ("c.wav", 0.6)):
        db.execute(f"UPDATE {table} SET embedding = %s WHERE asset_id = %s", (between(weight), ids[name]))
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    recognise(db)
    found = recognise(db)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna"], "c.wav": [None]}
    assert float(between(0.4) @ between(0.6)) > found.taus.taus[0][1]


def test_clusters_teach_and_are_not_overridden(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    put_in_cluster(db, [(ids["a.wav"], 0), (ids["b.wav"], 0)])
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    found = recognise(db, again=True)
    assert (found.gallery_voices, found.asked, found.named) == (2, 1, 1)
    methods = dict(db.execute("SELECT asset_id, method FROM local_speakers").fetchall())
    assert methods == {ids["a.wav"]: "human", ids["b.wav"]: "cluster", ids["c.wav"]: "knn"}


def test_a_person_stands_above_recognition_and_an_undo_takes_it_back(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    label(db, None, [at(db, ids["b.wav"], 0)], ME)
    before = named(db)
    event = label(db, "Anna", [at(db, ids["a.wav"], 0)], ME).event_id
    found = recognise(db)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": [None], "c.wav": ["Anna"]}
    assert dict(found.unknown) == {"nobody": 1}
    undo(db, event, ME)
    assert named(db) == before


def test_names_follow_a_merge_and_looking_again_can_take_them(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob"], "c.wav": ["bob"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["b.wav"], 0)], ME)
    recognise(db)
    merge(db, "Bob", "Anna", ME)
    assert named(db)["c.wav"] == ["Anna"]
    undo(db, None, ME)
    assert named(db)["c.wav"] == ["Bob"]
    db.execute("INSERT INTO calibrations (space_id, speakers, voices, fpir, taus) SELECT space_id, 20, 20, 0.01,"
               " '[[5, 0.99]]' FROM spaces WHERE kind = 'voice'")  # fmt: skip
    assert recognise(db).lost == 0
    assert named(db)["c.wav"] == ["Bob"]
    found = recognise(db, again=True)
    assert (found.lost, dict(found.unknown)) == (1, {"score": 1})
    assert named(db)["c.wav"] == [None]


def test_a_dry_run_says_the_same_and_changes_nothing(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["bob"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    before = everything(db)
    dry = recognise(db, dry_run=True)
    assert everything(db) == before
    assert db.execute("SELECT count(*) FROM identifications").fetchone() == (0,)
    wet = recognise(db)
    assert (dry.named, dry.unknown, dry.segments) == (wet.named, wet.unknown, wet.segments)


def test_blocks_change_nothing(db: Any) -> None:
    files = {f"{number}.wav": ["anna" if number % 2 else "bob", f"x{number}"] for number in range(7)}
    ids = archive(db, files)
    label(db, "Anna", [at(db, ids["1.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["2.wav"], 0)], ME)
    whole = recognise(db, dry_run=True)
    small = recognise(db, query_block=2, gallery_block=1)
    assert (
        (whole.named, whole.unknown, whole.asked) == (small.named, small.unknown, small.asked) == (5, {"score": 7}, 12)
    )
    assert [key for key, _ in whole.refused] == [key for key, _ in small.refused]


def test_only_the_assets_asked_for_are_looked_at(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    found = recognise(db, asset_ids=[ids["b.wav"]])
    assert (found.asked, found.voices, found.segments.segments) == (1, 1, 1)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna"], "c.wav": [None]}


def test_ghosts_and_voices_of_little_speech_are_not_asked_about(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    table = voice_space(db).local_voices_table
    db.execute("UPDATE local_speakers SET is_ghost = true WHERE asset_id = %s", (ids["b.wav"],))
    db.execute(f"DELETE FROM {table} WHERE asset_id = %s", (ids["c.wav"],))
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    found = recognise(db)
    assert (found.asked, dict(found.unknown)) == (0, {"ghost": 1, "too little speech": 1})


def test_a_voice_replaced_meanwhile_gets_no_name_of_before(db: Any, db_url: str, monkeypatch: Any) -> None:
    import cluster.db.speakers.identify as module

    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    write = module._write

    def late(*values: Any) -> None:
        with open_connection(db_url) as other:
            commit_spoken(other, ids["b.wav"], *spoken(["somebody else"]))
        write(*values)

    monkeypatch.setattr(module, "_write", late)
    found = recognise(db)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": [None]}
    assert found.named == 0


def test_where_nobody_is_known_it_says_so(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    with pytest.raises(RushesError, match="nobody has a name yet"):
        recognise(db)
    db.execute(f"DELETE FROM {voice_space(db).local_voices_table}")
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    with pytest.raises(RushesError, match="none of the 1 named people has a voice in voice space"):
        recognise(db)


def test_one_at_a_time(db: Any, db_url: str) -> None:
    with (
        open_connection(db_url) as other,
        alone(other),
        pytest.raises(RushesError, match="recognises voices"),
        alone(db),
    ):
        pass
    with alone(db):
        pass


def test_the_command_prints_names_sums_and_close_calls(db: Any, db_url: str) -> None:
    def ask(*words: str, code: int = 0) -> str:
        done = rushes("speakers", *words, url=db_url)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    assert "no voice is stored yet" in ask("identify", code=1)
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna", "bob"]})
    voice_space(db)
    assert "nobody has a name yet" in ask("identify", code=1)
    assert "nobody has a name yet" in ask("rank", "b.wav", "--at", "1", code=1)
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert "1 recognised now" in ask("identify", "--dry-run")
    out = ask("identify")
    assert "b.wav: 2 segments: Anna 1, B 1" in out
    assert "3 voices: 1 known before + 1 recognised now + 1 unknown (1 unlike everybody)" in out
    assert "3 segments: 2 of known speakers, 1 unknown" in out
    assert "closest accepted:" in out
    assert "refused by score" in out
    states = db.execute("SELECT state, summary->>'named' FROM runs WHERE kind = 'identify' ORDER BY started_at")
    assert states.fetchall() == [("done", "1")], "no run begins where nobody is known"
    told = json.loads(ask("identify", "b.wav", "--again", "--json"))
    assert told["assets"] == [{"asset": "/media/b.wav", "segments": {"Anna": 1, "unknown": 1}}]
    assert [call["speaker"] for call in told["closest"]["accepted"]] == ["Anna"]
    assert "Anna" in ask("rank", "b.wav", "--at", "0:01")
    assert "nobody speaks at 3600.0 s" in ask("rank", "b.wav", "--at", "1:00:00", code=1)
    assert "is no time" in ask("rank", "b.wav", "--at", "soon", code=2)
    assert "no asset matches" in ask("identify", "nothing.wav", code=2)


def test_an_ingest_recognises_new_voices_if_the_settings_say_so(corpus: Any, corpus_url: str, tmp_path: Any) -> None:
    space = active_space(corpus, "voice")
    rows = corpus.execute(
        f"SELECT v.asset_id, s.start_ms FROM {space.local_voices_table} v"
        " JOIN segments s USING (asset_id, local_speaker) JOIN local_speakers l USING (asset_id, local_speaker)"
        " WHERE NOT is_ghost ORDER BY 1, 2"
    ).fetchall()
    first, others = rows[0], {row[0] for row in rows} - {rows[0][0]}
    assert others
    flags = {"data_dir": tmp_path, "identify": True}
    assert run(corpus_url, (), flags).recognised == 0
    label(corpus, "Anna", [point_at(corpus, first[0], "it", first[1])], ME)
    corpus.execute(
        f"UPDATE {space.local_voices_table} SET embedding = (SELECT embedding FROM {space.local_voices_table}"
        " WHERE asset_id = %s ORDER BY local_speaker LIMIT 1)",
        (first[0],),
    )
    assert run(corpus_url, (), {"data_dir": tmp_path}).recognised == 0
    summary = run(corpus_url, (), flags)
    assert summary.recognised >= 1
    assert any("recognised" in note for note in summary.notes)
    assert run(corpus_url, (), flags).recognised == 0
    kinds = corpus.execute("SELECT DISTINCT r.state FROM identifications i JOIN runs r USING (run_id)").fetchall()
    assert kinds == [("done",)]


def test_a_recognition_that_fails_is_a_note_of_the_ingest(corpus: Any, corpus_url: str, tmp_path: Any) -> None:
    space = active_space(corpus, "voice")
    asset_id, start_ms = corpus.execute(
        f"SELECT asset_id, start_ms FROM {space.local_voices_table} JOIN segments USING (asset_id, local_speaker)"
        " ORDER BY 1, 2"
    ).fetchone()
    label(corpus, "Anna", [point_at(corpus, asset_id, "it", start_ms)], ME)
    with open_connection(corpus_url) as other, alone(other):
        summary = run(corpus_url, (), {"data_dir": tmp_path, "identify": True})
    assert summary.exit_code == 0
    assert any("no voice was recognised: somebody else" in note for note in summary.notes)


def test_of_five_readers_the_three_who_are_named_are_found_in_every_file_and_the_others_in_none(
    readers: Any, readers_url: str
) -> None:
    rows = readers.execute("SELECT asset_id, name FROM asset_names")
    files = sorted((name.rsplit("/", 1)[-1], asset_id) for asset_id, name in rows)
    known = ("1688", "1998", "2033")
    for person in known:
        asset_id = next(asset_id for name, asset_id in files if name.startswith(person))
        [(start_ms,)] = readers.execute("SELECT min(start_ms) FROM segments WHERE asset_id = %s", (asset_id,))
        label(readers, person, [point_at(readers, asset_id, person, start_ms)], ME)
    told = json.loads(rushes("speakers", "identify", "--json", url=readers_url).stdout)
    assert (told["voices"], told["known_before"], told["named"], told["unknown"]) == (20, 3, 9, {"score": 8})
    for name, segments in named(readers).items():
        person = name.partition("-")[0]
        assert set(segments) == {person if person in known else None}, name
