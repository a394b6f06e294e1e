"""Media files are read in a child process: bounded in time and memory, replaced when it hangs or dies."""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.environment import child_environment
from cluster.errors import BadMediaError, MediaCrashError, MediaResourceError, MediaTimeoutError, StageError
from cluster.media.hashing import ChangingError, Stamp
from cluster.media.probe import Probe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cluster.media.clip import Clip, ClipSpec
    from cluster.media.instant import Instant
    from cluster.media.pictures import Pictures, PictureSpec, Tiny

START_DEADLINE_S = 60.0
MESSAGE_BYTES = 1 << 16
_MODULE = "cluster.media.child_main"


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Sound as int16 of shape (samples,), mono, 16 kHz, read-only, with the SHA-256 of its bytes.

    `stamp` is the file it was decoded from, as it was all the while.
    """

    samples: NDArray[np.int16]
    sha256: str
    skipped_packets: int
    stamp: Stamp


class MediaChild:
    """One long-lived child process that probes and decodes, started at the first call.

    Its calls raise `BadMediaError` (the content), `MediaTimeoutError` (deadline passed, child replaced),
    `MediaCrashError` (the child died on it), `MediaResourceError` (over `memory_bytes`), `OSError` (the
    file cannot be opened or read), `ChangingError` (it was written to meanwhile) and `StageError` (a
    fault of the reader). After any of them the next call works. `RuntimeError`: no child starts at all.
    Not thread-safe, but for `interrupt`.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running child, None before the first call and after its end."""
        return self._child.process.pid if self._child else None

    def probe(self, path: str | Path, deadline_s: float) -> Probe:
        """What the file holds; see `cluster.media.probe.probe`."""
        found = self._ask({"op": "probe", "path": os.fspath(path)}, (), deadline_s)
        stamp = Stamp(**found.pop("stamp"))
        return Probe(**found, stamp=stamp)

    def decode(self, path: str | Path, stream: int, deadline_s: float) -> Decoded:
        """The sound of one stream; the samples live in memory shared with nobody once this returns."""
        request = {"op": "decode", "path": os.fspath(path), "stream": stream}
        pcm = os.memfd_create("rushes-pcm")
        try:
            answer = self._ask(request, (pcm,), deadline_s)
            samples = _map_samples(pcm, answer["samples"])
        finally:
            os.close(pcm)
        return Decoded(samples, answer["sha256"], answer["skipped_packets"], Stamp(**answer["stamp"]))

    def pictures(
        self,
        path: str | Path,
        kind: str,
        spec: PictureSpec,
        deadline_s: float,
        cuts: Sequence[int] | None = None,
    ) -> Pictures:
        """Everything about an image or a video in one pass; see `cluster.media.pictures.Pictures`.

        `kind` is that of the probe. `cuts` are the numbers of the frames that begin shots, as `tiny` counts
        them; without, cuts are looked for.
        """
        asked = {"kind": kind, "spec": spec.to_dict(), "cuts": None if cuts is None else [int(cut) for cut in cuts]}
        return self._pictures("pictures", path, asked, deadline_s)

    def pick(
        self, path: str | Path, kind: str, frames: Sequence[Mapping[str, Any]], spec: PictureSpec, deadline_s: float
    ) -> Pictures:
        """The pictures of committed `frames` again: `frames`, `thumbnails` and `pixels`, the rest is null.

        A frame that is not there any more is `BadMediaError`.
        """
        told = [{**frame, "phash": frame["phash"].hex()} for frame in frames]
        return self._pictures("pick", path, {"kind": kind, "spec": spec.to_dict(), "frames": told}, deadline_s)

    def tiny(self, path: str | Path, deadline_s: float) -> Tiny:
        """Every frame of a video at 48 x 27, in memory shared with nobody once this returns."""
        import numpy as np

        from cluster.media.pictures import TINY_SHAPE, Tiny

        with self._memory("tiny", path, {}, deadline_s) as (memory, answer):
            size = answer["count"] * math.prod(TINY_SHAPE)
            pixels = np.frombuffer(mmap.mmap(memory, size, access=mmap.ACCESS_READ), np.uint8)
        return Tiny(pixels.reshape(-1, *TINY_SHAPE), Stamp(**answer["stamp"]))

    def instant(
        self, path: str | Path, kind: str, t_ms: int, form: str, anchor: Mapping[str, Any] | None, deadline_s: float
    ) -> Instant:
        """The picture that is shown at a time, as a file of `form`; see `cluster.media.instant`.

        `anchor` is a committed frame at or before it, which spares decoding what comes before.
        """
        from cluster.media.instant import Instant

        told = anchor and {**anchor, "phash": anchor["phash"].hex()}
        asked = {"kind": kind, "t_ms": t_ms, "format": form, "anchor": told}
        with self._memory("instant", path, asked, deadline_s) as (memory, answer):
            size, stamp = answer.pop("size"), Stamp(**answer.pop("stamp"))
            return Instant(None if size is None else os.pread(memory, size, 0), **answer, stamp=stamp)

    def clip(
        self, path: str | Path, spec: ClipSpec, anchor: Mapping[str, Any] | None, sink: int, deadline_s: float
    ) -> Clip:
        """Cut a part into the empty file that descriptor `sink` leads to; see `cluster.media.clip.cut_clip`."""
        from cluster.media.clip import Clip

        told = anchor and {**anchor, "phash": anchor["phash"].hex()}
        request = {"op": "clip", "path": os.fspath(path), "spec": asdict(spec), "anchor": told}
        answer = self._ask(request, (sink,), deadline_s)
        stamp = Stamp(**answer.pop("stamp"))
        return Clip(**answer, stamp=stamp)

    def interrupt(self) -> None:
        """From another thread: end the child, so that the call in progress raises `MediaCrashError`."""
        child = self._child
        if child is not None:
            child.process.kill()

    def close(self) -> None:
        """End the child; may be called twice, and a later call starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _pictures(self, op: str, path: str | Path, asked: Mapping[str, Any], deadline_s: float) -> Pictures:
        from cluster.media.pictures import Pictures, read_row

        with self._memory(op, path, asked, deadline_s) as (memory, answer):
            table = read_row(memory, answer["thumbnails_at"], answer["numbers_at"], answer["end"])
        return Pictures(table, answer["skipped_packets"], Stamp(**answer["stamp"]))

    @contextmanager
    def _memory(
        self, op: str, path: str | Path, asked: Mapping[str, Any], deadline_s: float
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Ask for what is too long for a message; the descriptor that holds it, and the answer."""
        from cluster.media.pictures import write_json

        request, memory = write_json(asked), os.memfd_create("rushes-pictures")
        try:
            yield memory, self._ask({"op": op, "path": os.fspath(path)}, (memory, request), deadline_s)
        finally:
            os.close(memory)
            os.close(request)

    def _ask(self, request: dict[str, Any], fds: Sequence[int], deadline_s: float) -> dict[str, Any]:
        try:
            try:
                answer = self._running().exchange(request, fds, deadline_s)
            except ConnectionError:
                # it died before it read the request, or while it started: no file is to blame
                self.close()
                answer = self._running().exchange(request, fds, deadline_s)
        except BaseException:
            # an answer that comes late would be taken for the answer to the next request
            self.close()
            raise
        if answer.get("error") in ("resource", "bug"):
            self.close()
        return _result(answer, request["path"])

    def _running(self) -> _Child:
        if self._child is None:
            self._child = _Child(self.memory_bytes)
        return self._child


class _Child:
    """One process and the socket to it."""

    def __init__(self, memory_bytes: int) -> None:
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stderr = os.memfd_create("rushes-media-child-stderr")
        words = [theirs.fileno(), os.getpid(), memory_bytes]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.stderr,
                pass_fds=[theirs.fileno()],
                # a second arena or thread would reserve tens of MiB of the address space that the limit counts
                env=child_environment(MALLOC_ARENA_MAX="1", OPENBLAS_NUM_THREADS="1"),
                process_group=0,
            )
        except BaseException:
            self.link.close()
            os.close(self.stderr)
            raise
        finally:
            theirs.close()
        self.end = weakref.finalize(self, _end, self.process, self.link, self.stderr)
        self._wait_until_ready()

    def exchange(self, request: dict[str, Any], fds: Sequence[int], deadline_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer; `ConnectionError` when the child never read it."""
        self.link.settimeout(deadline_s)
        try:
            socket.send_fds(self.link, [json.dumps(request).encode()], fds)
            answer = self.link.recv(MESSAGE_BYTES)
        except TimeoutError as error:
            raise MediaTimeoutError(
                f"{request['op']} took longer than its deadline of {deadline_s:g} s; the reader was ended"
            ) from error
        if not answer:
            raise MediaCrashError(f"the reader died during {request['op']}: {self._epitaph()}")
        return json.loads(answer)

    def _wait_until_ready(self) -> None:
        self.link.settimeout(START_DEADLINE_S)
        try:
            ready = self.link.recv(MESSAGE_BYTES)
            if not ready:
                raise ConnectionError(f"the media reader did not start: {self._epitaph()}")
        except BaseException:
            self.end()
            raise

    def _epitaph(self) -> str:
        code = self.process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        size = os.fstat(self.stderr).st_size
        words = os.pread(self.stderr, 400, max(0, size - 400)).decode(errors="replace").strip()
        return f"{cause} ({words})" if words else cause


def _end(process: subprocess.Popen[bytes], link: socket.socket, stderr: int) -> None:
    link.close()
    process.kill()
    process.wait()
    os.close(stderr)


def _map_samples(pcm: int, samples: int) -> NDArray[np.int16]:
    import numpy as np

    return np.frombuffer(mmap.mmap(pcm, samples * 2, access=mmap.ACCESS_READ), dtype="<i2")


def _result(answer: dict[str, Any], path: str) -> dict[str, Any]:
    message = answer.get("message", "")
    match answer.get("error"):
        case None:
            return answer["result"]
        case "bad_media":
            raise BadMediaError(message)
        case "resource":
            raise MediaResourceError(message)
        case "changing":
            raise ChangingError(message)
        case "os":
            raise OSError(answer["errno"] or errno.EIO, message, path)
        case _:
            raise StageError(f"the media reader failed on {path}: {message}")
