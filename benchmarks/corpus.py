"""Any length of speech out of the real recordings at hand, for measuring speed.

A seeded permutation of pyannote.audio's call and, when it stands beside the checkout, shared/media,
joined with pauses. What is said in it is real, its order is not: it says nothing about accuracy.
"""

from __future__ import annotations

import random
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.media.child import MediaChild
from cluster.types import SAMPLE_RATE_HZ
from jobs.demo import call_path

PAUSE_S = 0.5
FILE_S = 60.0
SEED = 7


def recordings() -> list[NDArray[np.int16]]:
    """Every real recording at hand, 16 kHz mono int16."""
    shared = Path(__file__).parents[2] / "shared" / "media"
    paths = [call_path(), *sorted(shared.glob("reading/*.wav")), *sorted(shared.glob("speakers/*.flac"))]
    child = MediaChild(2**31)
    try:
        return [np.array(child.decode(path, 0, 60.0).samples) for path in paths]
    finally:
        child.close()


def permutation(seconds: float, order: random.Random, pool: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Recordings drawn from `pool`, with pauses between, at least `seconds` long."""
    pause = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), np.int16)
    parts: list[NDArray[np.int16]] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE_HZ:
        parts += [order.choice(pool), pause]
    return np.concatenate(parts)


def build(folder: Path, minutes: float) -> float:
    """Write the corpus; returns its length in seconds. A longer one begins with the files of a shorter one."""
    folder.mkdir(exist_ok=True)
    order, pool, total_s, number = random.Random(SEED), recordings(), 0.0, 0
    while total_s < minutes * 60:
        audio = permutation(FILE_S, order, pool)
        with wave.open(str(folder / f"{number:04}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(audio.tobytes())
        total_s, number = total_s + len(audio) / SAMPLE_RATE_HZ, number + 1
    return total_s
