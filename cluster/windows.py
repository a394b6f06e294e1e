"""Pack the speech of one asset into windows of a fixed length, with the way back to asset time.

Whisper pads every input to 30 s, so one region per window wastes most of the work. Consecutive
regions share a window with the pause between them as it was recorded; only a pause longer than
`pause_ms` is shortened, because cutting natural pauses costs words. A window ends at the widest
pause in reach. Two assets never share a window. The idea of merging speech regions up to the
model's length is WhisperX's "cut and merge" (Bain et al. 2023, arXiv 2303.00747).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

MODEL_WINDOW_MS = 30_000
EDGE_MS = 200
PAUSE_MS = 1_000
SAMPLES_PER_MS = 16
_EARLIEST_CUT = 0.8
_SMOOTHING_MS = 100
_INSIDE_A_WORD_MS = 200

Region = tuple[int, int]
Word = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """`[start_ms, end_ms)` of the asset, lying at `at_ms` of its window."""

    start_ms: int
    end_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Window:
    """Pieces of one asset, end to end; `speech` holds the spoken regions in ms of the window."""

    pieces: tuple[Piece, ...]
    speech: tuple[Region, ...]

    @property
    def length_ms(self) -> int:
        """The length of the window."""
        last = self.pieces[-1]
        return last.at_ms + last.end_ms - last.start_ms

    @property
    def speech_ms(self) -> int:
        """How much of the window is speech."""
        return sum(end - start for start, end in self.speech)

    def to_asset(self, at_ms: float) -> int:
        """The asset time of a time in the window; monotone, and clamped to the window's pieces."""
        return self._inside(self._piece(at_ms), at_ms)

    def span_to_asset(self, start_ms: float, end_ms: float) -> tuple[int, int]:
        """The asset times of a span, both inside the piece that holds its middle."""
        piece = self._piece((start_ms + end_ms) / 2)
        return self._inside(piece, start_ms), self._inside(piece, end_ms)

    def cut(self, waveform: Any) -> Any:
        """This window's audio: int16 (samples,) at 16 kHz in, float32 (length_ms * 16,) in [-1, 1) out."""
        parts = [waveform[p.start_ms * SAMPLES_PER_MS : p.end_ms * SAMPLES_PER_MS] for p in self.pieces]
        return np.concatenate(parts).astype(np.float32) / 32768.0

    def _piece(self, at_ms: float) -> Piece:
        index = bisect_right(self.pieces, at_ms, key=lambda piece: piece.at_ms) - 1
        return self.pieces[max(index, 0)]

    @staticmethod
    def _inside(piece: Piece, at_ms: float) -> int:
        return min(max(round(piece.start_ms + at_ms - piece.at_ms), piece.start_ms), piece.end_ms)


def pack(
    speech: Iterable[Mapping[str, int]],
    audio_ms: int,
    max_window_s: float = 29.0,
    *,
    edge_ms: int = EDGE_MS,
    pause_ms: int = PAUSE_MS,
    waveform: Any = None,
) -> list[Window]:
    """Windows of at most `max_window_s` that hold all of `speech`, each moment of it once.

    `speech` holds `start_ms` and `end_ms` (sorted or not; overlaps are merged, what lies outside the
    audio is cut off). A region too long for a window is split at its quietest point when `waveform`
    (int16, (samples,), 16 kHz) is given, else evenly. Raises `ValueError` when the window is not
    longer than its two edges.
    """
    limit_ms = round(max_window_s * 1000)
    room_ms = limit_ms - 2 * edge_ms
    if room_ms < 1:
        raise ValueError(f"a window of {limit_ms} ms has no room between edges of {edge_ms} ms")
    regions = [part for region in _merged(speech, audio_ms) for part in _split(region, room_ms, waveform)]
    packer = _Packer(regions, audio_ms, limit_ms, edge_ms, pause_ms)
    return packer.windows()


def window_fill(windows: Sequence[Window]) -> float:
    """Speech as a share of the time the model computes (30 s a window); 0 without windows."""
    if not windows:
        return 0.0
    return sum(window.speech_ms for window in windows) / (len(windows) * MODEL_WINDOW_MS)


def place(
    found: Iterable[tuple[Window, Iterable[Word]]], speech: Iterable[Mapping[str, int]], audio_ms: int
) -> list[Word]:
    """Words of the windows in asset time: integers, in order, none overlapping, inside the audio.

    A word has `start_ms` and `end_ms` in its window and keeps its other keys. Whisper's attention
    times stretch words over pauses; what reaches beyond the speech region a word overlaps most is
    cut off. Silences under 200 ms are taken to lie inside words.
    """
    regions = _merged(speech, audio_ms, _INSIDE_A_WORD_MS)
    words: list[Word] = []
    floor = 0
    for window, said in found:
        for word in said:
            start, end = _spoken(regions, *window.span_to_asset(word["start_ms"], word["end_ms"]))
            start = max(start, floor)
            floor = max(end, start + 1)
            words.append({**word, "start_ms": start, "end_ms": floor})
    ceiling = audio_ms
    for word in reversed(words):
        word["end_ms"] = min(word["end_ms"], ceiling)
        word["start_ms"] = ceiling = min(word["start_ms"], word["end_ms"] - 1)
    return [word for word in words if word["start_ms"] >= 0]


def _spoken(regions: Sequence[Region], start: int, end: int) -> Region:
    """The longest part of a span inside one region; the span itself when it touches none."""
    first = max(bisect_right(regions, start, key=lambda region: region[0]) - 1, 0)
    best = (start, start)
    for region in regions[first:]:
        if region[0] >= end:
            break
        part = max(start, region[0]), min(end, region[1])
        if part[1] - part[0] > best[1] - best[0]:
            best = part
    return best if best[0] < best[1] else (start, end)


def _merged(speech: Iterable[Mapping[str, int]], audio_ms: int, gap_ms: int = 0) -> list[Region]:
    merged: list[Region] = []
    for start, end in sorted((max(s["start_ms"], 0), min(s["end_ms"], audio_ms)) for s in speech):
        if merged and start < merged[-1][1] + gap_ms:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def _split(region: Region, room_ms: int, waveform: Any) -> Iterable[Region]:
    start, end = region
    while end - start > room_ms:
        even = ceil((end - start) / ceil((end - start) / room_ms))
        cut = start + even
        if waveform is not None:
            earliest = start + max(int(even * _EARLIEST_CUT), 1)
            cut = _quietest_ms(waveform, earliest, min(start + room_ms, end - 1))
        yield start, cut
        start = cut
    yield start, end


def _quietest_ms(waveform: Any, first_ms: int, last_ms: int) -> int:
    """The millisecond in `[first_ms, last_ms]` around which the smoothed energy is lowest."""
    half = _SMOOTHING_MS // 2
    low = max(first_ms - half, 0)
    samples = waveform[low * SAMPLES_PER_MS : (last_ms + half) * SAMPLES_PER_MS].astype(np.float64)
    frames = samples[: len(samples) // SAMPLES_PER_MS * SAMPLES_PER_MS].reshape(-1, SAMPLES_PER_MS)
    energy = np.convolve((frames**2).sum(axis=1), np.ones(_SMOOTHING_MS), mode="same")
    inside = energy[first_ms - low : last_ms - low + 1]
    return first_ms + int(inside.argmin()) if len(inside) else last_ms


class _Packer:
    """Chooses where windows end; `at[i]` is where region i would lie if one window held them all."""

    def __init__(self, regions: list[Region], audio_ms: int, limit_ms: int, edge_ms: int, pause_ms: int) -> None:
        self.regions = regions
        self.limit_ms = limit_ms
        self.pause_ms = pause_ms
        starts = [start for start, _ in regions]
        ends = [end for _, end in regions]
        self.gaps = [b - a for a, b in zip(ends, starts[1:], strict=False)]
        outer = [starts[0], *(gap // 2 for gap in self.gaps)] if regions else []
        inner = [*(gap // 2 for gap in self.gaps), audio_ms - ends[-1]] if regions else []
        self.before = [min(edge_ms, room) for room in outer]
        self.after = [min(edge_ms, room) for room in inner]
        self.at = [0]
        for (start, end), gap in zip(regions, self.gaps, strict=False):
            self.at.append(self.at[-1] + end - start + min(gap, pause_ms))

    def windows(self) -> list[Window]:
        windows, first = [], 0
        while first < len(self.regions):
            last = self._last(first)
            windows.append(self._window(first, last))
            first = last + 1
        return windows

    def _length(self, first: int, last: int) -> int:
        start, end = self.regions[last]
        return self.before[first] + self.at[last] - self.at[first] + end - start + self.after[last]

    def _last(self, first: int) -> int:
        """The last region of the window that begins with `first`: at the widest pause in reach."""
        end = len(self.regions) - 1
        if (rest := self._length(first, end)) <= self.limit_ms:
            return end
        earliest = _EARLIEST_CUT * rest / ceil(rest / self.limit_ms)
        best, widest = first, -1
        for last in range(first, end):
            if (length := self._length(first, last)) > self.limit_ms:
                break
            if length < earliest:
                best = last
            elif self.gaps[last] >= widest:
                best, widest = last, self.gaps[last]
        return best

    def _window(self, first: int, last: int) -> Window:
        pieces: list[Piece] = []
        speech: list[Region] = []
        start, at = self.regions[first][0] - self.before[first], 0
        for index in range(first, last + 1):
            region = self.regions[index]
            speech.append((at + region[0] - start, at + region[1] - start))
            if index < last and self.gaps[index] > self.pause_ms:
                end = region[1] + self.pause_ms // 2
                pieces.append(Piece(start, end, at))
                at += end - start
                start = self.regions[index + 1][0] - (self.pause_ms - self.pause_ms // 2)
        pieces.append(Piece(start, self.regions[last][1] + self.after[last], at))
        return Window(tuple(pieces), tuple(speech))
