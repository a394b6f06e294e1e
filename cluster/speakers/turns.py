"""Who speaks when inside one asset: speech regions and window vectors in, speaker turns out.

Frames of about 0.2 s divide the speech; each carries the voice vector of the window around it.
Change points cut the speech into tentative turns, average-linkage clustering of the longer ones
gives starting points, and spherical k-means whose labels follow a Viterbi path, so that a change of
speaker has a price, decides. Of several starts the best-scoring one wins: one stray cluster cannot.
Thresholds are for GE2E vectors. `MERGE_COSINE` was set on concatenated read speech of five speakers,
clean and through a telephone band. The ranges meet (halves of one speaker 0.82 to 0.94, two speakers
up to 0.82, on a real telephone call 0.88): alike voices on a telephone count as one unless the number
of speakers is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_MS = 200
WINDOW_MS = 1600
BRIDGED_PAUSE_MS = 500
ISLAND_PAUSE_MS = 300
SIDE_FRAMES = WINDOW_MS // FRAME_MS // 2
CHANGE_DISTANCE = 0.25
CHANGE_FRAMES = 3
LONG_TURN_FRAMES = 5
LINKED_TURNS = 3000
SWITCH_COST = 0.1
PAUSE_DISCOUNT = 0.5
ROUNDS = 8
CUT_DISTANCES = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25)
LIKELY_DISTANCE = 0.35
MERGE_COSINE = 0.84
MIN_SPEAKER_FRAMES = 8
SMALL_SPEAKER_PENALTY = 0.25
PATIENCE = 2
MAX_SPEAKERS = 30

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Turn = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Frames:
    """Speech cut into frames, all int64.

    `edges_ms` (frames, 2) tiles the regions; `region` and `island` (frames,) number the speech
    region and the run of regions with pauses under 0.3 s; `window_ms` (frames,) is where the window
    of 1.6 s around the frame begins.
    """

    edges_ms: NDArray[np.int64]
    region: Labels
    island: Labels
    window_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Tree:
    """Tentative turns worth clustering: unit vectors, lengths in frames, average linkage."""

    vectors: Vectors
    weights: NDArray[np.float64]
    merges: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Fit:
    labels: Labels
    distinct: bool


def cut_frames(regions_ms: Sequence[tuple[int, int]], duration_ms: int) -> Frames:
    """Frames that tile the sorted, disjoint, non-empty regions exactly.

    A window stays inside its island where that is long enough, and inside the audio.
    """
    bounds = np.asarray(regions_ms, np.int64).reshape(-1, 2)
    counts = np.maximum(1, np.round((bounds[:, 1] - bounds[:, 0]) / FRAME_MS).astype(np.int64))
    marks = [
        np.linspace(start, end, count + 1).round().astype(np.int64)
        for (start, end), count in zip(bounds, counts, strict=True)
    ]
    edges = np.concatenate([np.empty((0, 2), np.int64), *(np.stack([mark[:-1], mark[1:]], axis=1) for mark in marks)])
    region = np.repeat(np.arange(len(bounds)), counts)
    fresh = np.append(True, bounds[1:, 0] - bounds[:-1, 1] >= ISLAND_PAUSE_MS)[: len(bounds)]
    island = (np.cumsum(fresh) - 1)[region]
    first, last = np.flatnonzero(fresh), np.flatnonzero(np.append(fresh[1:], True)[: len(bounds)])
    start, end = bounds[first, 0][island], bounds[last, 1][island]
    middle = (start + end - WINDOW_MS) // 2
    roomy = end - start >= WINDOW_MS
    window = np.clip(
        edges.mean(axis=1).astype(np.int64) - WINDOW_MS // 2,
        np.where(roomy, start, middle),
        np.where(roomy, end - WINDOW_MS, middle),
    )
    return Frames(edges, region, island, np.clip(window, 0, max(0, duration_ms - WINDOW_MS)))


def change_points(vectors: Vectors, island: Labels) -> Labels:
    """Sorted frames at which a tentative turn begins; the first frame of every island is one.

    The distance between the windows half a window before and after a frame peaks where the voice
    changes.
    """
    from scipy.signal import find_peaks

    frames = np.arange(len(vectors))
    starts = np.flatnonzero(np.diff(island, prepend=-1))
    place = np.searchsorted(starts, frames, "right")
    first, stop = starts[place - 1], np.append(starts[1:], len(vectors))[place - 1]
    before = np.maximum(frames - SIDE_FRAMES, first)
    after = np.minimum(frames + SIDE_FRAMES, stop - 1)
    distance = 1 - np.einsum("fd,fd->f", vectors[before], vectors[after])
    peaks, _ = find_peaks(distance, height=CHANGE_DISTANCE, distance=CHANGE_FRAMES)
    inner = (peaks - first[peaks] >= CHANGE_FRAMES) & (stop[peaks] - peaks >= CHANGE_FRAMES)
    return np.union1d(starts, peaks[inner])


def assign_speakers(
    vectors: Vectors, frames: Frames, min_speakers: int | None = None, max_speakers: int | None = None
) -> Labels:
    """The speaker of every frame, shape (frames,), numbered by first appearance; deterministic.

    `vectors` are unit vectors of shape (frames, dimension). Equal bounds give the number of
    speakers; fewer come out when the speech has fewer tentative turns than that.
    """
    if not len(vectors):
        return np.empty(0, np.int64)
    tree = _tree(vectors, change_points(vectors, frames.island))
    costs = np.where(np.diff(frames.region, prepend=0) != 0, PAUSE_DISCOUNT, 1) * SWITCH_COST
    most = len(tree.weights)
    low = min(max(1, min_speakers or 1), most)
    high = max(low, min(max_speakers or MAX_SPEAKERS, most))
    return _renumbered(_search(vectors, tree, costs, low, high).labels)


def turns_of(labels: Labels, frames: Frames) -> list[Turn]:
    """(start_ms, end_ms, speaker) of every turn, sorted, disjoint.

    Neighbouring turns of one speaker are joined over a pause shorter than 0.5 s; a longer pause, or
    another speaker, ends a turn.
    """
    turns: list[Turn] = []
    for (start, end), speaker in zip(frames.edges_ms.tolist(), labels.tolist(), strict=True):
        if turns and turns[-1][2] == speaker and start - turns[-1][1] < BRIDGED_PAUSE_MS:
            turns[-1] = (turns[-1][0], end, speaker)
        else:
            turns.append((start, end, speaker))
    return turns


def _search(vectors: Vectors, tree: _Tree, costs: NDArray[np.float64], low: int, high: int) -> _Fit:
    """The largest number of speakers in [low, high] that are still distinct, near the likely one."""
    likely = np.bincount(_cut(tree, LIKELY_DISTANCE), tree.weights) >= MIN_SPEAKER_FRAMES
    count = min(max(int(likely.sum()), low), high)
    fit = _fit(vectors, tree, costs, count)
    while not fit.distinct and count > low:
        count -= 1
        fit = _fit(vectors, tree, costs, count)
    for larger in range(count + 1, high + 1):
        if larger > count + PATIENCE:
            break
        tried = _fit(vectors, tree, costs, larger)
        if tried.distinct:
            fit, count = tried, larger
    return fit


def _fit(vectors: Vectors, tree: _Tree, costs: NDArray[np.float64], count: int) -> _Fit:
    """The best path through `count` speakers over all starts."""
    centroids = _starts(tree, count)
    paths, scores = _viterbi(vectors, centroids, costs)
    for _ in range(ROUNDS):
        moved = np.stack([_centroids(vectors, path, old) for path, old in zip(paths, centroids, strict=True)])
        before, centroids = paths, moved
        paths, scores = _viterbi(vectors, centroids, costs)
        if np.array_equal(paths, before):
            break
    sizes = np.stack([np.bincount(path, minlength=count) for path in paths])
    best = int(np.argmax(np.where((sizes > 0).all(axis=1), scores, scores - len(vectors))))
    distinct = count == 1 or _distinct(centroids[best], sizes[best])
    return _Fit(paths[best], distinct)


def _distinct(centroids: Vectors, sizes: Labels) -> bool:
    """Whether no two speakers are as alike as two halves of one speaker would be.

    The mean over little speech is noisy, so a speaker with little of it has to differ more.
    """
    if sizes.min() < MIN_SPEAKER_FRAMES:
        return False
    smaller = np.minimum(sizes[:, None], sizes) / MIN_SPEAKER_FRAMES
    limit = MERGE_COSINE * smaller / (smaller + SMALL_SPEAKER_PENALTY)
    return not np.triu(centroids @ centroids.T > limit, 1).any()


def _viterbi(vectors: Vectors, centroids: Vectors, costs: NDArray[np.float64]) -> tuple[Labels, NDArray[np.float64]]:
    """The best path of every start: labels (starts, frames) and scores (starts,).

    A path scores the cosine of every frame to its speaker's centroid less the cost of every change.
    """
    starts, count, _ = centroids.shape
    gains = np.einsum("fd,skd->fsk", vectors, centroids, optimize=True).astype(np.float64)
    rows, speakers = np.arange(starts), np.arange(count)
    came = np.empty(gains.shape, np.int16)
    best = gains[0]
    for frame in range(1, len(gains)):
        leader = best.argmax(axis=1)
        switched = (best[rows, leader] - costs[frame])[:, None]
        came[frame] = np.where(best >= switched, speakers, leader[:, None])
        best = np.maximum(best, switched) + gains[frame]
    paths = np.empty((len(gains), starts), np.int64)
    paths[-1] = best.argmax(axis=1)
    for frame in range(len(gains) - 1, 0, -1):
        paths[frame - 1] = came[frame, rows, paths[frame]]
    return paths.T, best.max(axis=1)


def _centroids(vectors: Vectors, path: Labels, old: Vectors) -> Vectors:
    """Mean directions, shape (speakers, dimension); a speaker without frames keeps the old one."""
    sums = np.stack([vectors[path == speaker].sum(axis=0) for speaker in range(len(old))])
    return np.where(np.isin(np.arange(len(old)), path)[:, None], _unit(sums), old)


def _tree(vectors: Vectors, begins: Labels) -> _Tree:
    from scipy.cluster.hierarchy import linkage

    ends = np.append(begins[1:], len(vectors))
    lengths = ends - begins
    longest = np.argsort(-lengths, kind="stable")[:LINKED_TURNS]
    chosen = np.sort(longest[lengths[longest] >= min(LONG_TURN_FRAMES, lengths.max())])
    means = _unit(np.stack([_inner_mean(vectors, begins[turn], ends[turn]) for turn in chosen]))
    merges = linkage(means, "average", metric="cosine") if len(means) > 1 else np.empty((0, 4))
    return _Tree(means, lengths[chosen].astype(np.float64), merges)


def _inner_mean(vectors: Vectors, begin: int, end: int) -> Vectors:
    """The mean over windows inside the turn, or its middle one when the turn is shorter than that."""
    inner = vectors[begin + SIDE_FRAMES : end - SIDE_FRAMES]
    return inner.mean(axis=0) if len(inner) else vectors[(begin + end) // 2]


def _starts(tree: _Tree, count: int) -> Vectors:
    """Centroids (starts, count, dimension): the `count` heaviest clusters of several cuts."""
    turns = len(tree.weights)
    sizes = {turns - int((tree.merges[:, 2] <= distance).sum()) for distance in CUT_DISTANCES}
    sizes = {size for size in {count, count + 1, count + 2, *sizes} if count <= size <= turns}
    starts = []
    for size in sorted(sizes):
        labels = _cut_to(tree, size)
        sums = np.zeros((size, tree.vectors.shape[1]), np.float32)
        np.add.at(sums, labels, tree.vectors * tree.weights[:, None].astype(np.float32))
        heavy = np.argsort(-np.bincount(labels, tree.weights), kind="stable")[:count]
        starts.append(_unit(sums[np.sort(heavy)]))
    return np.stack(starts)


def _cut(tree: _Tree, distance: float) -> Labels:
    return _cut_to(tree, len(tree.weights) - int((tree.merges[:, 2] <= distance).sum()))


def _cut_to(tree: _Tree, count: int) -> Labels:
    """Exactly `count` clusters, shape (turns,): ties in distance cannot make them fewer."""
    turns = len(tree.weights)
    cluster = np.arange(2 * turns - 1)
    for merge in range(turns - count - 1, -1, -1):
        left, right = tree.merges[merge, :2].astype(np.int64)
        cluster[left] = cluster[right] = cluster[turns + merge]
    return np.unique(cluster[:turns], return_inverse=True)[1]


def _renumbered(labels: Labels) -> Labels:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-9)).astype(np.float32)
