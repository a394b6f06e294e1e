"""Enrolment: files of one person, all of them looked at before anything gets a name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.db.connect import database_errors
from cluster.db.local_voices import read_local_voice
from cluster.db.patience import Session
from cluster.db.spaces import Space, active_space
from cluster.db.speakers.events import Target, without_segments
from cluster.db.speakers.gallery import voices_of_person
from cluster.db.speakers.names import find_speaker
from cluster.db.speakers.pointing import asset_voices
from cluster.db.stored import speech_fingerprint
from cluster.errors import RushesError, first_line
from cluster.media.inputs import Listing, list_inputs
from cluster.settings import Settings
from cluster.speakers.local_voices import LEAST_CLEAN_MS
from cluster.speakers.scoring import Gallery, Vectors
from cluster.speakers.thresholds import shipped_thresholds
from jobs.ingest import ingest, open_database
from jobs.job import IngestOptions, Reporter
from jobs.register import changed
from jobs.speakers.voices import extract_voices, lacks_voices


@dataclass(frozen=True, slots=True)
class Sample:
    """One file of a person: the voice in it, its clean speech, and its score against the person's other voices."""

    uri: str
    target: Target
    clean_ms: int
    score: float | None = None


def prepare(settings: Settings, name: str, files: Sequence[str], reporter: Reporter) -> list[Sample]:
    """Take the files in, as far as they are not, and check that each has one voice, and all that of `name`.

    Raises `RushesError` that names the file. What is known already is not decoded again.
    """
    database = open_database(settings, settings.database_wait_s)
    listing = list_inputs(files)
    if listing.unreadable:
        raise RushesError(f"{listing.unreadable[0].uri}: {listing.unreadable[0].message}")
    if not listing.files:
        raise RushesError(f"there is no recording in {', '.join(files)}")
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        _take_in(session, settings, listing, reporter)
        return session.run(lambda conn: _samples(conn, listing, name))


def _take_in(session: Session, settings: Settings, listing: Listing, reporter: Reporter) -> None:
    known = session.run(lambda conn: changed(conn, listing, retry_unreadable=True))[1]
    spoken = {
        uri: one for uri, one in known.items() if session.run(lambda conn, one=one: speech_fingerprint(conn, one))
    }
    new = [file.uri for file in listing.files if file.uri not in spoken]
    if new:
        summary = ingest(settings, IngestOptions(inputs=new, lanes=("speech", "voices"), retry_failed=True), reporter)
        if summary.exit_code == 130:
            raise KeyboardInterrupt
        if summary.failures:
            failure = summary.failures[0]
            raise RushesError(f"{failure['uri']}: {first_line(failure['message'])}; nobody was enrolled")
    for uri, asset_id in spoken.items():
        if session.run(lambda conn, one=asset_id: lacks_voices(conn, settings, one)):
            problem = session.run(lambda conn, one=asset_id: extract_voices(conn, settings, one, reporter))
            if problem is not None:
                raise RushesError(f"{uri}: no voices could be extracted ({problem}); nobody was enrolled")


def _samples(conn: Any, listing: Listing, name: str) -> list[Sample]:
    known = changed(conn, listing, retry_unreadable=False)[1]
    space = active_space(conn, "voice")
    if space is None:
        raise RushesError("no voice space is in use: run `rushes ingest` first")
    found: dict[int, tuple[Sample, Any]] = {}
    for file in listing.files:
        if file.uri not in known:
            raise RushesError(f"{file.uri} could not be taken in: see `rushes failures list`; nobody was enrolled")
        found.setdefault(known[file.uri], _sample(conn, space, file.uri, known[file.uri]))
    person = find_speaker(conn, name)
    known = np.empty((0, space.dimension), np.float32)
    if person is not None:
        known = voices_of_person(conn, space, person.speaker_id, list(found))
    return _alike(space, name, list(found.values()), known)


def _sample(conn: Any, space: Space, uri: str, asset_id: int) -> tuple[Sample, Any]:
    voices = asset_voices(conn, asset_id)
    if not voices:
        raise without_segments(conn, asset_id, uri)
    if len(voices) > 1:
        listed = "; ".join(voice.describe() for voice in voices)
        raise RushesError(
            f"{uri} has {len(voices)} voices ({listed}): enroll a file of one person, or name one voice of it with"
            " `rushes speakers label`; nobody was enrolled"
        )
    voice = read_local_voice(conn, space, asset_id, voices[0].local_speaker)
    if voice is None:
        raise RushesError(
            f"{uri} has too little clean speech: {LEAST_CLEAN_MS / 1000:.1f} s without others talking over it are"
            " needed; nobody was enrolled"
        )
    return Sample(uri, voices[0].target, voice.clean_ms), voice.vector


def _alike(space: Space, name: str, found: Sequence[tuple[Sample, Any]], known: Vectors) -> list[Sample]:
    """The samples with their scores against each other and what the person is known by."""
    limit, vectors = shipped_thresholds(space.choice.engine).cluster, np.stack([vector for _, vector in found])
    samples = []
    for i, (sample, vector) in enumerate(found):
        beside = np.concatenate([np.delete(vectors, i, axis=0), known])
        others = Gallery(vector[None, :])
        others.add(beside, [0] * len(beside))
        samples.append(replace(sample, score=float(others.scores()[0, 0]) if len(beside) else None))
    if min((sample.score for sample in samples if sample.score is not None), default=1.0) < limit:
        listed = ", ".join(f"{sample.uri} {sample.score:.2f}" for sample in samples)
        beside_known = f" and the {len(known)} voice(s) that {name} has" if len(known) else ""
        raise RushesError(
            f"these files do not sound like one person; each needs {limit:.2f} against the others{beside_known}:"
            f" {listed}; nobody was enrolled"
        )
    return samples
