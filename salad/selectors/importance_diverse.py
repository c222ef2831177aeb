"""The default: the paper's share of the budget for each cluster, and variety inside each share.

A cluster's share buys n texts. FAISS k-means with n centroids on its free texts finds n different
neighbourhoods; each gives the text, of those nearest its centre, with the highest predicted divergence
of content: by D as it is, texts with the fewest words to read would win, which have the least to teach.
"""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import Fill, by_target, fill_quotas

CANDIDATES = 3  # texts nearest a centre, among which the predicted divergence decides
COVERED = "its own neighbourhood in it"


class ImportanceDiverse:
    """Quotas by P_target in seconds of speech, a k-means cover of each cluster, uncertainty as tie-breaker.

    Quotas: arXiv 2510.13632, section 4. Cover: diversity by clustering, as in cluster-margin (Citovsky et al. 2021).
    Guarantee: every cluster gets its share of the seconds, to one text. Cost: a small k-means a fed cluster,
    O(n · members · d); memory: the vectors of some clusters, half a GB or one cluster.
    """

    name = "importance-diverse"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return fill_quotas(pool, pool.clusters.p_target, budget, rng, by_target(pool), COVERED, cover(pool, rng))


def cover(pool: PoolView, rng: np.random.Generator) -> Fill:
    """How to fill a cluster's quota with texts spread over their embedding space."""
    import faiss

    seed = int(rng.integers(2**31))

    def fill(rows: np.ndarray, seconds: float, vectors: np.ndarray) -> np.ndarray:
        n = int(np.ceil(seconds / max(float(pool.est_seconds[rows].mean()), 1e-6)))
        if n >= len(rows):
            return rows
        x = np.asarray(vectors, dtype=np.float32)
        kmeans = faiss.Kmeans(
            x.shape[1], n, niter=10, seed=seed, min_points_per_centroid=1, max_points_per_centroid=1_000,
        )  # fmt: skip
        kmeans.train(x)
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        _, nearest = index.search(np.asarray(kmeans.centroids), min(CANDIDATES, len(rows)))
        gain = pool.content_divergence[rows]
        taken: set[int] = set()
        for candidates in nearest:
            best = [i for i in candidates.tolist() if i >= 0 and i not in taken]
            if best:
                taken.add(max(best, key=lambda i: (gain[i], -i)))
        return np.asarray(rows[sorted(taken)])

    return fill
