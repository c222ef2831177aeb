"""How much D falls after hearing speech: a power law in seconds heard, in general and nearby, fitted on a run's rounds.

    D_i(after) / D_i(before) = r(n_i after) / r(n_i before),   r(n) = floor + (1 - floor) · (n / N)^-β
    n_i = (1 - local) · seconds heard in all + local · seconds heard nearby
    seconds heard nearby = Σ_j k(x_i, x_j) · seconds_j,   k = exp((cos - 1) / reach), of mean 1 over the pool's pairs

M = E + B·n^-β is how losses fall with data (Hestness et al. 2017); N is what Stage I heard, so Stage I's own speech counts:
what it was about has less left to teach. β, local and reach are least squares on log D of texts that were measured before and
after a round; `floor` is assumed. Texts are binned into cells of embedding space, so n costs O(texts), not O(texts · heard).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from salad.pipeline.simulation.source import Change, Speech

CELLS = 1_024
REACHES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # 1 - cosine over which speech is still nearby: the best-fitting is taken
ASSUMED_BETA = 0.3  # where no text was measured around a round; the demo's runs gave 0.2 and 0.4
MOST_LOCAL = 0.95  # of a fit: with all of it, a text far from all that was heard would have heard nothing
LEAST = 1e-3  # of N: what a text has heard at least


@dataclass(frozen=True)
class Response:
    """The fitted law and its standard errors, which hold a cluster's texts together (NaN: not fitted, but given or assumed)."""

    beta: float
    beta_se: float
    local: float
    local_se: float
    reach: float
    floor: float
    heard: float  # N: seconds before round 0
    noise: float  # variance of log D of one text by one student about what the law says
    texts: int  # changes that it was fitted on
    rounds: int  # in which they were measured
    local_rounds: float = np.nan  # `local`, were Stage I's speech of no topic: what the rounds' own speech says of it
    local_rounds_se: float = np.nan

    def ratio(self, n: np.ndarray, beta: np.ndarray | float | None = None) -> np.ndarray:
        """r(n), of any shape. beta: in place of the fitted one."""
        b = self.beta if beta is None else beta
        return np.asarray(self.floor + (1 - self.floor) * np.maximum(n / self.heard, LEAST) ** -b)

    def sentence(self) -> str:
        """What is known of it, in words."""
        if not self.texts:
            return f"Learning response assumed (β {self.beta:g}, local {self.local:g}): no text was measured around a round."
        of = f"{self.texts} changes of log D in {self.rounds} round{'s' * (self.rounds > 1)}"
        said = f"Learning response fitted on {of}: β {_with_error(self.beta, self.beta_se)}, "
        said += f"local {_with_error(self.local, self.local_se)} (reach {self.reach:g})"
        if np.isfinite(self.local_se):
            clear = self.local > 2 * self.local_se
            said += "" if clear else ", not distinguishable from 0: the estimate is used, --local sets it"
        if np.isfinite(self.local_rounds_se):
            said += f"; from the rounds' own speech alone local {_with_error(self.local_rounds, self.local_rounds_se)}"
        return f"{said}. Floor {self.floor:g} assumed."


@dataclass(frozen=True)
class Cells:
    """Embedding space in C pieces, and what a second heard in one counts in another."""

    centres: np.ndarray  # (C, d) mean vectors: their products are the mean cosines of their texts
    share: np.ndarray  # (C,) of the pool

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) the nearest cell of each row."""
        import faiss

        index = faiss.IndexFlatL2(self.centres.shape[1])
        index.add(self.centres)
        return np.asarray(index.search(np.asarray(vectors, np.float32), 1)[1][:, 0])

    def kernel(self, reach: float) -> np.ndarray:
        """(C, C) of mean 1 over the pool's pairs of texts."""
        k = np.exp((np.minimum(self.centres @ self.centres.T, 1.0) - 1.0) / reach)
        return np.asarray(k / (self.share @ k @ self.share), np.float32)

    def seconds(self, speech: Speech) -> np.ndarray:
        """(C,) of speech in each cell; where its texts are unknown, spread as the pool is."""
        if speech.vectors is None:
            return self.share * float(speech.seconds.sum())
        return np.bincount(self.of(speech.vectors), weights=speech.seconds, minlength=len(self.share))


def make_cells(vectors: np.ndarray, seed: int) -> Cells:
    """K-means cells of the originals (O, d), about 8 texts each or more."""
    import faiss

    count = max(min(CELLS, len(vectors) // 8), 1)
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=8, seed=seed % 2**31, min_points_per_centroid=1)
    kmeans.train(vectors)
    near = kmeans.index.search(vectors, 1)[1][:, 0]
    sizes = np.bincount(near, minlength=count)
    kept = np.flatnonzero(sizes)
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, near, vectors)
    return Cells((sums[kept] / sizes[kept, None]).astype(np.float32), sizes[kept] / len(vectors))


@dataclass(frozen=True)
class _Seen:
    """Changes by cell: each of (n,), and by kind of round what was heard in each cell, (C,)."""

    change: np.ndarray
    group: np.ndarray
    cell: np.ndarray
    kind: np.ndarray  # row of `old` and `new`
    old: np.ndarray  # (kinds, C) seconds before
    new: np.ndarray


def fit(changes: Sequence[Change], natural: Speech, cells: Cells, floor: float, local: float | None) -> Response:
    """From a run's changes. local: given, not fitted. Without changes β is ASSUMED_BETA and local 0, with no errors."""
    heard = float(natural.seconds.sum())
    blank = Response(ASSUMED_BETA, np.nan, local or 0.0, np.nan, 0.2, floor, heard, np.nan, 0, 0)
    if not changes:
        return blank
    seen = _see(changes, cells)
    best, _ = min((_solve(replace(blank, reach=reach), seen, cells, local) for reach in REACHES), key=lambda f: f[1])
    best = replace(best, rounds=len({len(c.before) for c in changes}))
    if local is None and natural.vectors is not None:
        even = replace(seen, old=seen.old + cells.share * heard - cells.seconds(natural))
        alone, _ = _solve(best, even, cells, None)
        best = replace(best, local_rounds=alone.local, local_rounds_se=alone.local_se)
    return best


def _see(changes: Sequence[Change], cells: Cells) -> _Seen:
    return _Seen(
        change=np.concatenate([c.change for c in changes]),
        group=np.concatenate([c.cluster for c in changes]),
        cell=np.concatenate([cells.of(c.vectors) for c in changes]),
        kind=np.repeat(np.arange(len(changes)), [len(c.change) for c in changes]),
        old=np.array([np.sum([cells.seconds(s) for s in c.before], axis=0) for c in changes]),
        new=np.array([cells.seconds(c.new) for c in changes]),
    )


def _solve(start: Response, seen: _Seen, cells: Cells, local: float | None) -> tuple[Response, float]:
    """Least squares for β and, unless given, local; the errors are cluster-robust. Also the sum of squares."""
    from scipy.optimize import least_squares

    kernel = cells.kernel(start.reach)
    doses = [(x.sum(1)[seen.kind], (x @ kernel)[seen.kind, seen.cell]) for x in (seen.old, seen.old + seen.new)]

    def off(p: np.ndarray) -> np.ndarray:
        share = p[1] if local is None else local
        before, after = (np.log(start.ratio((1 - share) * total + share * near, float(p[0]))) for total, near in doses)
        return np.asarray(seen.change - (after - before))

    free = 2 if local is None else 1
    found = least_squares(off, [ASSUMED_BETA, 0.3][:free], bounds=([0.0, 0.0][:free], [3.0, MOST_LOCAL][:free]))
    error = _robust(found.jac, found.fun, seen.group)
    share, share_se = (float(found.x[1]), float(error[1])) if local is None else (local, np.nan)
    squares = float(found.fun @ found.fun)
    fitted = replace(
        start, beta=float(found.x[0]), beta_se=float(error[0]), local=share, local_se=share_se, texts=len(found.fun),
        noise=squares / len(found.fun) / 2,
    )  # fmt: skip
    return fitted, squares


def _robust(jacobian: np.ndarray, residual: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Standard errors where texts of a group err together (the sandwich estimator: Liang and Zeger 1986)."""
    _, group = np.unique(group, return_inverse=True)
    scores = np.zeros((group.max() + 1, jacobian.shape[1]))
    np.add.at(scores, group, jacobian * residual[:, None])
    bread = np.linalg.pinv(jacobian.T @ jacobian)
    count = len(scores)
    return np.asarray(np.sqrt(np.diag(bread @ scores.T @ scores @ bread) * count / max(count - 1, 1)))


def _with_error(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}" if np.isfinite(error) else f"{value:g}"
