"""Which scores count as the same person in a space: those measured on this archive, else those shipped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cluster.db.spaces import Space
from cluster.db.speakers.gallery import stack
from cluster.db.speakers.propagate import thresholds_of
from cluster.errors import RushesError
from cluster.speakers.calibrate import FPIR, Voices, impostor_taus, why_not

# More voices of one person change neither its best three nor its weight by much.
MOST_OF_ONE = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taus:
    """(people in the gallery, score accepted from), ascending; `at` and `speakers` tell of the calibration.

    Both are None for the shipped ones; `is_estimate`: these were not measured with the model.
    """

    taus: tuple[tuple[int, float], ...]
    at: datetime | None = None
    speakers: int | None = None
    is_estimate: bool = False

    def describe(self) -> str:
        """Where they come from, in words."""
        if self.at is not None:
            return f"calibrated {self.at:%Y-%m-%d} on {self.speakers} people"
        return "shipped, an estimate from published figures" if self.is_estimate else "shipped"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found on `voices` of `speakers`."""

    speakers: int
    voices: int
    fpir: float
    taus: tuple[tuple[int, float], ...]


def taus_in_force(conn: psycopg.Connection[Any], space: Space) -> Taus:
    """Those of the latest calibration of the space, else the shipped ones; says when these are an estimate."""
    row = conn.execute(
        "SELECT taus, at, speakers FROM calibrations WHERE space_id = %s ORDER BY calibration_id DESC LIMIT 1",
        (space.space_id,),
    ).fetchone()
    if row is not None:
        return Taus(tuple((int(size), float(tau)) for size, tau in row[0]), row[1], row[2])
    shipped = thresholds_of(space)
    if shipped.is_estimate:
        logger.warning(
            "the thresholds of voice space %d (%s) are an estimate: measure them with `rushes speakers calibrate` "
            "once enough people are labelled",
            space.space_id,
            space.profile,
        )
    return Taus(shipped.taus, is_estimate=shipped.is_estimate)


def calibrate(conn: psycopg.Connection[Any], space: Space, *, dry_run: bool = False) -> Calibration:
    """Measure the taus of the space on its labelled voices and store them; `RushesError` for too few people."""
    voices = _labelled(conn, space)
    reason = why_not(0 if voices is None else voices.speakers)
    if voices is None or reason is not None:
        raise RushesError(f"voice space {space.space_id} ({space.profile}) cannot be calibrated: {reason}")
    taus = tuple((size, round(tau, 4)) for size, tau in impostor_taus(voices))
    found = Calibration(voices.speakers, len(voices.owners), FPIR, taus)
    if not dry_run:
        conn.execute(
            "INSERT INTO calibrations (space_id, speakers, voices, fpir, taus) VALUES (%s, %s, %s, %s, %s)",
            (space.space_id, found.speakers, found.voices, found.fpir, Jsonb(taus)),
        )
    return found


def count_calibrations(conn: psycopg.Connection[Any], space: Space) -> int:
    """How many calibrations of the space are stored."""
    row = conn.execute("SELECT count(*) FROM calibrations WHERE space_id = %s", (space.space_id,)).fetchone()
    return row[0] if row else 0


def reset(conn: psycopg.Connection[Any], space: Space) -> int:
    """Let the shipped thresholds be in force again; returns how many calibrations went."""
    return conn.execute("DELETE FROM calibrations WHERE space_id = %s", (space.space_id,)).rowcount


def _labelled(conn: psycopg.Connection[Any], space: Space) -> Voices | None:
    rows = conn.execute(
        sql.SQL(
            "SELECT root_id, asset_id, embedding FROM (SELECT p.root_id, v.asset_id, v.local_speaker, a.sha256,"
            "  v.embedding, row_number() OVER (PARTITION BY p.root_id ORDER BY a.sha256, v.local_speaker) AS place"
            "  FROM {} v JOIN local_speakers l USING (asset_id, local_speaker)"
            "  JOIN speakers p ON p.speaker_id = l.speaker_id JOIN assets a USING (asset_id)"
            "  WHERE l.method IN ('human', 'cluster')) t"
            " WHERE place <= %s ORDER BY root_id, sha256, local_speaker"
        ).format(sql.Identifier(space.local_voices_table)),
        (MOST_OF_ONE,),
        binary=True,
    ).fetchall()
    if not rows:
        return None
    owners, assets = (np.asarray([row[i] for row in rows], np.int64) for i in (0, 1))
    return Voices(stack([row[2] for row in rows]), owners, assets)
