"""The errors a user meets and the classes a failed unit is filed under."""

from __future__ import annotations

from enum import StrEnum


class FailureClass(StrEnum):
    """Why a unit failed; decides whether a retry makes sense."""

    BAD_MEDIA = "bad_media"
    TRANSIENT = "transient"
    RESOURCE = "resource"
    TIMEOUT = "timeout"
    CRASH = "crash"
    BUG = "bug"


class RushesError(Exception):
    """Something the user can mend; the message names the thing, the values and the way out."""


class UsageError(RushesError):
    """The command line or a setting does not make sense (exit code 2)."""


class StageError(Exception):
    """A stage could not do its work on one row; becomes data on that row.

    `attempts` is how many failed attempts it stands for, 0 when the row is not to blame. `about_rows` is
    False for a fault of the surroundings, which would strike any half of the batch just the same.
    """

    failure = FailureClass.BUG
    attempts: int = 1
    about_rows = True


class ProcessDiedError(StageError):
    """`attempts` processes died while they worked on the row."""

    failure = FailureClass.CRASH

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts


class HangError(ProcessDiedError):
    """The work on the row passed its deadline and its process was ended; `attempts` processes died on it."""

    failure = FailureClass.TIMEOUT


class BadMediaError(StageError):
    """The content itself cannot be read."""

    failure = FailureClass.BAD_MEDIA


class MediaTimeoutError(StageError):
    """Reading the content took longer than its deadline."""

    failure = FailureClass.TIMEOUT


class MediaResourceError(StageError):
    """Reading the content needed more memory or disk than it may use."""

    failure = FailureClass.RESOURCE


class MediaCrashError(StageError):
    """Reading the content ended the child process."""

    failure = FailureClass.CRASH


def first_line(error: object) -> str:
    """What an error says, in one line."""
    return _lines(error)[0]


def last_line(error: object) -> str:
    """The end of what an error says, where nested tracebacks put the cause."""
    return _lines(error)[-1].strip()


def os_reason(error: OSError) -> str:
    """What the system says of a file, without its name."""
    return (error.strerror or str(error)).lower()


def _lines(error: object) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]


_OUT_OF_MEMORY = ("out of memory", "status_alloc_failed", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left, as torch, ctranslate2, cuBLAS and Python say it."""
    if isinstance(error, MemoryError):
        return True
    # torch's class, known by name: only actors may import torch
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (named or any(sign in text for sign in _OUT_OF_MEMORY))


def classify(error: BaseException) -> FailureClass:
    """The class of any exception a stage lets through."""
    if isinstance(error, StageError):
        return error.failure
    if out_of_memory(error):
        return FailureClass.RESOURCE
    if isinstance(error, TimeoutError):
        return FailureClass.TIMEOUT
    if isinstance(error, OSError):
        return FailureClass.TRANSIENT
    return FailureClass.BUG
