"""What kind of content an asset has, as HTTP and a browser name it."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

UNKNOWN = "application/octet-stream"
# Container (as FFmpeg and Pillow name it) -> type with pictures, type of sound alone.
_MOVING = {
    "mov,mp4,m4a,3gp,3g2,mj2": ("video/mp4", "audio/mp4"),
    "matroska,webm": ("video/x-matroska", "audio/x-matroska"),
    "ogg": ("video/ogg", "audio/ogg"),
    "mpegts": ("video/mp2t", "video/mp2t"),
    "mpeg": ("video/mpeg", "video/mpeg"),
    "avi": ("video/x-msvideo", "video/x-msvideo"),
    "mp3": ("audio/mpeg", "audio/mpeg"),
    "wav": ("audio/wav", "audio/wav"),
    "flac": ("audio/flac", "audio/flac"),
    "aac": ("audio/aac", "audio/aac"),
}
_STILL = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}
ORIGINALS = tuple(
    sorted({UNKNOWN, "video/webm", "audio/webm", *_STILL.values(), *(t for two in _MOVING.values() for t in two)})
)
CLIPS = {"mp4": "video/mp4", "m4a": "audio/mp4", "wav": "audio/wav"}
TRANSCRIPTS = {
    "json": "application/json",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "txt": "text/plain",
    "rttm": "text/plain",
    "csv": "text/csv",
}


def original_type(kind: str | None, container: str | None, name: str) -> str:
    """The type of a registered content; nothing that a browser would run."""
    if kind == "image":
        return _STILL.get(container or "", UNKNOWN)
    pictured, heard = _MOVING.get(container or "", (UNKNOWN, UNKNOWN))
    found = heard if kind == "audio" else pictured
    # one demuxer reads both, and Firefox plays the one alone
    return found.replace("x-matroska", "webm") if name.lower().endswith(".webm") else found


def disposition(name: str) -> str:
    """`Content-Disposition` that shows the content and names it when it is saved."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^\w. -]+", "_", plain).strip() or "media"
    return f"inline; filename=\"{safe}\"; filename*=UTF-8''{quote(name, safe='')}"
