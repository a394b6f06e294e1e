"""Files that are wrong, through the whole job: the run ends, their neighbours are done, and the reason is plain."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from cluster.db import report
from cluster.db.check import check_corpus
from cluster.errors import UsageError
from jobs.summary import describe
from tests.archive import read_call, run
from tests.media_factory import RATE_HZ, silence, tone, wav_header, write_video, write_wav
from tests.test_cli import rushes

SPEECH = {"lanes": ("speech",)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound recording of speech, the neighbour that must not suffer."""
    (tmp_path / "archive").mkdir()
    write_wav(tmp_path / "archive/neighbour.wav", read_call()[14 * RATE_HZ : 17 * RATE_HZ])
    return tmp_path / "archive"


def states(conn) -> dict[str, str]:
    """Name of every source -> state of its speech unit."""
    rows = conn.execute(
        "SELECT s.uri, u.state FROM sources s JOIN units u USING (asset_id) WHERE u.lane = 'speech'"
    ).fetchall()
    return {Path(uri).name: state for uri, state in rows}


def failures(conn) -> dict[str, tuple[str, str]]:
    """Name -> class and message of what failed."""
    return {
        Path(row["uri"]).name: (row["failure"], row["message"])
        for row in report.open_failures(conn, report.FailureFilter())
    }


def require_sound_corpus(conn) -> None:
    broken = {name: count for name, count in check_corpus(conn).items() if count}
    assert broken == {}


def test_what_is_no_recording_fails_with_its_reason_and_nothing_else_does(db_url, db, folder, tmp_path):
    film = write_video(folder / "film.mp4", 2, tone(2)).read_bytes()
    in_parts = {"movflags": "frag_keyframe+empty_moov"}
    fragments = write_video(tmp_path / "fragments.mp4", 2, tone(2), options=in_parts).read_bytes()
    expected = {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"Dear diary, today I filmed nothing.\n" * 200, "Invalid data found"),
        "truncated.mp4": (film[:2000], "moov atom not found"),
        "header.wav": (wav_header(0), "header (wav) but no samples"),
        "no_frames.mp4": (fragments[: fragments.index(b"moof") - 4], "but no samples"),
        "zeros.mp4": (bytes(50_000), "Invalid data found"),
        "page.mp3": (b"<!DOCTYPE html><html><title>404</title></html>", "Invalid data found"),
    }
    for name, (content, _) in expected.items():
        (folder / name).write_bytes(content)
    summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.exit_code, summary.planned, summary.ok, summary.failed) == (3, 9, 2, 7)
    assert states(db)["neighbour.wav"] == states(db)["film.mp4"] == "done"
    told = failures(db)
    assert set(told) == set(expected)
    for name, (_, words) in expected.items():
        assert told[name][0] == "bad_media"
        assert words in told[name][1]
        assert any(name in line and words in line for line in describe(summary))
    assert db.execute(
        "SELECT count(*) FROM segments JOIN units USING (asset_id) WHERE state = 'failed'"
    ).fetchone() == (0,)
    require_sound_corpus(db)
    assert run(db_url, [str(folder)], **SPEECH).state == "nothing"


def test_a_header_whose_stream_holds_nothing_fails_when_it_is_decoded(db_url, db, folder):
    """Registration finds a packet, decoding finds no sound in it: stage decode, class bad_media."""
    body = tone(1).tobytes()
    (folder / "no_channels.wav").write_bytes(wav_header(len(body), channels=0, block=2) + body)
    summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.ok, summary.failed) == (1, 1)
    [failure] = report.open_failures(db, report.FailureFilter())
    assert (failure["failure"], failure["stage"]) == ("bad_media", "decode")
    assert "no sound could be decoded" in failure["message"]
    require_sound_corpus(db)


def test_absurd_headers_are_read_as_far_as_they_make_sense(db_url, db, folder):
    body = read_call()[14 * RATE_HZ : 16 * RATE_HZ].tobytes()
    good = {
        "rate_768k.wav": wav_header(len(body), rate=768_000),
        "rate_1k.wav": wav_header(len(body), rate=1_000),
        "size_huge.wav": wav_header(2**32 - 1),
        "size_zero.wav": wav_header(0),
        "block_zero.wav": wav_header(len(body), block=0),
        "channels_32.wav": wav_header(len(body), channels=32),
        "channels_255.wav": wav_header(len(body), channels=255),
    }
    bad = {
        "rate_0.wav": (wav_header(len(body), rate=0), "Invalid sample rate: 0"),
        "rate_1.wav": (wav_header(len(body), rate=1), "a sampling rate of 1 Hz"),
        "rate_max.wav": (wav_header(len(body), rate=2**32 - 1), "Invalid sample rate: -1"),
        "rate_2g.wav": (wav_header(len(body), rate=2**31 - 1), "a sampling rate of 2147483647 Hz"),
        "channels_0.wav": (wav_header(len(body), channels=0), "channel layout"),
        "channels_65535.wav": (wav_header(len(body), channels=65535), "channel layout"),
        "bits_255.wav": (wav_header(len(body), bits=255), "neither sound nor pictures"),
    }
    for name, head in good.items():
        (folder / name).write_bytes(head + body)
    for name, (head, _) in bad.items():
        (folder / name).write_bytes(head + body)
    summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.exit_code, summary.missing, summary.failed) == (3, 0, len(bad))
    assert {name: states(db)[name] for name in good} == dict.fromkeys(good, "done")
    told = failures(db)
    assert set(told) == set(bad)
    for name, (_, words) in bad.items():
        assert told[name][0] == "bad_media", name
        assert words in told[name][1], name
    require_sound_corpus(db)


def test_recordings_without_speech_are_done_and_empty(db_url, db, folder):
    time = np.arange(4 * RATE_HZ) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (261.6, 329.6, 392.0, 523.3)) * np.exp(-(time % 1.0))
    noise = np.random.default_rng(1).normal(0, 0.1, 4 * RATE_HZ)
    write_wav(folder / "silence.wav", silence(4))
    write_wav(folder / "music.wav", (chord * 5000).astype(np.int16))
    write_wav(folder / "noise.wav", (noise * 32767).astype(np.int16))
    write_wav(folder / "one_sample.wav", silence(1 / RATE_HZ))
    write_video(folder / "mute.mp4", 1, None)
    summary = run(db_url, [str(folder)])
    assert (summary.exit_code, summary.ok, summary.skipped) == (0, 6, 0)
    ended = states(db)
    assert ended.pop("mute.mp4") == "skipped"
    assert set(ended.values()) == {"done"}
    texts = dict(
        db.execute(
            "SELECT regexp_replace(s.uri, '.*/', ''), string_agg(g.text, ' ') FROM sources s"
            " LEFT JOIN segments g USING (asset_id) GROUP BY 1"
        ).fetchall()
    )
    assert texts["neighbour.wav"]
    assert not texts["silence.wav"]
    assert not texts["one_sample.wav"]
    assert not texts["noise.wav"]
    assert not texts["music.wav"]
    require_sound_corpus(db)


def test_odd_names_and_wrong_extensions_are_ingested_shown_and_exported(db_url, db, folder, tmp_path):
    """Newline, quotes, emoji, 255 bytes, a leading dash, a percent sign, and suffixes that lie."""
    base = (folder / "neighbour.wav").read_bytes()
    odd = [
        "new\nline.wav", "it's \"quoted\".wav", "\N{SLICE OF PIZZA}.wav", "x" * 251 + ".wav", "-rf.wav",
        "100%s {0}.wav", "wav named.mp4", "a\\b;DROP TABLE assets;--.wav",
    ]  # fmt: skip
    for number, name in enumerate(odd):
        (folder / name).write_bytes(base[:-2] + bytes([number, 1]))
    summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.exit_code, summary.ok) == (0, len(odd) + 1)
    assert states(db) == dict.fromkeys([*odd, "neighbour.wav"], "done")
    require_sound_corpus(db)
    assert len("x" * 251 + ".wav") == 255
    for name in odd[:4]:
        done = rushes("export", str(folder / name), "-f", "srt", "-o", str(tmp_path / "out"), url=db_url)
        assert done.returncode == 0, done.stderr


def test_two_names_of_one_content_are_one_asset_whatever_leads_to_it(db_url, db, folder):
    neighbour = folder / "neighbour.wav"
    (folder / "copy.mp4").write_bytes(neighbour.read_bytes())
    (folder / "hard.wav").hardlink_to(neighbour)
    (folder / "soft.wav").symlink_to("neighbour.wav")
    (folder / "inner").mkdir()
    (folder / "inner/again").symlink_to(folder)
    summary = run(db_url, [str(folder), str(folder / "copy.mp4")], **SPEECH)
    assert (summary.exit_code, summary.planned, summary.ok) == (0, 1, 1)
    assert set(states(db)) == {"neighbour.wav", "copy.mp4", "hard.wav", "soft.wav"}
    assert db.execute("SELECT count(*) FROM assets").fetchone() == (1,)
    require_sound_corpus(db)


def test_links_that_lead_in_circles_are_told_once_and_stop_nothing(db_url, db, folder):
    (folder / "self.mp4").symlink_to("self.mp4")
    (folder / "left.mp4").symlink_to("right.mp4")
    (folder / "right.mp4").symlink_to("left.mp4")
    (folder / "up").symlink_to(folder)
    summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.exit_code, summary.ok, summary.failed) == (3, 1, 3)
    told = failures(db)
    assert set(told) == {"self.mp4", "left.mp4", "right.mp4"}
    assert {failure for failure, _ in told.values()} == {"bad_media"}
    assert {message for _, message in told.values()} == {"Too many levels of symbolic links"}
    assert run(db_url, [str(folder)], **SPEECH).state == "nothing"
    assert run(db_url, [str(folder)], retry_failed=True, **SPEECH).failed == 3


def test_devices_pipes_and_sockets_never_hang(db_url, folder):
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.mp4"))
        (folder / "zero.mp4").symlink_to("/dev/zero")
        for name in (
            "/dev/zero",
            "/dev/urandom",
            "/dev/null",
            folder / "pipe.mp4",
            folder / "s.mp4",
            folder / "zero.mp4",
        ):
            with pytest.raises(UsageError, match="neither a file nor a folder"):
                run(db_url, [str(name)], **SPEECH)
        summary = run(db_url, [str(folder)], **SPEECH)
    assert (summary.exit_code, summary.ok, summary.failed, summary.ignored) == (0, 1, 0, 3)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("absent.mp4", 2, "does not exist"),
        ("absent/*.mp4", 2, "no file matches"),
        ("/dev/zero", 2, "neither a file nor a folder"),
        ("empty", 0, "nothing to do: no recordings found"),
        ("a" * 300, 3, "File name too long"),
    ],
)
def test_an_input_that_gives_nothing_says_so_in_one_line(db_url, tmp_path, name, code, words):
    (tmp_path / "empty").mkdir()
    done = rushes("ingest", str(tmp_path / name), url=db_url)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr


def test_an_unreadable_file_fails_alone_and_is_told_once_for_each_reason(db_url, db, folder):
    """Root reads everything, so the reasons are a path of no length the database takes and a dangling link."""
    deep = folder
    for _ in range(9):
        deep = deep / ("d" * 250)
    deep.mkdir(parents=True)
    write_wav(deep / "deep.wav", tone(1))
    (folder / "gone.wav").symlink_to(folder / "nowhere")
    first = run(db_url, [str(folder)], **SPEECH)
    assert (first.exit_code, first.ok, first.failed) == (3, 1, 2)
    told = failures(db)
    assert told["gone.wav"] == ("transient", "No such file or directory")
    assert told["deep.wav"] == ("bad_media", "its path is longer than 2000 bytes: move it")
    assert run(db_url, [str(folder)], **SPEECH).state == "nothing"
    write_wav(folder / "nowhere", silence(1))
    assert run(db_url, [str(folder)], **SPEECH).ok == 1
    assert set(failures(db)) == {"deep.wav"}
    require_sound_corpus(db)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads files whatever their permissions")
def test_a_file_without_permission_is_told_once(db_url, db, folder):
    write_wav(folder / "locked.wav", tone(1)).chmod(0)
    assert run(db_url, [str(folder)], **SPEECH).exit_code == 3
    assert failures(db)["locked.wav"] == ("transient", "permission denied")
    assert run(db_url, [str(folder)], **SPEECH).state == "nothing"
    (folder / "locked.wav").chmod(0o644)
    assert run(db_url, [str(folder)], **SPEECH).ok == 1
