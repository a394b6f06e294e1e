"""Embedding spaces: a registry row and a vector table each, made on demand, never mixed.

A new space fills beside the old one; `is_active` flips when it holds all that the old one holds,
so search never goes down and going back is the same flip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from cluster.db.patience import Session
from cluster.lanes import SPACE_OF_LANE, digest
from cluster.profiles import ModelChoice

HALFVEC_FROM_DIMENSION = 512
INDEX_FROM_ROWS = 10_000
# The name of a space that is being dropped; no model has it.
RETIRED = "retired "
OWNER = {"voice": ("segment_id", "segments"), "text": ("chunk_id", "chunks"), "image": ("frame_id", "frames")}
_LANE = {kind: lane for lane, kind in SPACE_OF_LANE.items()}
_LOCK_KEY = 0x5370_6163_65


@dataclass(frozen=True, slots=True)
class Space:
    """One embedding space."""

    space_id: int
    kind: str
    profile: str
    model: str
    dimension: int
    storage: Literal["vector", "halfvec"]
    table_name: str
    is_active: bool
    choice: ModelChoice

    @property
    def cache_table(self) -> str:
        """The table of known voices by content; voice spaces only."""
        return f"voice_cache_{self.space_id}"

    @property
    def local_voices_table(self) -> str:
        """The table of what each local speaker sounds like; voice spaces only."""
        return f"local_voices_{self.space_id}"

    @property
    def means_table(self) -> str:
        """The table of the mean voices of named people; voice spaces only."""
        return f"speaker_means_{self.space_id}"

    @property
    def leaders_table(self) -> str:
        """The table of the pictures that lead visual clusters; image spaces only."""
        return f"visual_leaders_{self.space_id}"

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table of its own, those that nothing hangs on first."""
        own = {"voice": (self.means_table, self.local_voices_table, self.cache_table), "image": (self.leaders_table,)}
        return (*own.get(self.kind, ()), self.table_name)


_SELECT = "SELECT space_id, kind, profile, model, dimension, storage, table_name, is_active, choice FROM spaces"


def _space(row: tuple[Any, ...]) -> Space:
    return Space(*row[:-1], choice=ModelChoice.from_dict(row[-1]))


def ensure_space(conn: psycopg.Connection[Any], kind: str, choice: ModelChoice, identity: Mapping[str, Any]) -> Space:
    """The space of this model and preprocessing, made with its tables when it is new."""
    config_hash = space_name(kind, choice, identity)
    found = find_space(conn, kind, config_hash)
    if found is not None:
        return found
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        found = find_space(conn, kind, config_hash)
        return _create(conn, kind, choice, identity, config_hash) if found is None else found


def space_name(kind: str, choice: ModelChoice, identity: Mapping[str, Any]) -> str:
    """What a space is known by: the hash of its kind, dimension, model and preprocessing."""
    return digest([kind, choice.dimension, dict(identity)])


def find_space(conn: psycopg.Connection[Any], kind: str, name: str) -> Space | None:
    """The space of this `space_name`, if it was ever made."""
    row = conn.execute(f"{_SELECT} WHERE kind = %s AND config_hash = %s".encode(), (kind, name)).fetchone()
    return None if row is None else _space(row)


def _create(
    conn: psycopg.Connection[Any],
    kind: str,
    choice: ModelChoice,
    identity: Mapping[str, Any],
    config_hash: str,
) -> Space:
    if choice.dimension is None:
        raise ValueError(f"profile {choice.profile} gives the {choice.role} role no dimension")
    storage = "halfvec" if choice.dimension >= HALFVEC_FROM_DIMENSION else "vector"
    row = conn.execute(
        "INSERT INTO spaces (kind, profile, model, dimension, storage, choice, identity, config_hash, table_name,"
        " is_active) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, gen_random_uuid()::text,"
        " NOT EXISTS (SELECT 1 FROM spaces WHERE kind = %s AND is_active)) RETURNING space_id",
        (kind, choice.profile, choice.weights, choice.dimension, storage, Jsonb(choice.to_dict()),
         Jsonb(dict(identity)), config_hash, kind),
    ).fetchone()  # fmt: skip
    assert row is not None
    table = f"{kind}_vectors_{row[0]}"
    conn.execute("UPDATE spaces SET table_name = %s WHERE space_id = %s", (table, row[0]))
    dimension = sql.Literal(choice.dimension)
    vector = sql.SQL("{}({})").format(sql.SQL(storage), dimension)
    _create_tables(conn, row[0], kind, table, vector, dimension)
    return get_space(conn, row[0])


def _create_tables(
    conn: psycopg.Connection[Any], space_id: int, kind: str, table: str, vector: sql.Composed, dimension: sql.Literal
) -> None:
    owner, parent = OWNER[kind]
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} ({} bigint PRIMARY KEY REFERENCES {} ON DELETE CASCADE, embedding {} NOT NULL)"
        ).format(sql.Identifier(table), sql.Identifier(owner), sql.Identifier(parent), vector)
    )
    if kind == "image":
        conn.execute(
            sql.SQL(
                "CREATE TABLE {} (cluster_id bigint PRIMARY KEY REFERENCES visual_clusters ON DELETE CASCADE,"
                " embedding {} NOT NULL)"
            ).format(sql.Identifier(f"visual_leaders_{space_id}"), vector)
        )
    if kind == "voice":
        conn.execute(
            sql.SQL(
                "CREATE TABLE {} (audio_sha256 bytea NOT NULL, start_sample bigint NOT NULL,"
                " end_sample bigint NOT NULL, embedding {} NOT NULL,"
                " PRIMARY KEY (audio_sha256, start_sample, end_sample))"
            ).format(sql.Identifier(f"voice_cache_{space_id}"), vector)
        )
        conn.execute(
            sql.SQL(
                "CREATE TABLE {} (asset_id bigint NOT NULL, local_speaker smallint NOT NULL, clean_ms bigint NOT NULL,"
                " embedding {} NOT NULL, PRIMARY KEY (asset_id, local_speaker),"
                " FOREIGN KEY (asset_id, local_speaker) REFERENCES local_speakers ON DELETE CASCADE)"
            ).format(sql.Identifier(f"local_voices_{space_id}"), vector)
        )
        # Full floats whatever the space stores: means are of unit vectors and not unit vectors themselves.
        conn.execute(
            sql.SQL(
                "CREATE TABLE {} (speaker_id bigint PRIMARY KEY REFERENCES speakers ON DELETE CASCADE,"
                " voices bigint NOT NULL, mean vector({}) NOT NULL)"
            ).format(sql.Identifier(f"speaker_means_{space_id}"), dimension)
        )


def get_space(conn: psycopg.Connection[Any], space_id: int) -> Space:
    """The space with this id."""
    row = conn.execute(f"{_SELECT} WHERE space_id = %s".encode(), (space_id,)).fetchone()
    assert row is not None
    return _space(row)


def list_spaces(conn: psycopg.Connection[Any], *, with_retired: bool = False) -> list[Space]:
    """Every space, oldest first; of those that are being dropped some tables may be gone."""
    rows = conn.execute(
        f"{_SELECT} WHERE %s OR config_hash NOT LIKE %s ORDER BY space_id".encode(), (with_retired, f"{RETIRED}%")
    )
    return [_space(row) for row in rows]


def voice_spaces(conn: psycopg.Connection[Any]) -> list[Space]:
    """Every space of voices, oldest first."""
    return [space for space in list_spaces(conn) if space.kind == "voice"]


def space_names(conn: psycopg.Connection[Any]) -> dict[int, str]:
    """Id of every space -> its `space_name`."""
    return dict(conn.execute("SELECT space_id, config_hash FROM spaces").fetchall())


def active_space(conn: psycopg.Connection[Any], kind: str) -> Space | None:
    """The space that search uses; None before anything was embedded."""
    row = conn.execute(f"{_SELECT} WHERE kind = %s AND is_active".encode(), (kind,)).fetchone()
    return None if row is None else _space(row)


def activate_if_complete(conn: psycopg.Connection[Any], space: Space) -> tuple[bool, int]:
    """Make `space` the active one of its kind unless assets that other spaces hold are missing in it.

    Returns whether it is active now, and how many such assets are missing. Near duplicates are looked for anew, with
    the vectors of this one.
    """
    missing = count_missing(conn, space)
    if missing:
        current = active_space(conn, space.kind)
        return current is not None and current.space_id == space.space_id, missing
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        conn.execute(
            "UPDATE spaces SET is_active = false WHERE kind = %s AND is_active AND space_id <> %s",
            (space.kind, space.space_id),
        )
        row = conn.execute(
            "UPDATE spaces SET is_active = true WHERE space_id = %s AND NOT is_active", (space.space_id,)
        )
        if row.rowcount and space.kind == "image":
            # What the vectors of the other space confirmed, those of this one may not.
            conn.execute("UPDATE pictures SET is_compared = false WHERE is_compared")
    return True, 0


def count_missing(conn: psycopg.Connection[Any], space: Space) -> int:
    """How many assets other spaces of its kind hold and this one does not."""
    row = conn.execute(
        "SELECT count(*) FROM (SELECT asset_id FROM units WHERE lane = %s AND state = 'done' GROUP BY asset_id"
        " HAVING NOT bool_or(detail->>'space_id' = %s)) t",
        (_LANE[space.kind], str(space.space_id)),
    ).fetchone()
    return row[0] if row else 0


def count_vectors(conn: psycopg.Connection[Any], space: Space, table: str | None = None) -> int:
    """How many vectors the space holds, or another `table` of its own."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table or space.table_name))
    row = conn.execute(query).fetchone()
    return row[0] if row else 0


def ensure_index(conn: psycopg.Connection[Any], space: Space, table: str | None = None) -> bool:
    """Build the HNSW index once the space, or another `table` of its own, is large enough; returns whether it exists.

    Building after the load costs a quarter of inserting into an existing index, and needs
    maintenance_work_mem for the whole graph: twice the vector bytes covers it.
    """
    table = table or space.table_name
    name = index_name(table)
    if conn.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
        return True
    rows = count_vectors(conn, space, table)
    if rows < INDEX_FROM_ROWS:
        return False
    width = 2 if space.storage == "halfvec" else 4
    memory_mib = max(64, min(8192, int(rows * (space.dimension * width * 1.3 + 400) / 2**20) + 1))
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL maintenance_work_mem = {}").format(sql.Literal(f"{memory_mib}MB")))
        conn.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (embedding {}_cosine_ops)").format(
                sql.Identifier(name), sql.Identifier(table), sql.SQL(space.storage)
            )
        )
    conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
    return True


def index_name(table: str) -> str:
    """The name of the vector index of a table of vectors."""
    return f"{table}_hnsw"


class DatabaseVoiceCache:
    """Known voices of one voice space, read by the audio they belong to."""

    def __init__(self, session: Session, space: Space) -> None:
        self._session, self._space = session, space

    def lookup(self, audio_sha256: str) -> dict[tuple[int, int], NDArray[np.float32]]:
        """(start_sample, end_sample) -> unit vector of shape (dimension,), float32."""
        return self._session.run(lambda conn: self._known(conn, audio_sha256))

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()

    def _known(self, conn: psycopg.Connection[Any], audio_sha256: str) -> dict[tuple[int, int], NDArray[np.float32]]:
        rows = conn.execute(
            sql.SQL("SELECT start_sample, end_sample, embedding FROM {} WHERE audio_sha256 = %s").format(
                sql.Identifier(self._space.cache_table)
            ),
            (bytes.fromhex(audio_sha256),),
            binary=True,
        )
        return {(start, end): vector.to_numpy().astype(np.float32) for start, end, vector in rows}
