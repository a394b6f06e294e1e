"""The media child: answers one request at a time on a socket, and dies with its parent.

Started by `cluster.media.child` as `python -m cluster.media.child_main SOCKET_FD PARENT_PID MEMORY_BYTES`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.errors import BadMediaError, MediaResourceError
from cluster.faults import FaultPoint, reach
from cluster.media.hashing import ChangingError

MESSAGE_BYTES = 1 << 16
WATCH_MS = 1000
# A damaged file speaks through FFmpeg's messages; PostgreSQL takes no NUL, a terminal no escape sequence.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_NO_ROOM = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def main(argv: Sequence[str]) -> None:
    """Serve requests until the parent closes its end or is gone."""
    link_fd, parent, memory_bytes = (int(word) for word in argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_ffmpeg()
    with socket.socket(fileno=link_fd) as link:
        threading.Thread(target=_watch, args=(link_fd, parent), daemon=True).start()
        _limit(memory_bytes)
        link.send(json.dumps({"ready": True}).encode())
        while True:
            message, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES, 2)
            if not message:
                return
            try:
                answer = _answer(json.loads(message), fds, memory_bytes)
            finally:
                for fd in fds:
                    os.close(fd)
            link.send(json.dumps(answer).encode())


def _answer(request: dict[str, Any], fds: Sequence[int], memory_bytes: int) -> dict[str, Any]:
    """The result of one request, or its error by kind; whatever happens becomes an answer."""
    from cluster.media.decode import decode_audio
    from cluster.media.probe import probe

    try:
        if request["op"] == "probe":
            return {"result": asdict(probe(request["path"]))}
        reach(FaultPoint.READING, request["path"])
        if request["op"] == "decode":
            return {"result": asdict(decode_audio(request["path"], request["stream"], fds[0], memory_bytes))}
        if request["op"] == "clip":
            return {"result": _cut_clip(request, fds[0])}
        return {"result": _take_pictures(request, fds, memory_bytes)}
    except BadMediaError as error:
        return _error("bad_media", error)
    except MediaResourceError as error:
        return _error("resource", error)
    except MemoryError as error:
        limit = f"reading it takes more than {memory_bytes / 2**20:.0f} MiB: raise decode_memory_bytes"
        return _error("resource", str(error) or limit)
    except ChangingError as error:
        return _error("changing", error)
    except OSError as error:
        kind = "resource" if error.errno in _NO_ROOM else "os"
        return {**_error(kind, error.strerror or error), "errno": error.errno}
    except Exception as error:  # noqa: BLE001 - the child must answer, or the parent waits for its deadline
        return _error("bug", f"{type(error).__name__}: {error}")


def _take_pictures(request: dict[str, Any], fds: Sequence[int], memory_bytes: int) -> dict[str, Any]:
    """Pictures into the first descriptor, asked for by what the second one holds."""
    from cluster.media import instant, moving, stills
    from cluster.media.pictures import PictureSpec, read_json

    op, path, asked = request["op"], request["path"], read_json(fds[1])
    with open(fds[0], "wb", buffering=1 << 20, closefd=False) as file:
        if op == "tiny":
            found = moving.take_tiny(path, file, memory_bytes)
        elif op == "instant":
            found = instant.take_instant(path, asked, file)
        else:
            spec = PictureSpec.from_dict(asked["spec"])
            if asked["kind"] == "image":
                found = stills.take_still(path, spec, file, memory_bytes, picked=op == "pick")
            elif op == "pick":
                found = moving.pick_moving(path, spec, asked["frames"], file, memory_bytes)
            else:
                found = moving.take_moving(path, spec, asked["cuts"], file, memory_bytes)
    return {**found, "stamp": asdict(found["stamp"])}


def _cut_clip(request: dict[str, Any], sink: int) -> dict[str, Any]:
    from cluster.media.clip import ClipSpec, cut_clip

    return asdict(cut_clip(request["path"], ClipSpec(**request["spec"]), request["anchor"], sink))


def _error(kind: str, error: object) -> dict[str, Any]:
    text = _CONTROL.sub(" ", str(error)).encode("utf-8", "backslashreplace").decode()
    return {"error": kind, "message": text[:2000] or type(error).__name__}


def quiet_ffmpeg() -> None:
    """Keep FFmpeg's last error line for our messages, and its chatter off the terminal."""
    import av.logging

    logger = logging.getLogger("libav")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    av.logging.set_level(av.logging.ERROR)


def _limit(memory_bytes: int) -> None:
    """Cap the address space at what is mapped now plus `memory_bytes`; write no core files."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = mapped + memory_bytes
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(link_fd: int, parent: int) -> None:
    """End this process, even in the middle of a file, once nobody waits for its answer."""
    poller = select.poll()
    poller.register(link_fd, 0)
    while not poller.poll(WATCH_MS) and os.getppid() == parent:
        continue
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):
        main(sys.argv[1:])
