"""Unknown voices of an archive, grouped: one cluster per person as far as the voices tell, the rest apart.

HDBSCAN finds where voices lie close together; two absolute limits mend what it cannot know. It never answers with a
single cluster, so it breaks an archive of one person into pieces: pieces as alike as two recordings of one person
are joined. And it has no idea of far: strangers who have nobody nearer form a cluster, which is taken apart. No
cluster holds two local speakers of one asset, because two voices of one recording are two people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cluster.speakers.thresholds import Thresholds

APART = -1
# Linkage takes memory with the square of its points: 64 MB for so many.
LINKED_VOICES = 4_000
COMPARED_VOICES = 1_024
# Of two voices of one asset: no average over a cluster comes below any limit with it.
_OTHER_PERSON = 1e9

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


def cluster_voices(
    vectors: Vectors, asset_ids: Sequence[int], clean_ms: NDArray[np.int64], limits: Thresholds
) -> Labels:
    """The cluster of every voice, shape (voices,), numbered by first appearance; `APART` for those in none.

    `vectors` (voices, dimension) are of unit length, each from so much clean speech. By average linkage, the members
    of a cluster have a mean cosine of at least `limits.alike` to each other, and clusters with one of `limits.same`
    or more between them are joined: cosines as they would be with endless speech.
    """
    # Noise makes the cosine of two recordings of one person t / (t + noise) of what it is without.
    scale = np.sqrt(1 + limits.noise_ms / np.maximum(clean_ms, 1))
    endless = (vectors * scale[:, None]).astype(np.float32)
    assets = np.asarray(asset_ids, np.int64)
    groups = [part for found in _by_label(_hdbscan(vectors)) for part in _linked(endless, found, assets, limits.alike)]
    while True:
        joined = _joined(endless, groups, assets, limits.same)
        if len(joined) == len(groups):
            break
        groups = joined
    labels = np.full(len(vectors), APART, np.int64)
    for number, group in enumerate(sorted((group for group in groups if len(group) > 1), key=lambda one: one[0])):
        labels[group] = number
    return labels


def divided(vectors: Vectors, parts: int) -> Labels:
    """`parts` groups of the voices of one cluster by average linkage, shape (voices,), the largest first.

    `vectors` (voices, dimension) are at least `parts`. Of very many voices some are linked, and the others go to
    the nearest group.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage

    some = np.arange(0, len(vectors), -(-len(vectors) // LINKED_VOICES))
    tree = linkage(vectors[some].astype(np.float64), "average", "cosine")
    found = cut_tree(tree, n_clusters=parts)[:, 0]
    labels = _nearest(vectors, {int(i): int(part) for i, part in zip(some, found, strict=True)})
    sizes = np.bincount(labels, minlength=parts)
    return np.argsort(np.argsort(-sizes, kind="stable"))[labels]


def cut_by_marks(vectors: Vectors, marked: Mapping[int, int]) -> Labels | None:
    """The part of every voice of one cluster, shape (voices,), as a person split it; None when it stays whole.

    `marked`: position in `vectors` -> part. Voices without a mark go to the part whose marked voices are nearest.
    """
    return _nearest(vectors, marked) if len(set(marked.values())) > 1 else None


def similarities(vectors: Vectors) -> Vectors:
    """The cosine of every member to the centroid of its cluster, shape (members,)."""
    return np.clip(vectors @ _unit(vectors.sum(axis=0)), -1, 1).astype(np.float32)


def cohesion(similarity: Vectors) -> tuple[float, float]:
    """Mean and 5th percentile of the cosines to the centroid."""
    return float(np.mean(similarity)), float(np.quantile(similarity, 0.05))


def _hdbscan(vectors: Vectors) -> Labels:
    """Clusters of two voices or more, by density; what is in none is a cluster of its own here."""
    labels = np.full(len(vectors), APART, np.int64)
    if len(vectors) > 2:
        from hdbscan import HDBSCAN

        # Euclidean distance orders unit vectors as the cosine does. Prim's algorithm keeps no matrix of distances.
        found = HDBSCAN(min_cluster_size=2, min_samples=1, algorithm="prims_kdtree", core_dist_n_jobs=1)
        labels = np.asarray(found.fit_predict(vectors.astype(np.float64)), np.int64)
    alone = np.flatnonzero(labels == APART)
    labels[alone] = np.arange(len(alone)) + labels.max(initial=APART) + 1
    return labels


def _joined(vectors: Vectors, groups: Sequence[Labels], assets: Labels, least: float) -> list[Labels]:
    """The groups, those joined whose pairs have a mean cosine of at least `least`."""
    # The cosine of two means, which are not of unit length themselves, is the mean over all pairs.
    means = np.stack([vectors[group].mean(axis=0) for group in groups]) if groups else vectors
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    there = assets[np.concatenate(groups)] if groups else assets
    found = [part for near in _near(means, least) for part in _linked(means, near, there, least, owners)]
    return [np.sort(np.concatenate([groups[i] for i in part])) for part in found]


def _linked(means: Vectors, some: Labels, assets: Labels, least: float, owners: Labels | None = None) -> list[Labels]:
    """`some` of the points in groups by average linkage: a mean cosine of at least `least`, and no asset twice.

    `owners` says which point each of `assets` belongs to; None: one each.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    groups = []
    for start in range(0, len(some), LINKED_VOICES):
        block = some[start : start + LINKED_VOICES]
        if len(block) == 1:
            groups.append(block)
            continue
        exact = means[block].astype(np.float64)
        distances = np.concatenate([1 - exact[i + 1 :] @ exact[i] for i in range(len(exact) - 1)])
        row, column = _sharing(block, assets, owners)
        distances[row * (2 * len(block) - row - 1) // 2 + column - row - 1] = _OTHER_PERSON
        tree = linkage(np.maximum(distances, 0), "average")
        groups += [block[part] for part in _by_label(fcluster(tree, 1 - least, "distance"))]
    return groups


def _sharing(block: Labels, assets: Labels, owners: Labels | None) -> tuple[Labels, Labels]:
    """Pairs of positions in `block`, the lower one first, of points with a voice in the same asset."""
    from scipy.sparse import coo_array

    if owners is None:
        position, where = np.arange(len(block)), assets[block]
    else:
        position = np.full(owners.max() + 1, APART)
        position[block] = np.arange(len(block))
        position, where = position[owners], assets
        position, where = position[position != APART], where[position != APART]
    column = np.unique(where, return_inverse=True)[1]
    there = coo_array((np.ones(len(where), np.int32), (position, column))).tocsr()
    both = (there @ there.T).tocoo()
    upper = both.row < both.col
    return both.row[upper].astype(np.int64), both.col[upper].astype(np.int64)


def _near(means: Vectors, least: float) -> list[Labels]:
    """Points that a chain of cosines of at least `least` connects: average linkage joins no others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(means), COMPARED_VOICES):
        row, column = np.nonzero(means[start : start + COMPARED_VOICES] @ means.T >= least)
        later = column > row + start
        rows.append(row[later] + start)
        columns.append(column[later])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row), np.int8), (row, column)), shape=(len(means), len(means)))
    return _by_label(connected_components(graph, directed=False)[1])


def _nearest(vectors: Vectors, known: Mapping[int, int]) -> Labels:
    """The label of every vector: its own where it is known, else that of the nearest mean of known ones."""
    positions, labels = np.asarray(list(known), np.int64), np.asarray(list(known.values()), np.int64)
    parts = np.unique(labels)
    means = np.stack([_unit(vectors[positions[labels == part]].sum(axis=0)) for part in parts])
    found = parts[np.argmax(vectors @ means.T, axis=1)]
    found[positions] = labels
    return found


def _by_label(labels: NDArray[np.integer]) -> list[Labels]:
    """The positions of every label, ascending."""
    order = np.argsort(labels, kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(labels[order])) + 1), len(order)]
    return [order[start:stop] for start, stop in pairwise(edges) if stop > start]


def _unit(vector: Vectors) -> Vectors:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
