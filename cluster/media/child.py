"""Media files are read in a child process: bounded in time and memory, replaced when it hangs or dies."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.environment import child_environment
from cluster.errors import BadMediaError, MediaCrashError, MediaResourceError, MediaTimeoutError, StageError
from cluster.media.hashing import ChangingError, Stamp
from cluster.media.probe import Probe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    Not thread-safe.
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

    def close(self) -> None:
        """End the child; may be called twice, and a later call starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

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
                # a second arena would reserve 64 MiB of the address space that the limit counts
                env=child_environment(MALLOC_ARENA_MAX="1"),
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
