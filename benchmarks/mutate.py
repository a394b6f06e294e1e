"""Seeded damage to media files: every mutator is a pure function of a random generator and two contents."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random

BLOCK_BYTES = 4096
MANY_FLIPS = 400
# Length fields stand before an ISO box name, after a RIFF chunk name and after a Matroska element id.
_BOX = re.compile(
    rb"(?:ftyp|moov|mvhd|trak|tkhd|mdia|mdhd|hdlr|minf|stbl|stsd|stts|stsc|stsz|stco|ctts|mdat|moof|traf|trun)"
)
_RIFF = re.compile(rb"(?:RIFF|LIST|fmt |data|hdrl|strh|strf|movi|idx1|avih)")
_EBML = re.compile(rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|\xa3|\xae")
_LENGTHS = (0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutator = Callable[[Random, bytes, bytes], bytes]


def flip_few(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to eight bits turned over."""
    return _flip(rng, data, rng.randint(1, 8))


def flip_many(rng: Random, data: bytes, other: bytes) -> bytes:
    """Hundreds of bits turned over."""
    return _flip(rng, data, rng.randint(50, MANY_FLIPS))


def overwrite(rng: Random, data: bytes, other: bytes) -> bytes:
    """A range filled with zeros, ones or noise."""
    start, end = _span(rng, data)
    fill = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))
    return data[:start] + fill + data[end:]


def truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning alone; may be empty."""
    return data[: rng.randrange(len(data))]


def delete(rng: Random, data: bytes, other: bytes) -> bytes:
    """A block taken out."""
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def duplicate(rng: Random, data: bytes, other: bytes) -> bytes:
    """A block said two to nine times."""
    start, end = _span(rng, data)
    return data[:start] + data[start:end] * rng.randint(2, 9) + data[end:]


def swap(rng: Random, data: bytes, other: bytes) -> bytes:
    """Two neighbouring blocks in each other's place."""
    first, second, third = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def lie_about_length(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to three length fields of boxes, chunks or elements set to nothing, a little or far too much."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        _attack_length(rng, changed)
    return bytes(changed)


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.randrange(1, len(data))] + other[rng.randrange(len(other)) :]


def surround(rng: Random, data: bytes, other: bytes) -> bytes:
    """Junk in front, behind, or both."""
    junk = rng.choice((rng.randbytes(rng.randint(1, BLOCK_BYTES)), bytes(BLOCK_BYTES), b"\r\n<html>not found</html>\n"))
    return rng.choice((junk + data, data + junk, junk + data + junk))


MUTATORS: Mapping[str, Mutator] = {
    mutator.__name__: mutator
    for mutator in (
        flip_few, flip_many, overwrite, truncate, delete, duplicate, swap, lie_about_length, splice, surround,
    )
}  # fmt: skip


def _flip(rng: Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(rng: Random, data: bytes) -> int:
    """Anywhere, but every other time in the first kilobyte, where headers are."""
    return rng.randrange(min(len(data), 1024) if rng.random() < 0.5 else len(data))


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.randint(1, BLOCK_BYTES))


def _attack_length(rng: Random, data: bytearray) -> None:
    boxes = [(found.start() - 4, "big") for found in _BOX.finditer(data) if found.start() >= 4]
    chunks = [(found.end(), "little") for found in _RIFF.finditer(data)]
    elements = [(found.end(), "vint") for found in _EBML.finditer(data[:BLOCK_BYTES])]
    fields = [*boxes, *chunks, *elements] or [(_place(rng, bytes(data)), "big")]
    place, kind = rng.choice(fields)
    if kind == "vint":
        value = rng.choice((b"\x80", b"\x81", b"\x10\xff\xff\xff", b"\x01" + b"\xff" * 7, b"\x01" + b"\x7f" * 7))
    else:
        value = rng.choice(_LENGTHS).to_bytes(4, "big" if kind == "big" else "little")
    data[place : place + len(value)] = value
