"""A person's whole material as files: every segment of theirs, nobody else's, and clips that sound like it."""

from __future__ import annotations

import csv
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.decode import Decode
from cluster.db.connect import open_connection
from cluster.db.speakers.actions import label
from tests.archive import read_call
from tests.people import archive, at
from tests.test_cli import rushes


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def label_all(conn: Any, name: str) -> dict[str, list[tuple[int, int]]]:
    """Name the first local speaker of each asset; returns the times of its segments by name of asset."""
    from cluster.db.speakers.events import Target

    rows = conn.execute(
        "SELECT asset_id, start_ms, end_ms FROM segments WHERE local_speaker = 0 ORDER BY asset_id, idx"
    ).fetchall()
    for asset_id in {row[0] for row in rows}:
        start_ms, end_ms = next(row[1:] for row in rows if row[0] == asset_id)
        label(conn, name, [Target(asset_id, start_ms, end_ms)], "me")
    names = dict(conn.execute("SELECT asset_id, name FROM asset_names").fetchall())
    found: dict[str, list[tuple[int, int]]] = {}
    for asset_id, start_ms, end_ms in rows:
        found.setdefault(Path(names[asset_id]).stem, []).append((start_ms, end_ms))
    return found


def test_every_segment_of_the_person_and_nobody_elses(db: Any, db_url: str, tmp_path: Path) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"], "b.wav": ["bob"], "c.wav": ["bob", "anna"]})
    label(db, "Anna Lee", [at(db, ids["a.wav"], 0)], "me")
    label(db, "Anna Lee", [at(db, ids["c.wav"], 1, "segment")], "me")
    told = rushes("export", "--speaker", "anna lee", "-f", "json,csv,rttm,srt,parquet", "-o", str(tmp_path), url=db_url)
    assert told.returncode == 0, told.stderr
    texts = [f"{name}.Anna_Lee.{kind}" for name in ("a", "c") for kind in ("csv", "json", "rttm", "srt")]
    shas = dict(db.execute("SELECT right(uri, 5), encode(sha256, 'hex') FROM sources JOIN assets USING (asset_id)"))
    leaves = [f"segments_by_speaker/speaker=Anna%20Lee/asset={shas[one]}/part-0.parquet" for one in ("a.wav", "c.wav")]
    assert files(tmp_path) == sorted([*texts, *leaves])
    content = json.loads((tmp_path / "a.Anna_Lee.json").read_text())
    assert [one["idx"] for one in content["segments"]] == [0, 2]
    with (tmp_path / "c.Anna_Lee.csv").open(newline="") as file:
        assert [(row["idx"], row["speaker"], row["method"]) for row in csv.DictReader(file)] == [
            ("1", "Anna Lee", "human")
        ]
    rows = pq.read_table(tmp_path / leaves[0], partitioning=None).to_pylist()
    assert [(row["idx"], row["method"]) for row in rows] == [(0, "human"), (2, "human")]
    assert all(row["voice_vector"] is not None for row in rows)
    one = rushes("export", "c.wav", "--speaker", "Anna Lee", "-f", "txt", "-o", str(tmp_path / "one"), url=db_url)
    assert (one.returncode, files(tmp_path / "one")) == (0, ["c.Anna_Lee.txt"])


def test_two_voices_of_one_person_share_a_file(db: Any, db_url: str, tmp_path: Path) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "carla"]})
    for idx in (0, 1):
        label(db, "Anna", [at(db, ids["a.wav"], idx)], "me")
    words = ("export", "--all", "--by", "speaker", "-f", "txt,parquet", "-o", str(tmp_path))
    assert rushes(*words, url=db_url).returncode == 0
    assert [name for name in files(tmp_path) if name.endswith(".txt")] == ["a.Anna.txt", "a.C.txt"]
    [table] = (tmp_path / "segments_by_speaker" / "speaker=Anna").rglob("*.parquet")
    assert pq.read_table(table, partitioning=None).num_rows == 2


def test_clips_are_the_sound_of_the_segments_and_each_asset_is_decoded_once(
    corpus: Any, corpus_url: str, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.db.speakers.names import known_speaker
    from cluster.db.transcripts import name_assets
    from cluster.settings import load_settings
    from jobs.clips import Clips
    from jobs.export import ExportOptions, export

    spoken = label_all(corpus, "Anna")
    decoded: list[str] = []
    inner = Decode.process
    monkeypatch.setattr(Decode, "process", lambda self, table: decoded.append("one") or inner(self, table))
    clips = Clips(load_settings(None, data_dir=tmp_path / "data"))
    person = known_speaker(corpus, "Anna")
    options = ExportOptions(["wav"], tmp_path, speaker=person, clips=clips)
    try:
        done = export(corpus, name_assets(corpus), options)
    finally:
        clips.close()
    assert done.failures == []
    assert len(decoded) == len(spoken)
    wanted = [f"{name}.{start}-{end}.wav" for name, times in spoken.items() for start, end in times]
    assert files(tmp_path) == sorted(wanted)
    start_ms, end_ms = spoken["call"][0]
    with wave.open(str(tmp_path / f"call.{start_ms}-{end_ms}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert np.array_equal(samples, read_call()[start_ms * 16 : end_ms * 16])


def test_a_source_that_is_gone_fails_alone(db: Any, db_url: str, corpus_url: str, media: Path, tmp_path: Path) -> None:
    with open_connection(corpus_url) as conn:
        spoken = label_all(conn, "Anna")
        conn.execute("UPDATE sources SET uri = '/none/' || uri WHERE uri LIKE '%film.mp4'")
        film = next(name for name in spoken if name.endswith("film"))
    told = rushes("export", "--speaker", "Anna", "-f", "wav", "-o", str(tmp_path), "--json", url=corpus_url)
    content = json.loads(told.stdout)
    assert told.returncode == 3
    assert [(one["what"], one["reason"].partition(":")[0]) for one in content["failures"]] == [
        (film, "no source of it is there now")
    ]
    assert {name.split(".")[0] for name in files(tmp_path)} == set(spoken) - {film}
    assert not [name for name in files(tmp_path) if "part" in name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speaker", "Ann", "-o", "out"], "did you mean Anna?"),
        (["--speaker", "Bob", "-o", "out"], "nobody is called 'Bob'"),
        (["--speaker", "Anna"], "add -o DIR"),
        (["--speaker", "Anna", "--by", "speaker", "-o", "out"], "leave out --by"),
        (["--all", "-f", "wav", "-o", "out"], "say whose with --speaker NAME"),
        (["--speaker", "Anna", "-f", "wav", "--beside-media"], "wav is many files: add -o DIR"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], "me")
    done = rushes("export", *words, url=db_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_dry_run_names_the_clips_and_decodes_nothing(db: Any, db_url: str, tmp_path: Path) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], "me")
    out = tmp_path / "out"
    done = rushes("export", "--speaker", "Anna", "-f", "wav", "-o", str(out), "--dry-run", url=db_url)
    assert done.stdout.splitlines() == [f"would write {out / f'a.{start}-{start + 3000}.wav'}" for start in (0, 8000)]
    assert not out.exists()
