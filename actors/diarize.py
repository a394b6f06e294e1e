"""Who speaks when, inside one asset: speaker turns from audio and speech regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors import ge2e, pyannote_models
from actors.budget import Budget
from cluster import weights
from cluster.errors import StageError, UsageError
from cluster.profiles import ModelChoice
from cluster.speakers import turns as bundled
from cluster.types import SAMPLE_RATE_HZ, waveform, with_column

SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
ENGINES = ("bundled", "pyannote")

Turn = tuple[int, int, int]


class Diarize:
    """Stage: `audio`, `speech` -> `turns` {start_ms, end_ms, local_speaker}, sorted by time.

    Local speakers are numbered from 0 in order of appearance. No speech means no turns and no model
    call; nor do turns that a person gave (`given_turns`), which stand in. Engine `bundled` covers all
    speech with turns that do not overlap; `pyannote` decides by itself where speech is, and its turns
    may overlap. `min_speakers` and `max_speakers` bound the count; equal ones fix it.
    """

    name = "diarize"
    version = 1
    lanes = frozenset({"speech"})
    needs = ("audio", "speech", "given_turns")
    adds = ("turns",)
    drops = ()

    def __init__(
        self, choice: ModelChoice, min_speakers: int | None, max_speakers: int | None, threads: int = 1
    ) -> None:
        if choice.engine not in ENGINES:
            raise UsageError(f"unknown diarizer engine {choice.engine!r}; known: {', '.join(ENGINES)}")
        if min(min_speakers or 1, max_speakers or 1) < 1 or (min_speakers or 1) > (max_speakers or 1_000_000):
            raise UsageError(f"speakers between {min_speakers} and {max_speakers}: nobody can be")
        self.choice = choice
        self.min_speakers = min_speakers
        self.max_speakers = max_speakers
        self.threads = threads
        self._model: Any = None
        self._budgets: tuple[Budget, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Engine, weights, bounds; the rules of the bundled engine are part of `version`."""
        return {
            "engine": self.choice.engine,
            "weights": weights.identity(self.choice.weights),
            "min_speakers": self.min_speakers,
            "max_speakers": self.max_speakers,
        }

    def load(self) -> None:
        """Bring the model into memory, unless it is there."""
        if self._model is not None:
            return
        path, choice = weights.locate(self.choice.weights), self.choice
        if choice.engine == "bundled":
            self._model = ge2e.Ge2eEncoder(path, self.threads, choice.device, self.name)
            self._budgets = (self._model.budget,)
        else:
            self._model = pyannote_models.load_pipeline(path, choice.batch_size, self.threads, choice.device)
            self._budgets = tuple(self._model.budgets.values())

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `turns`; a row whose `speech` is null raises `StageError`."""
        return with_column(table, "turns", [self._row(table, row) for row in range(table.num_rows)])

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device, since `load`."""
        return sum(budget.halvings for budget in self._budgets)

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _row(self, table: pa.Table, row: int) -> list[dict[str, Any]]:
        given = table.column("given_turns")[row].as_py()
        if given is not None:
            return given
        speech = table.column("speech")[row].as_py()
        if speech is None:
            raise StageError("the row has no speech: the stage that adds it left it null")
        regions = [(span["start_ms"], span["end_ms"]) for span in speech if span["start_ms"] < span["end_ms"]]
        found = self._turns(waveform(table, row), regions) if regions else []
        return [{"start_ms": start, "end_ms": end, "local_speaker": speaker} for start, end, speaker in sorted(found)]

    def _turns(self, audio: NDArray[np.int16], regions: list[tuple[int, int]]) -> list[Turn]:
        self.load()
        if self.choice.engine == "pyannote":
            return pyannote_models.diarize(self._model, audio, self.min_speakers, self.max_speakers)
        frames = bundled.cut_frames(regions, len(audio) // SAMPLES_PER_MS)
        starts, place = np.unique(frames.window_ms, return_inverse=True)
        vectors = self._model.embed_windows(audio, starts * SAMPLES_PER_MS)[place]
        labels = bundled.assign_speakers(vectors, frames, self.min_speakers, self.max_speakers)
        return bundled.turns_of(labels, frames)
