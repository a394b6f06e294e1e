"""How long a label takes to reach its cluster, and how long it takes to recognise and to rank voices.

`python -m benchmarks.labelling [most segments]`: synthetic voices of 256 dimensions in an embedded database.
One label of a person with 1,000, 10,000 and 100,000 segments in one cluster, beside the form that keeps the
speaker with each vector and updates it there, under its HNSW index. Then recognition of 1,000 voices against
10,000 and 100,000 named ones, beside the average distance to every named vector, and to the means of people.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql

from benchmarks.report import at_least, at_most, write_result
from cluster.db.connect import find_database
from cluster.db.copy import stage_rows
from cluster.db.migrate import migrate
from cluster.db.spaces import Space, ensure_space
from cluster.db.speakers.actions import label, undo
from cluster.db.speakers.events import Target
from cluster.db.speakers.identify import IdentifyOptions, identify
from cluster.db.speakers.means import fill_means, rank_speakers
from cluster.profiles import ModelChoice
from cluster.settings import load_settings

DIMENSION = 256
SEGMENTS_EACH = 10
SEGMENT_MS = 3_000
PEOPLE = 1_000
QUERIES = 1_000
RANKED = 20
ROUNDS = 5
NAIVE_MOST = 10_000
LABEL_1K_S = 0.1
SEED = 11


def unit(vectors: Any) -> Any:
    """Rows of unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def voices_of(people: int, each: int, rng: Any) -> Any:
    """(people * each, dimension): voices of people in turn, two of one person with a cosine of about 0.9."""
    own = unit(rng.standard_normal((people, DIMENSION)))
    noise = unit(rng.standard_normal((people * each, DIMENSION)))
    return unit(np.tile(own, (each, 1)) + 0.33 * noise)


class Archive:
    """Assets of one voice each, in a database of its own."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        choice = ModelChoice(
            role="voice", profile="synthetic", engine="ge2e", weights="path:/none", dimension=DIMENSION
        )
        self.space: Space = ensure_space(conn, "voice", choice, {"synthetic": True})
        conn.execute("UPDATE spaces SET is_active = true")
        self.assets = 0

    def add(self, vectors: Any, segments_each: int) -> list[int]:
        """One asset per row of `vectors`, with that many segments of this voice; returns their ids."""
        conn, first = self.conn, self.assets
        self.assets += len(vectors)
        values: dict[str, Any] = {"first": first, "last": self.assets - 1, "segments": segments_each, "ms": SEGMENT_MS}
        with conn.transaction():
            ids = [
                row[0]
                for row in conn.execute(
                    "INSERT INTO assets (sha256, byte_size, media_kind, audio_stream)"
                    " SELECT sha256(int8send(i)), 1, 'audio', 0 FROM generate_series(%(first)s::bigint, %(last)s) i"
                    " RETURNING asset_id",
                    values,
                )
            ]
            values["ids"] = ids
            conn.execute(
                "INSERT INTO segments (asset_id, idx, start_ms, end_ms, local_speaker, text, words, text_skip_reason)"
                " SELECT a, i, i * (%(ms)s + 500), i * (%(ms)s + 500) + %(ms)s, 0, '', '[]', 'none'"
                " FROM unnest(%(ids)s::bigint[]) a, generate_series(0, %(segments)s - 1) i ORDER BY 1, 2",
                values,
            )
            conn.execute(
                "INSERT INTO local_speakers (asset_id, local_speaker, segments, speech_ms)"
                " SELECT a, 0, %(segments)s, %(segments)s * %(ms)s FROM unnest(%(ids)s::bigint[]) a",
                values,
            )
            stage_rows(
                conn, "stage_vectors", {"asset_id": "int8", "embedding": "vector"}, zip(ids, vectors, strict=True)
            )
            self._copy(self.space.local_voices_table, "asset_id, 0, 60000, embedding FROM stage_vectors")
            joined = "segment_id, embedding FROM stage_vectors JOIN segments USING (asset_id)"
            self._copy(self.space.table_name, joined)
            conn.execute(
                "INSERT INTO voices (segment_id, space_id) SELECT segment_id, %s FROM segments"
                " WHERE asset_id = ANY(%s)",
                (self.space.space_id, ids),
            )
        return ids

    def _copy(self, table: str, what: str) -> None:
        query = sql.SQL("INSERT INTO {} SELECT ").format(sql.Identifier(table))
        self.conn.execute(query + sql.SQL(what))  # type: ignore[arg-type]

    def cluster(self, ids: Iterable[int]) -> None:
        """Put the voices of these assets into one cluster."""
        self.conn.execute(
            "WITH made AS (INSERT INTO voice_clusters (space_id) VALUES (%(space)s) RETURNING cluster_id)"
            " INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
            " SELECT a, 0, %(space)s, cluster_id, cluster_id, 0.95 FROM made, unnest(%(ids)s::bigint[]) a",
            {"space": self.space.space_id, "ids": list(ids)},
        )

    def name(self, ids: list[int], people: int) -> None:
        """A person named these voices, in turn, of so many people."""
        self.conn.execute(
            "WITH made AS (INSERT INTO speakers (name, first_name, is_used)"
            "  SELECT 'P' || i, 'P' || i, true FROM generate_series(1, %(people)s) i RETURNING speaker_id),"
            " numbered AS (SELECT speaker_id, row_number() OVER (ORDER BY speaker_id) - 1 AS n FROM made)"
            " UPDATE local_speakers l SET speaker_id = numbered.speaker_id, method = 'human'"
            " FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY t(asset_id, place), numbered"
            " WHERE l.asset_id = t.asset_id AND numbered.n = (t.place - 1) %% %(people)s",
            {"people": people, "ids": ids},
        )
        self.conn.execute("UPDATE speakers SET root_id = speaker_id WHERE root_id IS NULL")

    def analyze(self) -> None:
        """Tell the planner what is there."""
        self.conn.execute("ANALYZE")


def timed(action: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def label_times(archive: Archive, segments: int, rng: Any) -> dict[str, Any]:
    """One label that reaches a cluster of so many segments, and its undo; medians of the rounds."""
    ids = archive.add(voices_of(1, segments // SEGMENTS_EACH, rng), SEGMENTS_EACH)
    archive.cluster(ids)
    archive.analyze()
    conn, labelled, undone = archive.conn, [], []
    for number in range(ROUNDS):
        target = Target(ids[number], 0, SEGMENT_MS)
        labelled.append(timed(lambda target=target: label(conn, f"Anna {segments}", [target], "benchmark")))
        reached = conn.execute(
            "SELECT count(*) FROM segments s JOIN local_speakers l USING (asset_id, local_speaker)"
            " WHERE s.asset_id = ANY(%s) AND l.speaker_id IS NOT NULL", (ids,)
        ).fetchone()  # fmt: skip
        assert reached == (segments,)
        undone.append(timed(lambda: undo(conn, None, "benchmark")))
    return {
        "segments": segments,
        "voices": len(ids),
        "label_s": round(statistics.median(labelled), 4),
        "undo_s": round(statistics.median(undone), 4),
    }


def naive_time(archive: Archive, segments: int, rng: Any) -> float:
    """The same with a speaker column beside each vector, which the HNSW index covers: one UPDATE by cluster."""
    conn = archive.conn
    conn.execute("DROP TABLE IF EXISTS naive")
    conn.execute(
        f"CREATE TABLE naive (id bigint PRIMARY KEY, cluster_id int, speaker_id int, embedding vector({DIMENSION}))"
    )
    vectors = voices_of(1, segments, rng)
    with conn.transaction():
        stage_rows(conn, "stage_naive", {"id": "int8", "embedding": "vector"}, enumerate(vectors))
        conn.execute("INSERT INTO naive SELECT id, 1, NULL, embedding FROM stage_naive")
    conn.execute("CREATE INDEX ON naive USING hnsw (embedding vector_cosine_ops)")
    conn.execute("CREATE INDEX ON naive (cluster_id)")
    archive.analyze()
    began = time.perf_counter()
    updated = conn.execute("UPDATE naive SET speaker_id = 7 WHERE cluster_id = 1").rowcount
    assert updated == segments
    return time.perf_counter() - began


_AVERAGE = """
SELECT l.speaker_id, avg(e.embedding <=> %s) FROM {vectors} e JOIN segments s USING (segment_id)
JOIN local_speakers l USING (asset_id, local_speaker) WHERE l.speaker_id IS NOT NULL GROUP BY 1 ORDER BY 2 LIMIT 5
"""


def recognition_times(archive: Archive, named: int, rng: Any) -> dict[str, Any]:
    """Recognition of voices of the known people, and both forms of the average distance for some of them."""
    from pgvector import Vector

    conn, space = archive.conn, archive.space
    vectors = voices_of(PEOPLE, named // PEOPLE + QUERIES // PEOPLE, rng)
    ids = archive.add(vectors[:named], 1)
    archive.name(ids, PEOPLE)
    asked = archive.add(vectors[named:], 1)
    archive.analyze()
    found: list[Any] = []
    recognise_s = timed(lambda: found.append(identify(conn, space, IdentifyOptions(asset_ids=asked), None)))
    average = sql.SQL(_AVERAGE).format(vectors=sql.Identifier(space.table_name))
    some = vectors[named : named + RANKED]
    average_s = [timed(lambda q=q: conn.execute(average, (Vector(q),)).fetchall()) for q in some]
    with conn.transaction():
        fill_s = timed(lambda: fill_means(conn, space))
    ranked_s = [timed(lambda q=q: rank_speakers(conn, space, q, 5)) for q in some]
    average_ms, means_ms = (1000 * statistics.median(times) for times in (average_s, ranked_s))
    return {
        "named_voices": named,
        "people": PEOPLE,
        "asked": len(asked),
        "recognised": found[0].named,
        "recognise_s": round(recognise_s, 3),
        "average_distance_ms_each": round(average_ms, 2),
        "average_distance_s_for_all": round(average_ms * len(asked) / 1000, 2),
        "means_fill_s": round(fill_s, 3),
        "means_ms_each": round(means_ms, 2),
        "means_over_average": round(average_ms / means_ms, 1),
        "recognition_over_average": round(average_ms * len(asked) / 1000 / recognise_s, 1),
    }


def fresh(root: Path, name: str) -> Archive:
    """An archive in a database of its own."""
    conn = find_database(load_settings(None, data_dir=root / name)).connect()
    migrate(conn)
    return Archive(conn)


def main() -> None:
    """Measure, compare, write `results/labelling.json`."""
    most, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, np.random.default_rng(SEED)
    sizes = [size for size in (1_000, 10_000, 100_000) if size <= most]
    labels, recognitions = [], []
    with tempfile.TemporaryDirectory() as folder:
        archive = fresh(Path(folder), "labels")
        for size in sizes:
            row = label_times(archive, size, rng)
            if size <= NAIVE_MOST:
                row["naive_s"] = round(naive_time(archive, size, rng), 4)
                row["naive_over_label"] = round(row["naive_s"] / row["label_s"], 1)
            labels.append(row)
        archive.conn.close()
        for size in sizes[1:]:
            archive = fresh(Path(folder), f"voices{size}")
            recognitions.append(recognition_times(archive, size, rng))
            archive.conn.close()
    targets = {
        "label_of_1000_segments_s": at_most(LABEL_1K_S, labels[0]["label_s"]),
        "naive_over_label_at_most_segments": at_least(1.0, labels[min(1, len(labels) - 1)].get("naive_over_label", 0)),
    }
    if recognitions:
        targets["means_over_average_distance"] = at_least(1.0, recognitions[-1]["means_over_average"])
    write_result(
        "labelling",
        {"n": {"rounds": ROUNDS, "ranked": RANKED, "seed": SEED, "dimension": DIMENSION}, "labels": labels,
         "recognition": recognitions, "targets": targets},
    )  # fmt: skip


if __name__ == "__main__":
    main()
