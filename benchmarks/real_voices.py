"""Recordings of many people, from Debian packages: fetched once into a folder, never part of the project.

    python -m benchmarks.real_voices FOLDER

needs a Debian machine (`apt-get download`, nothing is installed). The voices: announcers of Asterisk prompts
(CC BY-SA 3.0, CC BY 3.0, GPL-2 and BSD-like), the two actors of Fish Fillets in two languages (GPL-2), and the
speakers of the letters of KLettres and of the words of KTuberling, one a language (GPL-2 or later), joined to four
seconds. Left out: labels under which several people speak, or that may be one person under two labels; for the last
two packages (tier C) GE2E helped to find these, so its error rates there are too good. Every clip is 16 kHz mono,
silence at both ends cut.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.debian import fetch_packages

RATE_HZ = 16_000
LEAST_S = 2.5
MOST_CLIPS = 40
JOINED_S = 4.0
PACKAGES = (
    "asterisk-core-sounds-en-g722", "asterisk-core-sounds-fr-g722", "asterisk-core-sounds-it-g722",
    "asterisk-core-sounds-ru-g722", "asterisk-prompt-es-co", "asterisk-prompt-fr-armelle",
    "asterisk-prompt-it-menardi-wav", "fillets-ng-data-cs", "fillets-ng-data-nl", "klettres-data", "ktuberling-data",
)  # fmt: skip
# Who -> package, folder of its recordings, format where the file does not tell.
ANNOUNCERS = {
    "allison": ("asterisk-core-sounds-en-g722", "usr/share/asterisk/sounds/en_US_f_Allison", "g722"),
    "june": ("asterisk-core-sounds-fr-g722", "usr/share/asterisk/sounds/fr_CA_f_June", "g722"),
    "carlo": ("asterisk-core-sounds-it-g722", "usr/share/asterisk/sounds/it_IT_m_Carlo", "g722"),
    "ivrvoice": ("asterisk-core-sounds-ru-g722", "usr/share/asterisk/sounds/ru_RU_f_IvrvoiceRU", "g722"),
    "jimenez": ("asterisk-prompt-es-co", "usr/share/asterisk/sounds/es", "gsm"),
    "armelle": ("asterisk-prompt-fr-armelle", "usr/share/asterisk/sounds/fr", "gsm"),
    "dalzot": ("asterisk-prompt-it-menardi-wav", "usr/share/asterisk/sounds/it_IT_f_Menardi", None),
}
ACTORS = {"m": "small", "v": "big"}
NOT_ONE_VOICE = {
    "klettres": {"de", "da", "tn", "cs", "ar"},
    "ktuberling": {"ca", "da", "fr", "ru", "uk", "lt", "en", "es", "it", "nl", "nds", "pt", "sr"},
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording: whose it is, the session where known, int16 samples (samples,) at 16 kHz."""

    corpus: str
    speaker: str
    session: str
    samples: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / RATE_HZ


def fetch(folder: Path) -> None:
    """Download and unpack the packages that are not there yet."""
    fetch_packages(folder, PACKAGES)


def corpora(folder: Path | None, plain: Path | None = None) -> list[Clip]:
    """The clips of a fetched folder, and those of `plain`: files named SPEAKER-SESSION-NUMBER, as LibriSpeech's."""
    found: list[Clip] = []
    if plain is not None:
        found += [
            Clip("read", path.name.split("-")[0], path.name.split("-")[1], _read(path))
            for path in sorted(plain.glob("*-*-*.*"))
        ]
    if folder is not None:
        found += [*_announcers(folder), *_actors(folder), *_joined_corpora(folder)]
    return found


def _announcers(folder: Path) -> Iterator[Clip]:
    for who, (package, place, form) in ANNOUNCERS.items():
        paths = [path for path in (folder / package / place).iterdir() if path.is_file() and path.stem != "tt-monkeys"]
        yield from (Clip("asterisk", who, "-", sound) for _, sound in _long_enough(paths, form))


def _actors(folder: Path) -> Iterator[Clip]:
    for language in ("cs", "nl"):
        base = folder / f"fillets-ng-data-{language}" / "usr/share/games/fillets-ng/sound"
        for letter, who in ACTORS.items():
            # Levels whose files lack a prefix were added later, by another cast.
            paths = [path for path in base.rglob("*.ogg") if re.search(rf"[a-z0-9]-{letter}-", path.stem)]
            for path, sound in _long_enough(_spread(paths, 400), None):
                yield Clip("fillets", f"{language}-{who}", path.parent.parent.name, sound)


def _joined_corpora(folder: Path) -> Iterator[Clip]:
    for language in _folders(folder / "klettres-data/usr/share/klettres", "klettres"):
        for kind in ("alpha", "syllab"):
            yield from _joined("klettres", language, kind, (language / kind).glob("*.ogg"))
    for language in _folders(folder / "ktuberling-data/usr/share/ktuberling/sounds", "ktuberling"):
        yield from _joined("ktuberling", language, "-", (path for path in language.rglob("*.*") if path.is_file()))


def _folders(place: Path, corpus: str) -> list[Path]:
    left_out = NOT_ONE_VOICE[corpus]
    return [
        path for path in sorted(place.iterdir()) if path.is_dir() and path.name not in left_out and "@" not in path.name
    ]


def _joined(corpus: str, language: Path, session: str, paths: Iterable[Path]) -> Iterator[Clip]:
    held: list[NDArray[np.int16]] = []
    made: list[NDArray[np.int16]] = []
    for path in sorted(paths):
        sound = _trimmed(_read(path)) if path.suffix in (".ogg", ".wav") else np.zeros(0, np.int16)
        if not 0.15 * RATE_HZ <= len(sound) <= 6 * RATE_HZ:
            continue
        held += [sound, np.zeros(RATE_HZ // 20, np.int16)]
        if sum(map(len, held)) >= JOINED_S * RATE_HZ:
            made.append(np.concatenate(held))
            held = []
    yield from (Clip(corpus, language.name, session, sound) for sound in _spread(made, 12))


def _long_enough(paths: Iterable[Path], form: str | None) -> list[tuple[Path, NDArray[np.int16]]]:
    found = [(path, sound) for path in sorted(paths) if len(sound := _trimmed(_read(path, form))) >= LEAST_S * RATE_HZ]
    return _spread(found, MOST_CLIPS)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly from the whole list."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def _read(path: Path, form: str | None = None) -> NDArray[np.int16]:
    if path.suffix == ".ogg":
        # FFmpeg refuses some of these Vorbis streams.
        import soundfile

        sound, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
        return _resampled(sound.mean(axis=1).astype(np.int16), rate_hz)
    import av

    with av.open(str(path), format=form, metadata_errors="ignore") as container:
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate([np.zeros(0, np.int16), *parts])


def _resampled(sound: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    import av

    if not len(sound):
        return sound
    resampler = av.AudioResampler("s16", "mono", RATE_HZ)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound)[None], format="s16", layout="mono")
    frame.sample_rate = rate_hz
    parts = [part.to_ndarray()[0] for given in (frame, None) for part in resampler.resample(given)]
    return np.concatenate([np.zeros(0, np.int16), *parts])


def _trimmed(sound: NDArray[np.int16]) -> NDArray[np.int16]:
    """Without the 20 ms frames at both ends that are 30 dB under the loudest."""
    frames = len(sound) // 320
    if frames < 3:
        return sound
    energy = (sound[: frames * 320].astype(np.float64).reshape(frames, 320) ** 2).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 1e-3)
    return sound[max(0, loud[0] - 2) * 320 : (loud[-1] + 3) * 320] if len(loud) else sound


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
    clips = corpora(Path(sys.argv[1]))
    for corpus in sorted({clip.corpus for clip in clips}):
        mine = [clip for clip in clips if clip.corpus == corpus]
        people = len({clip.speaker for clip in mine})
        print(f"{corpus}: {people} people, {len(mine)} clips, {sum(clip.seconds for clip in mine) / 60:.1f} min")
