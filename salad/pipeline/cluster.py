"""Balanced k-means on the embeddings (paper: K = 128), published; how it is done is in `balance.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline.balance import balanced_kmeans
from salad.pipeline.embed import load_embeddings
from salad.seeds import derive


def build_clusters(out: Path, config: Config, embeddings: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """`assignment.npy` (N,) int32 and `centroids.npy` (K, d) float32; returns the size of the largest cluster."""
    x = load_embeddings(embeddings)
    k = config.cluster.k
    if k > len(x):
        raise SaladError(f"cluster.k is {k} but the pool has {len(x)} passages", "lower cluster.k or enlarge the pool")
    seed = derive(config.seed, "cluster")
    assignment, centroids = balanced_kmeans(x, k, config.cluster.max_over_mean, config.cluster.iterations, seed, progress)
    np.save(out / "assignment.npy", assignment)
    np.save(out / "centroids.npy", centroids)
    sizes = np.bincount(assignment, minlength=k)
    return {"k": k, "smallest": int(sizes.min()), "largest": int(sizes.max()), "mean": len(x) / k}


def load_assignment(folder: Path) -> np.ndarray:
    assignment: np.ndarray = np.load(folder / "assignment.npy", allow_pickle=False)
    return assignment
