"""Media for the routes: originals, cut clips, single frames and sent pictures, read in child processes and threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from actors.excerpts import take_clip, take_picture
from actors.lanes import cache_dir, node_cache
from cluster.errors import (
    BadMediaError,
    MediaCrashError,
    MediaResourceError,
    MediaTimeoutError,
    RushesError,
    UsageError,
)
from cluster.media.child import MediaChild
from cluster.media.clip import ClipSpec
from cluster.media.hashing import ChangingError
from cluster.media.inputs import first_present
from cluster.media.original import Bytes, LocalBytes, open_original
from cluster.media.pictures import PictureSpec
from cluster.media.query import query_row
from cluster.settings import Settings
from cluster.words import short_uri
from serve.errors import BusyError, ConflictError, DeadlineError, InvalidError, UnavailableError
from serve.file_cache import FileCache

CHILDREN = 2
WAITING = 32
FILE_THREADS = 8
CACHE_BYTES = 2 << 30
# Another way to cut gets another number: what lies in the cache is no longer what is made.
CUT_VERSION = 1
INTERRUPT_S = 0.05

T = TypeVar("T")
Row = Mapping[str, Any]


class MediaDesk:
    """Reads and cuts media of the corpus for many requests at once.

    `CHILDREN` of them are read at a time, `WAITING` stand in line. A request that is cancelled ends its work.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = FileCache(cache_dir(settings) / "clips", CACHE_BYTES)
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")
        self._readers = ThreadPoolExecutor(CHILDREN, thread_name_prefix="media")
        self._idle: list[MediaChild] = []
        self._jobs: set[_Job[Any]] = set()
        self._making: dict[str, _Making] = {}

    async def original(self, sources: Sequence[Row]) -> Bytes:
        """The registered content; `ConflictError` when no source has it any more."""
        return await self.in_thread(lambda: open_original(sources, cache_dir(self.settings)), sources)

    async def clip(self, sources: Sequence[Row], spec: ClipSpec, anchor: Row | None) -> LocalBytes:
        """A cut clip, made once for all who ask for it at the same time; raises as `read` does."""
        name = f"{CUT_VERSION}-{_sha(sources)}-{spec.start_ms}-{spec.end_ms}.{spec.form}"

        def cut(child: MediaChild, sink: int) -> None:
            source = first_present(sources)
            take_clip(child, source, spec, anchor, sink, self.settings.serve.timeout_s, node_cache(self.settings))

        return await self._made(name, cut, sources)

    async def picture(self, sources: Sequence[Row], kind: str, t_ms: int, anchor: Row | None) -> LocalBytes:
        """What is shown at a time, as JPEG; `InvalidError` for a time after the end, else as `read`."""

        def take(child: MediaChild, sink: int) -> None:
            limit_s = self.settings.serve.timeout_s
            source = first_present(sources)
            found = take_picture(child, source, kind, t_ms, "JPEG", anchor, limit_s, node_cache(self.settings))
            with open(sink, "wb", closefd=False) as file:
                file.write(found.data or b"")

        return await self._made(f"{CUT_VERSION}-{_sha(sources)}-{t_ms}.jpg", take, sources)

    async def read_picture(self, file: bytes) -> Row:
        """The one frame of a picture that a client sent: `phash`, `is_informative`; `InvalidError` for another file."""

        def look(child: MediaChild) -> Row:
            handle = os.memfd_create("rushes-picture")
            try:
                with open(handle, "wb", closefd=False) as sink:
                    sink.write(file)
                return (
                    query_row(child, f"/proc/{os.getpid()}/fd/{handle}", PictureSpec()).column("frames")[0].as_py()[0]
                )
            finally:
                os.close(handle)

        try:
            return await self._ask(look)
        except (BadMediaError, MediaCrashError, MediaResourceError) as error:
            raise InvalidError(f"image: {error}", param="image") from error
        except MediaTimeoutError as error:
            raise DeadlineError(f"image: {error}", param="image") from error

    async def read(self, work: Callable[[MediaChild], T], sources: Sequence[Row] = ()) -> T:
        """`work(child)` in a thread, with a child of its own for so long; cancelling the caller ends the child.

        Raises `BusyError` when the line is full, `ConflictError` for content that cannot be read or changed,
        `DeadlineError`, and `UnavailableError` for a source that is out of reach. What is said of `sources` is said
        without their paths.
        """
        try:
            return await self._ask(work)
        except _TROUBLE as error:
            raise _told(error, sources) from error

    async def in_thread(self, work: Callable[[], T], sources: Sequence[Row] = ()) -> T:
        """A blocking read of files off the loop; raises as `read`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._files, work)
        except _TROUBLE as error:
            raise _told(error, sources) from error

    def close(self) -> None:
        """End the children; what is at work fails."""
        for job in list(self._jobs):
            job.end()
        for pool in (self._readers, self._files):
            pool.shutdown(wait=True, cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    async def _ask(self, work: Callable[[MediaChild], T]) -> T:
        if len(self._jobs) >= CHILDREN + WAITING:
            raise BusyError(f"{len(self._jobs)} requests wait for media to be read")
        job = _Job(work)
        self._jobs.add(job)
        job.future = self._readers.submit(self._run, job)
        job.future.add_done_callback(lambda _: self._jobs.discard(job))
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.end()
            raise

    def _run(self, job: _Job[T]) -> T:
        job.child = self._idle.pop() if self._idle else MediaChild(self.settings.decode_memory_bytes)
        try:
            return job.work(job.child)
        finally:
            self._idle.append(job.let_go())

    async def _made(self, name: str, fill: Callable[[MediaChild, int], None], sources: Sequence[Row]) -> LocalBytes:
        found = await self.in_thread(lambda: self.cache.find(name), sources)
        if found is not None:
            return found
        making = self._making.get(name)
        if making is None:
            work = self.read(lambda child: self.cache.make(name, lambda sink: fill(child, sink)), sources)
            making = self._making[name] = _Making(asyncio.ensure_future(work))
            making.task.add_done_callback(lambda task: self._forget(name, task))
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting and not making.task.done():
                self._forget(name, making.task)
                making.task.cancel()

    def _forget(self, name: str, task: asyncio.Future[LocalBytes]) -> None:
        if name in self._making and self._making[name].task is task:
            del self._making[name]
        if task.done() and not task.cancelled():
            task.exception()


class _Making:
    """A file that is made, and how many wait for it."""

    def __init__(self, task: asyncio.Future[LocalBytes]) -> None:
        self.task, self.waiting = task, 0


class _Job(Generic[T]):
    """Work with a child, which another thread may end."""

    def __init__(self, work: Callable[[MediaChild], T]) -> None:
        self.work, self._lock = work, threading.Lock()
        self.child: MediaChild | None = None
        self.future: Future[T] | None = None

    def end(self) -> None:
        """See to it that the work ends, now or as soon as it has a child."""
        threading.Thread(target=self._end, daemon=True).start()

    def let_go(self) -> MediaChild:
        """The child, for the next job: from now on this one ends it no more."""
        with self._lock:
            child, self.child = self.child, None
        assert child is not None
        return child

    def _end(self) -> None:
        while self.future is not None and not self.future.cancel() and not self.future.done():
            with self._lock:
                if self.child is not None:
                    self.child.interrupt()
            time.sleep(INTERRUPT_S)


def _sha(sources: Sequence[Row]) -> str:
    if not sources:
        raise ConflictError("no source leads to this asset any more: ingest it from where it is now")
    return sources[0]["sha256"]


# What a person can be told; anything else is a fault of ours, and goes to the log.
_TROUBLE = (
    RushesError, OSError, BadMediaError, MediaCrashError, MediaResourceError, MediaTimeoutError,
)  # fmt: skip


def _told(error: Exception, sources: Sequence[Row]) -> Exception:
    """The answer for trouble with media; a path on this machine is nobody's business."""
    words = str(error)
    for row in sources:
        words = words.replace(row["uri"], short_uri(row["uri"]))
    if isinstance(error, UsageError):
        return InvalidError(words, param="t_ms")
    if isinstance(error, MediaTimeoutError):
        return DeadlineError(words)
    if isinstance(error, OSError) and not isinstance(error, ChangingError | FileNotFoundError):
        return UnavailableError(f"it cannot be read now: {(error.strerror or words).lower()}")
    return ConflictError(words)
