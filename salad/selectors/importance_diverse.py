"""The default: the paper's share of the budget for each cluster, and variety inside each share.

A cluster's share buys n texts. FAISS k-means with n centroids on its free texts finds n different
neighbourhoods; each gives the text, of those nearest its centre, with the highest predicted divergence
of content: by D as it is, texts with the fewest words to read would win, which have the least to teach.
"""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection, take_within

CANDIDATES = 3  # texts nearest a centre, among which the predicted divergence decides


class ImportanceDiverse:
    """Quotas by P_target in seconds of speech, a k-means cover of each cluster, uncertainty as tie-breaker.

    Cost: one small k-means a fed cluster, O(n · members · d). Shares of exhausted clusters pass to the rest.
    """

    name = "importance-diverse"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        free = pool.free
        members = {int(c): free[pool.cluster[free] == c] for c in np.unique(pool.cluster[free])}
        quotas = self._quotas(pool, members, budget.seconds)
        chosen, reasons = [], []
        for cluster, seconds in quotas.items():
            rows = members[cluster]
            cover = self._cover(pool, rows, seconds, rng)
            kept = cover[take_within(cover, pool.est_seconds, seconds)]
            chosen.append(kept)
            share = seconds / budget.seconds
            reasons += [
                f"cluster {cluster}: D {pool.clusters.divergence[cluster]:.3f}, {share:.1%} of the budget for "
                f"{pool.clusters.p_web[cluster]:.1%} of the pool; its own neighbourhood in it"
            ] * len(kept)
        if not chosen:
            return Selection(np.zeros(0, np.int64), np.zeros(0), [])
        picked = np.concatenate(chosen)
        picked, reasons = self._fill(pool, picked, reasons, budget.seconds, rng)
        mixed = rng.permutation(len(picked))  # rank order must not favour low cluster numbers
        sizes = {c: len(rows) for c, rows in members.items()}
        probability = np.array([pool.clusters.p_target[c] / sizes[int(c)] for c in pool.cluster[picked]])
        return Selection(picked[mixed], probability[mixed], [reasons[i] for i in mixed])

    @staticmethod
    def _quotas(pool: PoolView, members: dict[int, np.ndarray], budget: float) -> dict[int, float]:
        """Seconds for each cluster: P_target, no more than it has, the surplus redistributed."""
        supply = {c: float(pool.est_seconds[rows].sum()) for c, rows in members.items()}
        open_ = {c: float(pool.clusters.p_target[c]) for c in members if pool.clusters.p_target[c] > 0}
        quotas: dict[int, float] = {}
        left = min(budget, sum(supply[c] for c in open_))
        while open_:
            total = sum(open_.values())
            full = [c for c, p in open_.items() if supply[c] <= left * p / total]
            if not full:
                quotas.update({c: left * p / total for c, p in open_.items()})
                break
            for c in full:
                quotas[c] = supply[c]
                del open_[c]
            left -= sum(supply[c] for c in full)
        return dict(sorted(quotas.items()))

    @staticmethod
    def _cover(pool: PoolView, rows: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """About `seconds` worth of `rows`, spread over their embedding space, in random order."""
        import faiss

        n = int(np.ceil(seconds / max(float(pool.est_seconds[rows].mean()), 1e-6)))
        if n >= len(rows):
            return rng.permutation(rows)
        x = np.asarray(pool.embeddings[np.sort(rows)], dtype=np.float32)
        rows = np.sort(rows)
        kmeans = faiss.Kmeans(
            x.shape[1], n, niter=10, seed=int(rng.integers(2**31)), min_points_per_centroid=1,
            max_points_per_centroid=1_000,
        )  # fmt: skip
        kmeans.train(x)
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        _, nearest = index.search(np.asarray(kmeans.centroids), min(CANDIDATES, len(rows)))
        taken: set[int] = set()
        for candidates in nearest:
            best = [i for i in candidates.tolist() if i not in taken]
            if best:
                taken.add(max(best, key=lambda i: (pool.content_divergence[rows[i]], -i)))
        return rng.permutation(rows[sorted(taken)])

    @staticmethod
    def _fill(
        pool: PoolView, picked: np.ndarray, reasons: list[str], budget: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str]]:
        """What rounding left of the budget goes to more draws from the same distribution."""
        taken = pool.taken.copy()
        taken[picked] = True
        free = np.flatnonzero(~taken & (pool.clusters.p_target[pool.cluster] > 0))
        left = budget - float(pool.est_seconds[picked].astype(np.float64).sum())
        weight = pool.clusters.p_target[pool.cluster[free]]
        order = free[np.argsort(rng.exponential(size=len(free)) / weight, kind="stable")]
        extra = order[take_within(order, pool.est_seconds, left)]
        return np.concatenate([picked, extra]), reasons + [
            f"cluster {c}: D {pool.clusters.divergence[c]:.3f}; fills the end of the budget" for c in pool.cluster[extra].tolist()
        ]
