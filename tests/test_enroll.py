"""Real voices: labels on assets without voices, enrolment, and labels that outlive every rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.transcribe import Transcribe
from cluster.db.connect import open_connection
from cluster.db.local_voices import has_local_voices
from cluster.db.report import find_asset
from cluster.db.speakers.actions import label
from cluster.db.speakers.pointing import point_at_voice
from cluster.errors import RushesError, UsageError
from cluster.media.child import MediaChild
from cluster.settings import load_settings
from jobs.cli.progress import LineReporter
from jobs.speakers.enroll import prepare
from jobs.speakers.voices import extract_voices, lacks_voices
from tests.archive import read_call, run
from tests.media_factory import shared_media, silence, write_wav
from tests.people import named
from tests.test_cli import rushes

ME = "me"
QUIET = LineReporter(quiet=True, verbose=False)


def settings_for(url: str) -> Any:
    return load_settings(None, database_url=url, cpus=2, runner="inline", retry_base_s=0.01)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, in order; a transcriber that is loaded fails the test."""
    decoded: list[str] = []
    decode = MediaChild.decode

    def counting(self: Any, path: Any, *args: Any) -> Any:
        decoded.append(Path(path).name)
        return decode(self, path, *args)

    monkeypatch.setattr(MediaChild, "decode", counting)
    monkeypatch.setattr(Transcribe, "load", lambda self: pytest.fail("a transcriber was loaded"))
    return decoded


@pytest.fixture
def unvoiced(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database with two recordings that have a transcript and no voices."""
    from tests.conftest import clone_database

    folder = tmp_path_factory.mktemp("unvoiced")
    call = read_call()
    write_wav(folder / "a.wav", call[3 * 16_000 : 12 * 16_000], 16_000)
    write_wav(folder / "b.wav", call[18 * 16_000 : 27 * 16_000], 16_000)
    cloned = clone_database(server_url, "template_corpus")
    url = next(cloned)
    run(url, [str(folder)], lanes=("speech", "texts"))
    yield url, folder
    next(cloned, None)


def test_voices_of_old_assets_come_on_the_fly_or_all_at_once_and_nothing_is_transcribed_again(
    unvoiced: Any, counted: list[str]
) -> None:
    url, _ = unvoiced
    settings = settings_for(url)
    with open_connection(url) as conn:
        ids = {name: find_asset(conn, name)["asset_id"] for name in ("a.wav", "b.wav")}
        texts = conn.execute("SELECT asset_id, idx, text FROM segments ORDER BY 1, 2").fetchall()
        assert lacks_voices(conn, settings, ids["a.wav"])
        assert extract_voices(conn, settings, ids["a.wav"], QUIET) is None
        assert counted == ["a.wav"]
        assert [has_local_voices(conn, one) for one in ids.values()] == [True, False]
        assert not lacks_voices(conn, settings, ids["a.wav"])
        # under other settings for the transcript, which nobody asked to be made anew
        assert not lacks_voices(conn, settings_for(url).model_copy(update={"language": "de"}), ids["a.wav"])
        summary = run(url, lanes=("voices",))
        assert (summary.ok, counted) == (1, ["a.wav", "b.wav"])
        assert run(url, lanes=("voices",)).state == "nothing"
        assert counted == ["a.wav", "b.wav"]
        again = conn.execute("SELECT asset_id, idx, text FROM segments ORDER BY 1, 2").fetchall()
        assert again == texts


def test_a_label_fetches_missing_voices_and_stands_without_them_when_the_file_is_gone(unvoiced: Any) -> None:
    url, folder = unvoiced
    environment = {"RUSHES_RUNNER": "inline"}
    with open_connection(url) as conn:
        done = rushes("speakers", "label", "Anna", str(folder / "a.wav"), url=url, **environment)
        assert "/a.wav were extracted first, all of them; nothing was transcribed" in done.stdout
        (folder / "b.wav").unlink()
        done = rushes("speakers", "label", "Bob", str(folder / "b.wav"), url=url, **environment)
        assert done.returncode == 0, done.stderr
        assert "has no voices (its file is gone): the label stands, but recognises nobody elsewhere" in done.stdout
        assert {name: set(who) for name, who in named(conn).items()} == {"a.wav": {"Anna"}, "b.wav": {"Bob"}}


speakers = pytest.mark.skipif(
    not (shared_media() / "speakers").is_dir(), reason="the shared recordings of five people are not here"
)


def files(person: int, *numbers: int) -> list[str]:
    listed = sorted((shared_media() / "speakers").glob("*.flac"))
    return [str(listed[4 * person + number]) for number in numbers]


@speakers
def test_enrolment_takes_files_in_once_checks_them_all_and_names_them_together(
    db: Any, db_url: str, tmp_path: Path
) -> None:
    settings = settings_for(db_url)
    samples = prepare(settings, "Anna", files(0, 0, 1, 2), QUIET)
    assert [Path(one.uri).name for one in samples] == [Path(name).name for name in files(0, 0, 1, 2)]
    assert min(one.score or 0 for one in samples) > 0.8
    assert min(one.clean_ms for one in samples) >= 1_500
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaChild, "decode", lambda *_: pytest.fail("decoded again"))
        assert prepare(settings, "Anna", files(0, 0, 1, 2), QUIET) == samples
        done = rushes("speakers", "enroll", "Margaret", *files(0, 0, 1), "--json", url=db_url, RUSHES_RUNNER="inline")
    assert done.returncode == 0, done.stderr
    assert db.execute("SELECT kind FROM speaker_events").fetchall() == [("enroll",)]
    methods = db.execute("SELECT method, count(*) FROM local_speakers GROUP BY 1 ORDER BY 1").fetchall()
    assert methods == [("human", 2), (None, 1)]
    with pytest.raises(RushesError, match=r"against the others and the 2 voice\(s\) that margaret has: .* 0\.\d\d"):
        prepare(settings, "margaret", files(1, 0), QUIET)


@speakers
def test_enrolment_refuses_what_is_not_one_person_speaking_and_names_nobody(
    db: Any, db_url: str, tmp_path: Path
) -> None:
    quiet = write_wav(tmp_path / "silence.wav", silence(3), 16_000)
    short = write_wav(tmp_path / "short.wav", read_call()[7 * 16_000 : int(8.2 * 16_000)], 16_000)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    both = write_wav(tmp_path / "both.wav", np.concatenate([sound(files(0, 1)[0]), sound(files(2, 0)[0])]), 16_000)
    one = files(1, 0)[0]
    refused = {
        str(quiet): r"nobody speaks in .*silence.wav",
        str(short): r"short.wav has too little clean speech: 1.5 s",
        str(tmp_path / "broken.wav"): r"broken.wav: not readable",
        str(both): r"both.wav has 2 voices \(A: .*; B: .*nobody was enrolled",
        files(3, 0)[0]: r"do not sound like one person; each needs 0.72 against the others: .* 0\.\d\d",
    }
    for name, message in refused.items():
        with pytest.raises(RushesError, match=message):
            prepare(settings_for(db_url), "Anna", [one, name], QUIET)
    with pytest.raises(UsageError, match="does not exist"):
        prepare(settings_for(db_url), "Anna", [str(tmp_path / "none.wav")], QUIET)
    assert db.execute("SELECT count(*) FROM speaker_events").fetchone() == (0,)
    assert not any(name for who in named(db).values() for name in who)


def sound(path: str) -> Any:
    child = MediaChild(2**30)
    try:
        return child.decode(Path(path), 0, 60).samples
    finally:
        child.close()


@speakers
def test_labels_stand_when_everything_is_done_again_and_segmented_otherwise(db: Any, db_url: str) -> None:
    paths = [*files(0, 0), *files(1, 0)]
    run(db_url, paths, lanes=("speech", "voices"))
    for person, path in zip(("Anna", "Bob"), paths, strict=True):
        asset_id = find_asset(db, path)["asset_id"]
        label(db, person, [point_at_voice(db, asset_id, path)], ME)
    wanted = {Path(path).name: {person} for person, path in zip(("Anna", "Bob"), paths, strict=True)}
    reruns: list[dict[str, Any]] = [
        {"options": {"force": True}},
        {"flags": {"segment_source": "whisper"}},
        {},
    ]
    for rerun in reruns:
        segments = db.execute("SELECT min(segment_id) FROM segments").fetchone()
        summary = run(db_url, paths, rerun.get("flags"), lanes=("speech", "voices"), **rerun.get("options", {}))
        assert summary.ok == 2, rerun
        assert db.execute("SELECT min(segment_id) FROM segments").fetchone() != segments
        assert {name: set(who) for name, who in named(db).items()} == wanted, rerun
