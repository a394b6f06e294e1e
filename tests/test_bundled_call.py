"""The two people of the bundled call sound alike on the telephone (cosine 0.88): one never gets the other's name."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from cluster.db.check import check_corpus
from cluster.db.speakers.actions import label
from cluster.db.speakers.events import Target
from cluster.db.speakers.state import lock_decisions, refresh
from cluster.db.speakers.who import count_speakers, voices_of
from cluster.speakers.counts import describe
from tests.archive import run
from tests.media_factory import call_wav
from tests.test_cli import rushes


def test_a_label_on_one_voice_of_the_call_never_names_the_other(db: Any, db_url: str) -> None:
    assert run(db_url, [str(call_wav())], flags={"num_speakers": 2}).ok == 1
    [(alike,)] = db.execute(
        "SELECT 1 - (a.embedding <=> b.embedding) FROM local_voices_1 a, local_voices_1 b"
        " WHERE a.local_speaker = 0 AND b.local_speaker = 1"
    )
    assert alike > 0.8
    longest = "SELECT asset_id, start_ms, end_ms FROM segments WHERE local_speaker = 1 ORDER BY end_ms - start_ms DESC"
    [(asset_id, start_ms, end_ms)] = db.execute(f"{longest} LIMIT 1").fetchall()
    label(db, "Diane", [Target(asset_id, start_ms, end_ms)], "me")

    def names() -> list[tuple[Any, ...]]:
        return db.execute(
            "SELECT local_speaker, name, method FROM local_speakers LEFT JOIN speakers USING (speaker_id) ORDER BY 1"
        ).fetchall()

    only_one = [(0, None, None), (1, "Diane", "human")]
    assert names() == only_one
    db.execute("INSERT INTO voice_clusters (space_id) VALUES (1)")
    db.execute(
        "INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
        " SELECT asset_id, local_speaker, 1, 1, 1, 0.95 FROM local_voices_1"
    )
    with db.transaction():
        lock_decisions(db)
        refresh(db, [asset_id])
    offered = db.execute("SELECT speaker_id IS NOT NULL FROM cluster_members ORDER BY local_speaker").fetchall()
    assert offered == [(True,), (False,)]
    assert names() == only_one
    told = rushes("speakers", "identify", url=db_url)
    assert told.returncode == 0, told.stderr
    assert names() == only_one
    by_name = Counter({who.shown: count for who, count in voices_of(db, [asset_id])[asset_id].items()})
    said = describe(voices_of(db, [asset_id])[asset_id])
    assert said in rushes("show", "sample.wav", url=db_url).stdout
    assert int(said.split()[0]) == sum(map(int, re.findall(r"[A-Za-z] (\d+)", said))) == by_name.total()
    counts = count_speakers(db)
    assert (counts.known, counts.unknown) == (by_name["Diane"], by_name.total() - by_name["Diane"])
    again = run(db_url, [str(call_wav())], flags={"num_speakers": 2}, force=True)
    assert again.speakers == counts
    assert names() == only_one
    assert not any(check_corpus(db).values())
