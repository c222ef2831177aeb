"""What other libraries do for the same task, and what is exact: each takes unit vectors (N, d) float32, gives n rows.

Row 0 counts as chosen before, so that everybody starts from the same point; it is not among the rows given back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK = 256  # candidates whose gain is reckoned at once


def small_text(x: np.ndarray, n: int) -> np.ndarray:
    """small-text's greedy core-set as its strategy calls it, in batches of 100. Its other metric, cosine, is slower still."""
    from small_text.query_strategies.coresets import greedy_coreset

    return greedy_coreset(x, np.arange(len(x)), np.array([0]), n, "euclidean", normalized=True)


def scikit_activeml(x: np.ndarray, n: int) -> np.ndarray:
    from skactiveml.pool import CoreSet

    labels = np.full(len(x), np.nan)
    labels[0] = 0
    return CoreSet(random_state=0).query(x, labels, batch_size=n)


def plain_kcenter(x: np.ndarray, n: int) -> np.ndarray:
    """Gonzalez 1985, as one writes it in numpy: the point farthest from all centres, one product a pick. Exact greedy."""
    farthest = 2 - 2 * (x @ x[0])
    rows = np.zeros(n, np.int64)
    for i in range(n):
        rows[i] = farthest.argmax()
        np.minimum(farthest, 2 - 2 * (x @ x[rows[i]]), out=farthest)
    return rows


def apricot(x: np.ndarray, n: int) -> np.ndarray:
    """apricot's lazy greedy on similarities made beforehand, in the type that it would turn them to: its fastest way."""
    from apricot import FacilityLocationSelection

    similarity = np.maximum(x @ x.T, 0).astype(np.float64)
    chosen = FacilityLocationSelection(n, metric="precomputed", optimizer="lazy", initial_subset=np.array([0]))
    return np.asarray(chosen.fit(similarity).ranking)


PEERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "small-text": small_text,
    "scikit-activeml": scikit_activeml,
    "plain numpy": plain_kcenter,
    "apricot, lazy": apricot,
}
COMPILES = ("apricot, lazy",)  # anew in every call


def exact_facility_location(x: np.ndarray, weight: np.ndarray, n: int, progress: Callable[[str], None]) -> np.ndarray:
    """Lazy greedy (Minoux 1978) over all similarities, kept as float16: N = 50,000 needs 5 GB and minutes. No sampling.

    A gain can only shrink, so a candidate whose gain was reckoned after the last pick and is still above the others' old
    ones is the best. Old ones are brought up to date by the block, highest first.
    """
    import torch  # its float16 is several times numpy's

    vectors, w = torch.from_numpy(x), torch.from_numpy(np.asarray(weight, np.float32))
    similarity = torch.empty(len(x), len(x), dtype=torch.float16)
    covered = torch.clamp(vectors @ vectors[0], min=0)
    gain, at = torch.empty(len(x)), torch.zeros(len(x), dtype=torch.int64)

    def gains(rows: torch.Tensor) -> torch.Tensor:
        return torch.relu_(similarity[rows].float().sub_(covered)) @ w

    for i in range(0, len(x), BLOCK):
        similarity[i : i + BLOCK] = vectors[i : i + BLOCK] @ vectors.T
        gain[i : i + BLOCK] = gains(torch.arange(i, min(i + BLOCK, len(x))))
    gain[0] = -torch.inf
    chosen: list[int] = []
    while len(chosen) < n:
        best = int(gain.argmax())
        if at[best] < len(chosen):
            stale = torch.where(at < len(chosen), gain, -torch.inf).topk(BLOCK).indices
            stale = stale[torch.isfinite(gain[stale])]
            gain[stale], at[stale] = gains(stale), len(chosen)
            continue
        chosen.append(best)
        covered = torch.maximum(covered, similarity[best].float())
        gain[best] = -torch.inf
        if len(chosen) % 100 == 0:
            progress(f"exact facility location: {len(chosen)} of {n} picks")
    return np.array(chosen)


def radius(x: np.ndarray, rows: np.ndarray) -> float:
    """Distance of the worst covered point of (N, d) to the nearest chosen one, row 0 chosen too."""
    return float(np.sqrt(max(0.0, 2 - 2 * float(_nearest(x, rows).min()))))


def coverage(x: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> float:
    """Mean over points, by `weight` (N,), of the cosine to the nearest chosen one, 0 if negative; row 0 chosen too."""
    return float(np.average(np.maximum(_nearest(x, rows), 0), weights=weight))


def _nearest(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    centres = x[np.append(rows, 0)].T
    return np.concatenate([(x[i : i + 8192] @ centres).max(1) for i in range(0, len(x), 8192)])
