"""Named moments at which a test may end, stop or fail this process; nothing happens without being asked.

`RUSHES_FAULT` holds one JSON object, or a list of them with a folder each:
`{"point": "commit_fenced", "visit": 2, "action": "kill", "folder": DIR}`.
Visits are counted in `folder` over every process that shares it, so that a restarted process goes on
counting. The action happens once ever; with `"always": true` at each visit from `visit` on. `"match"`
counts only visits whose key (the row's uri) contains it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

VARIABLE = "RUSHES_FAULT"
MARKER = "happened.json"


class FaultPoint(StrEnum):
    """Every step between the start of a run and its end, in order."""

    REGISTERED = "registered"
    RUN_STARTED = "run_started"
    LOADING = "loading"
    BEFORE_CLAIM = "before_claim"
    CLAIMED = "claimed"
    BEFORE_DECODE = "before_decode"
    READING = "reading"
    BEFORE_SPEECH_ACTIVITY = "before_speech_activity"
    BEFORE_TRANSCRIBE = "before_transcribe"
    BEFORE_DIARIZE = "before_diarize"
    BEFORE_SEGMENTS = "before_segments"
    BEFORE_VOICES = "before_voices"
    BEFORE_TEXTS = "before_texts"
    BEFORE_PICTURES = "before_pictures"
    BEFORE_THUMBNAILS = "before_thumbnails"
    BEFORE_IMAGES = "before_images"
    COMMIT_BEGUN = "commit_begun"
    COMMIT_FENCED = "commit_fenced"
    SPEECH_WRITTEN = "speech_written"
    VOICES_WRITTEN = "voices_written"
    TEXTS_WRITTEN = "texts_written"
    FRAMES_WRITTEN = "frames_written"
    IMAGES_WRITTEN = "images_written"
    UNITS_SETTLED = "units_settled"
    COMMITTED = "committed"
    COMPARED = "compared"
    RECONCILED = "reconciled"
    RUN_FINISHED = "run_finished"


class Action(StrEnum):
    """What happens at the point: SIGKILL, SystemExit, RuntimeError, MemoryError, an endless wait, or only a note."""

    KILL = "kill"
    EXIT = "exit"
    RAISE = "raise"
    MEMORY = "memory"
    HANG = "hang"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Fault:
    """One asked-for fault; `folder` keeps the count of visits and the note of what happened."""

    point: FaultPoint
    action: Action
    folder: Path
    visit: int = 1
    always: bool = False
    match: str = ""

    def meet(self, point: FaultPoint, key: str) -> None:
        """Count the visit and act when it is the one; may not return."""
        if point is not self.point or self.match not in key:
            return
        number = self._count()
        if (number >= self.visit) if self.always else (number == self.visit):
            self._note(key, number)
            self._act()

    def _count(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            try:
                (self.folder / f"visit-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError("unreachable")

    def _note(self, key: str, number: int) -> None:
        """The marker appears whole: a harness that polls for it never reads half of it."""
        note = {"pid": os.getpid(), "point": self.point.value, "visit": number, "key": key}
        draft = self.folder / f"note-{number}"
        draft.write_text(json.dumps(note), encoding="utf-8")
        draft.replace(self.folder / MARKER)

    def _act(self) -> None:
        match self.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.EXIT:
                raise SystemExit(f"fault at {self.point}")
            case Action.RAISE:
                raise RuntimeError(f"fault at {self.point}")
            case Action.MEMORY:
                raise MemoryError(f"fault at {self.point}")
            case Action.HANG:
                while True:
                    time.sleep(3600)
            case Action.NOTE:
                pass


def read_faults(text: str | None) -> tuple[Fault, ...]:
    """The faults that `RUSHES_FAULT` asks for, none when it is unset or empty; `ValueError` for anything else."""
    if not text:
        return ()
    try:
        asked = json.loads(text)
        return tuple(_fault(**one) for one in (asked if isinstance(asked, list) else [asked]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{VARIABLE} is not a fault ({error!r}): {text}") from error


def _fault(*, point: str, action: str, folder: str, **rest: Any) -> Fault:
    return Fault(FaultPoint(point), Action(action), Path(folder), **rest)


_FAULTS = read_faults(os.environ.get(VARIABLE))


def reach(point: FaultPoint, key: str = "") -> None:
    """Say that this process is at `point`; `key` is the row's uri where there is one."""
    for fault in _FAULTS:
        fault.meet(point, key)
