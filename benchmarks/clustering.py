"""Clusters of unknown voices against who really speaks, by seconds of speech; cost by number of voices.

    python -m benchmarks.clustering [FOLDER]

FOLDER is one that `benchmarks.real_voices` fetched; without it there are the five readers beside the checkout, which
say little. Every trial makes assets by a seed: so many of each person, each of so many seconds of that person's speech
in segments of 3 s or less, no clip in two assets. Four ways see the same assets:

- `ours`: the product: HDBSCAN over the mean voice of each local speaker, then the two limits;
- `hdbscan`: the same without the limits;
- `linkage`: average linkage alone, cut at 0.80, which suits 6 s of speech;
- `raw_segments`: the product's clustering over the single segments.

B-cubed is counted over segments; a voice in no cluster is a cluster of its own. `noise_share` is the share of the
segments whose cluster reaches no other asset. `labels` are how many clusters or lone voices a person names, the one
with most speech first and each after its medoid, until 90 % of the speech has its right name (`never_enough`: trials
where no number is enough); `labels_without` is the same voice by voice. The limits were looked at on these people;
`tuned_on_others` says what they come to when one half of the people chooses them and the other half is tried.

Cost is measured on made-up voices with the cosines of real ones (0.88 and 0.55), each size in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.voices import Voices
from benchmarks.real_voices import RATE_HZ, Clip, corpora
from benchmarks.report import at_least, at_most, exactly, write_result
from cluster.profiles import choose
from cluster.speakers.clusters import APART, Labels, Vectors, _hdbscan, _linked, cluster_voices, similarities
from cluster.speakers.local_voices import Span, local_voices
from cluster.speakers.thresholds import SHIPPED, Thresholds

SEED = 7
TRIALS = 20
SEGMENT_S, LEAST_SEGMENT_S = 3.0, 1.0
# None: any of the others, asset by asset.
SECONDS = (1.5, 3.0, 6.0, 12.0, None)
# Least and most assets of a person.
ASSETS = ((1, 6), (2, 2), (4, 4))
NAMED = 0.9
LINKED_AT = 0.80
TUNED_ALIKE, TUNED_SAME = (0.74, 0.78, 0.80, 0.82, 0.84, 0.86), (0.86, 0.88, 0.90, 0.92)
SIZES = (1_000, 6_000, 20_000)
PER_PERSON = 8
SHARED = Path(__file__).parents[2] / "shared" / "media" / "speakers"
LIMITS = SHIPPED["ge2e"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment: whose clip it is from, how long, its unit vector."""

    clip: int
    length_ms: int
    vector: Vectors


@dataclass(frozen=True, slots=True)
class Archive:
    """Assets with one voice each: whose it is, its mean voice, and its segments with the asset of each."""

    people: NDArray[np.int64]
    voices: Vectors
    assets: NDArray[np.int64]
    segments: Vectors
    lengths_ms: NDArray[np.int64]

    @property
    def clean_ms(self) -> NDArray[np.int64]:
        """Speech of each asset."""
        return np.bincount(self.assets, self.lengths_ms).astype(np.int64)


Way = Callable[[Archive], Labels]


def ours(archive: Archive, limits: Thresholds = LIMITS) -> Labels:
    """The product: a label for each segment."""
    return cluster_voices(archive.voices, range(len(archive.voices)), archive.clean_ms, limits)[archive.assets]


def hdbscan(archive: Archive) -> Labels:
    """Without the limits; every lone voice has a label of its own."""
    return _hdbscan(archive.voices)[archive.assets]


def linkage(archive: Archive) -> Labels:
    """Average linkage over all voices."""
    everybody = np.arange(len(archive.voices))
    labels = np.empty(len(everybody), np.int64)
    for number, group in enumerate(_linked(archive.voices, everybody, everybody, LINKED_AT)):
        labels[group] = number
    return labels[archive.assets]


def raw_segments(archive: Archive) -> Labels:
    """The product's clustering over segments instead of voices."""
    labels = cluster_voices(archive.segments, range(len(archive.segments)), archive.lengths_ms, LIMITS)
    return np.where(labels == APART, len(labels) + np.arange(len(labels)), labels)


WAYS: Mapping[str, Way] = {"ours": ours, "hdbscan": hdbscan, "linkage": linkage, "raw_segments": raw_segments}


def cut(clips: Sequence[Clip], embed: Callable[[list[Any]], Vectors]) -> dict[str, list[list[Piece]]]:
    """Person -> clips -> segments of the grid, and for the shortest assets a half segment before them."""
    people: defaultdict[str, list[list[Piece]]] = defaultdict(list)
    step, least = int(SEGMENT_S * RATE_HZ), int(LEAST_SEGMENT_S * RATE_HZ)
    for number, clip in enumerate(clips):
        sounds = [
            clip.samples[: step // 2],
            *(clip.samples[at : at + step] for at in range(0, len(clip.samples), step)),
        ]
        sounds = [sound for sound in sounds if len(sound) >= least]
        pieces = [
            Piece(number, len(sound) * 1000 // RATE_HZ, vector)
            for sound, vector in zip(sounds, embed(sounds), strict=True)
        ]
        people[f"{clip.corpus}/{clip.speaker}"].append(pieces)
    return dict(people)


def draw(
    people: Mapping[str, list[list[Piece]]], seconds: float | None, assets: tuple[int, int], rng: np.random.Generator
) -> Archive:
    """An archive of these people; a person whose clips do not last has fewer assets, one without any has none."""
    owners, voices, of, segments = [], [], [], []
    for person, clips in enumerate(people.values()):
        left = [clips[i] for i in rng.permutation(len(clips))]
        for _ in range(int(rng.integers(assets[0], assets[1] + 1))):
            chosen = _take(left, seconds or float(rng.choice([one for one in SECONDS if one is not None])))
            if not chosen:
                break
            ends = np.cumsum([piece.length_ms for piece in chosen]).tolist()
            spans = [Span(end - piece.length_ms, end, 0) for end, piece in zip(ends, chosen, strict=True)]
            [voice] = local_voices(spans, {i: piece.vector for i, piece in enumerate(chosen)})
            of += [len(owners)] * len(chosen)
            segments += chosen
            owners.append(person)
            voices.append(voice.vector)
    return Archive(
        np.asarray(owners),
        np.stack(voices),
        np.asarray(of),
        np.stack([piece.vector for piece in segments]),
        np.asarray([piece.length_ms for piece in segments]),
    )


def _take(left: list[list[Piece]], seconds: float) -> list[Piece]:
    """Segments of as many clips as it takes, which are gone from `left` then; none where they do not suffice."""
    chosen: list[Piece] = []
    while left and sum(piece.length_ms for piece in chosen) < 0.9 * seconds * 1000:
        half, *whole = left.pop()
        if seconds < SEGMENT_S:
            return [half]
        room = seconds * 1000 - sum(piece.length_ms for piece in chosen)
        for piece in whole:
            if piece.length_ms <= room + 100:
                chosen.append(piece)
                room -= piece.length_ms
    return chosen if sum(piece.length_ms for piece in chosen) >= 0.8 * seconds * 1000 else []


def score(archive: Archive, labels: Labels) -> dict[str, float]:
    """How well these labels of segments tell people apart."""
    truth, own = archive.people[archive.assets], np.where(labels == APART, -1 - archive.assets, labels)
    _, own = np.unique(own, return_inverse=True)
    both = np.zeros((own.max() + 1, truth.max() + 1))
    np.add.at(both, (own, truth), 1)
    shared = both[own, truth]
    precision, recall = (shared / both.sum(axis=1)[own]).mean(), (shared / both.sum(axis=0)[truth]).mean()
    sizes = np.bincount(own)
    lone = np.asarray([len(np.unique(archive.assets[own == one])) < 2 for one in range(len(sizes))])
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * precision * recall / (precision + recall)),
        "noise_share": float(lone[own].mean()),
        "clusters": float((~lone).sum()),
        "labels": labels_needed(archive, own),
        "labels_without": labels_needed(archive, archive.assets),
    }


def labels_needed(archive: Archive, groups: NDArray[np.int64]) -> float:
    """How many groups a person names until 90 % of the speech has its right name; nan when that is never reached."""
    truth, named_ms = archive.people[archive.assets], 0
    speech = np.bincount(groups, archive.lengths_ms)
    for number, group in enumerate(np.argsort(-speech, kind="stable"), 1):
        inside = np.flatnonzero(groups == group)
        medoid = inside[np.argmax(similarities(archive.segments[inside]))]
        named_ms += archive.lengths_ms[inside][truth[inside] == truth[medoid]].sum()
        if named_ms >= NAMED * archive.lengths_ms.sum():
            return float(number)
    return float("nan")


def archives(
    people: Mapping[str, list[list[Piece]]], seconds: float | None, assets: tuple[int, int]
) -> Iterator[Archive]:
    """The archives of all trials."""
    rng = np.random.default_rng(SEED)
    return (draw(people, seconds, assets, rng) for _ in range(TRIALS))


def measure(people: Mapping[str, list[list[Piece]]], seconds: float | None, assets: tuple[int, int]) -> dict[str, Any]:
    """Every way over the same trials."""
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    drawn = list(archives(people, seconds, assets))
    for archive in drawn:
        for name, way in WAYS.items():
            found[name].append(score(archive, way(archive)))
    return {
        "seconds": seconds or "mixed",
        "assets_per_person": f"{assets[0]} to {assets[1]}" if assets[0] < assets[1] else str(assets[0]),
        "people": round(mean(len(np.unique(archive.people)) for archive in drawn), 1),
        "voices": round(mean(len(archive.voices) for archive in drawn), 1),
        "segments": round(mean(len(archive.segments) for archive in drawn), 1),
        **{name: _means(scores) for name, scores in found.items()},
    }


def tuned_on_others(
    people: Mapping[str, list[list[Piece]]], seconds: float | None, assets: tuple[int, int]
) -> dict[str, Any]:
    """F1 on one half of the people with the limits that are best for the other half, beside the shipped ones."""
    rng, tuned, shipped = np.random.default_rng(SEED), [], []
    names = sorted(people)
    for _ in range(TRIALS):
        order = rng.permutation(len(names))
        one, other = (
            draw({names[i]: people[names[i]] for i in order[half::2]}, seconds, assets, rng) for half in (0, 1)
        )
        grid = [replace(LIMITS, alike=alike, same=same) for alike in TUNED_ALIKE for same in TUNED_SAME]
        best = max(grid, key=lambda limits: score(one, ours(one, limits))["f1"])
        tuned.append(score(other, ours(other, best))["f1"])
        shipped.append(score(other, ours(other))["f1"])
    return {"seconds": seconds or "mixed", "tuned_f1": round(mean(tuned), 3), "shipped_f1": round(mean(shipped), 3)}


def measure_readers(clips: Sequence[Clip], embed: Callable[[list[Any]], Vectors]) -> dict[str, Any]:
    """The files of the readers as they are: each a voice; all together, and those of each person alone."""
    vectors = embed([clip.samples for clip in clips])
    people = np.unique([clip.speaker for clip in clips], return_inverse=True)[1]
    ms = np.asarray([round(clip.seconds * 1000) for clip in clips])
    archive = Archive(people, vectors, np.arange(len(clips)), vectors, ms)
    alone = [np.flatnonzero(people == person) for person in range(people.max() + 1)]
    labels = [cluster_voices(vectors[mine], range(len(mine)), ms[mine], LIMITS) for mine in alone]
    whole = sum(1 for found in labels if set(found.tolist()) == {0})
    return {"people": len(alone), "files": len(clips), **score(archive, ours(archive)), "whole_when_alone": whole}


def measure_cost(size: int) -> dict[str, Any]:
    """CPU seconds, and how far memory grows over the voices themselves, in this process."""
    rng = np.random.default_rng(SEED)
    common, people = _unit(rng.standard_normal((1, 256))), _unit(rng.standard_normal((size // PER_PERSON, 256)))
    mine = people[rng.integers(len(people), size=size)]
    noise = _unit(rng.standard_normal((size, 256)))
    vectors = _unit(np.sqrt(0.55) * common + np.sqrt(0.33) * mine + np.sqrt(0.12) * noise).astype(np.float32)
    del mine, noise
    clean_ms = np.full(size, 20_000)
    cluster_voices(vectors[:100], range(100), clean_ms[:100], LIMITS)
    # The high-water mark of the process starts again from here.
    Path("/proc/self/clear_refs").write_text("5")
    before_mib, began_s = _status_mib("VmRSS"), time.process_time()
    labels = cluster_voices(vectors, range(size), clean_ms, LIMITS)
    cpu_s = time.process_time() - began_s
    return {
        "voices": size,
        "people": len(people),
        "clusters": int(labels.max() + 1),
        "noise": int((labels == APART).sum()),
        "cpu_s": round(cpu_s, 1),
        "grown_mib": round(_status_mib("VmHWM") - before_mib, 1),
        "vectors_mib": round(vectors.nbytes / 2**20, 1),
    }


def _status_mib(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure; labels that were never enough are counted apart."""
    figures = {name: [one[name] for one in scores if not np.isnan(one[name])] for name in scores[0]}
    never = sum(1 for one in scores if np.isnan(one["labels"]))
    return {name: round(mean(values), 3) for name, values in figures.items() if values} | {"never_enough": never}


def measure_all(folder: Path | None) -> dict[str, Any]:
    """Everything this benchmark says."""
    stage = Voices(choose("voice", "bundled", {"device": "cpu"}, {}))
    stage.load()
    clips = corpora(folder, SHARED if SHARED.is_dir() else None)
    people = cut(clips, stage.embed_waveforms)
    found = [measure(people, seconds, assets) for assets in ASSETS for seconds in SECONDS]
    readers = measure_readers([clip for clip in clips if clip.corpus == "read"], stage.embed_waveforms)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        cost = [pool.apply(measure_cost, (size,)) for size in SIZES]
    at = next(one for one in found if (one["seconds"], one["assets_per_person"]) == ("mixed", "1 to 6"))
    sizes = {one["voices"]: one for one in cost}
    return {
        "corpus": {
            "people": len(people),
            "clips": len(clips),
            "hours": round(sum(clip.seconds for clip in clips) / 3600, 2),
            "corpora": sorted({clip.corpus for clip in clips}),
        },
        "model": "bundled (GE2E, 256-d)",
        "limits": {"alike": LIMITS.alike, "same": LIMITS.same, "noise_ms": LIMITS.noise_ms},
        "trials": TRIALS,
        "readers": readers,
        "by_seconds": found,
        "tuned_on_others": [tuned_on_others(people, seconds, ASSETS[0]) for seconds in SECONDS],
        "cost": cost,
        "targets": {
            "readers_clusters": exactly(5.0, readers["clusters"]),
            "readers_f1": exactly(1.0, readers["f1"]),
            "readers_whole_when_alone": exactly(readers["people"], readers["whole_when_alone"]),
            "f1_of_mixed_lengths": at_least(0.95, at["ours"]["f1"]),
            **{
                f"f1_of_mixed_lengths_over_{name}": at_least(0.0, round(at["ours"]["f1"] - at[name]["f1"], 3))
                for name in WAYS
                if name != "ours"
            },
            "cpu_s_of_6000_voices": at_most(15.0, sizes[6_000]["cpu_s"]),
            "mib_of_20000_voices": at_most(400.0, sizes[20_000]["grown_mib"]),
        },
    }


def main() -> None:
    """Run and write `results/clustering.json`."""
    write_result("clustering", measure_all(Path(sys.argv[1]) if len(sys.argv) > 1 else None))


if __name__ == "__main__":
    main()
