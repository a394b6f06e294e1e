"""Which FFmpeg libraries PyAV brings, and what they can decode."""

from __future__ import annotations

AUDIO_CODECS = ("aac", "mp3", "flac", "opus", "vorbis", "pcm_s16le", "alac", "ac3", "wmav2")
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")


def library_versions() -> dict[str, str]:
    """PyAV and FFmpeg's libraries with their versions; `ImportError` when they do not load."""
    import av

    found = {name: ".".join(str(part) for part in version) for name, version in av.library_versions.items()}
    return {"PyAV": av.__version__, **found}


def missing_decoders(names: tuple[str, ...]) -> list[str]:
    """Those of `names` that cannot be decoded."""
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    missing = []
    for name in names:
        try:
            Codec(name, "r")
        except UnknownCodecError:
            missing.append(name)
    return missing
