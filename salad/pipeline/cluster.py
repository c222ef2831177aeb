"""Balanced k-means on the embeddings (paper: K = 128): no cluster above 1.1 x the mean size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline.embed import load_embeddings
from salad.seeds import derive

MAX_TRAINING_POINTS = 256  # a centroid; more do not move FAISS's centroids


def build_clusters(out: Path, config: Config, embeddings: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """`assignment.npy` (N,) int32 and `centroids.npy` (K, d) float32; returns the size of the largest cluster."""
    x = load_embeddings(embeddings)
    k = config.cluster.k
    if k > len(x):
        raise SaladError(f"cluster.k is {k} but the pool has {len(x)} passages", "lower cluster.k or enlarge the pool")
    assignment, centroids = balanced_kmeans(
        x, k, config.cluster.max_over_mean, config.cluster.iterations, derive(config.seed, "cluster")
    )
    np.save(out / "assignment.npy", assignment)
    np.save(out / "centroids.npy", centroids)
    sizes = np.bincount(assignment, minlength=k)
    progress(len(x))
    return {"k": k, "smallest": int(sizes.min()), "largest": int(sizes.max()), "mean": len(x) / k}


def load_assignment(folder: Path) -> np.ndarray:
    assignment: np.ndarray = np.load(folder / "assignment.npy", allow_pickle=False)
    return assignment


def balanced_kmeans(x: np.ndarray, k: int, max_over_mean: float, iterations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS k-means, then a capacity-limited assignment, recentred and assigned once more.

    x: (N, d). Returns assignment (N,) int32 and centroids (k, d) float32. No cluster holds more than
    max(floor(max_over_mean · N / k), ceil(N / k)) points. The order of the points does not matter to FAISS's
    sample here: it is drawn with the seed.
    """
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1], k, niter=iterations, seed=seed % (2**31), max_points_per_centroid=MAX_TRAINING_POINTS,
        min_points_per_centroid=1,
    )  # fmt: skip
    kmeans.train(np.asarray(x, dtype=np.float32))
    centroids = np.array(kmeans.centroids)
    capacity = max(math.floor(max_over_mean * len(x) / k), math.ceil(len(x) / k))
    assignment = _assign_with_capacity(x, centroids, capacity)
    for _ in range(2):  # let the centroids follow the points that capacity moved
        centroids = _means(x, assignment, centroids)
        assignment = _assign_with_capacity(x, centroids, capacity)
    return assignment, centroids


def _assign_with_capacity(x: np.ndarray, centroids: np.ndarray, capacity: int) -> np.ndarray:
    """Each point to its nearest cluster with room; a full cluster keeps those that would lose most elsewhere.

    Deferred acceptance (Gale and Shapley 1962) on regrets: points propose in order of distance, an
    overfull cluster turns away the points whose next choice costs least.
    """
    import faiss

    k = len(centroids)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distance, order = index.search(np.asarray(x, dtype=np.float32), k)  # (N, k), nearest first
    choice = np.zeros(len(x), dtype=np.int64)  # position in each point's own order
    rows = np.arange(len(x))
    while True:
        at = order[rows, choice]
        sizes = np.bincount(at, minlength=k)
        overfull = np.flatnonzero(sizes > capacity)
        if len(overfull) == 0:
            return at.astype(np.int32)
        following = np.minimum(choice + 1, k - 1)
        regret = distance[rows, following] - distance[rows, choice]
        for c in overfull:
            members = np.flatnonzero(at == c)
            turned_away = members[np.argsort(regret[members], kind="stable")[: len(members) - capacity]]
            choice[turned_away] += 1
            # One that is at its last choice has no regret left to show; the capacities sum to at least N,
            # so somebody always has room and `choice` stays below k.


def _means(x: np.ndarray, assignment: np.ndarray, previous: np.ndarray, chunk: int = 65_536) -> np.ndarray:
    sums = np.zeros(previous.shape, dtype=np.float64)
    for i in range(0, len(x), chunk):
        np.add.at(sums, assignment[i : i + chunk], np.asarray(x[i : i + chunk], dtype=np.float64))
    counts = np.bincount(assignment, minlength=len(previous))[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), previous).astype(np.float32)
