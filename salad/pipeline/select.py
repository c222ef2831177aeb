"""Choose what to speak next: one call of the strategy, checked, written so that anyone can read why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.cluster import load_assignment
from salad.pipeline.embed import load_embeddings
from salad.pipeline.pool import read_pool
from salad.pipeline.schema import SELECTION
from salad.pipeline.synthesize import Order, turned_down
from salad.seeds import generator
from salad.selectors.base import Budget, ClusterTable, PoolView, Selection, check_selection, make_selector

RESERVE = 0.5  # reserve texts per chosen text of a cluster, at least RESERVE_LEAST
RESERVE_LEAST = 4


def build_selection(
    out: Path,
    config: Config,
    round_: int,
    pool: Path,
    embeddings: Path,
    clusters: Path,
    scores: Path,
    spoken: Iterable[Path],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write `selection.parquet` (in rank order) and `reserve.parquet` (replacements, by cluster).

    spoken: speech folders of earlier stages; their texts, used or rejected, are taken.
    """
    view = pool_view(pool, embeddings, clusters, scores, taken_ids(spoken))
    budget = Budget(config.select.budget)
    supply = float(view.est_seconds[view.free].sum())
    if supply < budget.seconds:
        raise SaladError(
            f"select.budget is {budget.seconds:.0f} s but the texts left in the pool make {supply:.0f} s of speech",
            "lower the budget or enlarge the pool",
        )
    selector = make_selector(config.select.selector)
    name = getattr(selector, "name", config.select.selector)
    chosen = selector.select(view, budget, generator(config.seed, "select", round_, name))
    check_selection(chosen, view, budget, name)
    if len(chosen.indices) == 0:
        raise SaladError(
            f"selector '{name}' chose nothing within {budget.seconds:.0f} s", "raise select.budget above the shortest text"
        )
    texts = read_pool(pool)
    reserve = reserve_for(chosen, view, generator(config.seed, "reserve", round_, name))
    pq.write_table(_rows(chosen, view, texts, name, round_, 0), out / "selection.parquet", compression="zstd")
    pq.write_table(_rows(reserve, view, texts, name, round_, len(chosen.indices)), out / "reserve.parquet", compression="zstd")
    progress(len(chosen.indices))
    fed = np.unique(view.cluster[chosen.indices])
    return {
        "selector": name,
        "texts": len(chosen.indices),
        "est_seconds": float(view.est_seconds[chosen.indices].sum()),
        "clusters": len(fed),
    }


def taken_ids(spoken: Iterable[Path]) -> set[str]:
    """Ids of every text that was spoken, and of those that were tried and turned down.

    A text whose turn never came was not spoken: it stays free.
    """
    taken: set[str] = set()
    for folder in spoken:
        taken.update(shards.read_columns(folder, ["id"])["id"].to_pylist())
        taken.update(turned_down(folder, ["id"])["id"].to_pylist())
    return taken


def pool_view(pool: Path, embeddings: Path, clusters: Path, scores: Path, taken: set[str]) -> PoolView:
    """The selector's view, assembled from the artefacts."""
    texts = read_pool(pool, ["id", "est_seconds"])
    table = pq.read_table(scores / "clusters.parquet")
    predicted = np.load(scores / "predicted.npy", mmap_mode="r", allow_pickle=False)
    return PoolView(
        ids=texts["id"].to_numpy(zero_copy_only=False),
        embeddings=load_embeddings(embeddings),
        cluster=load_assignment(clusters),
        predicted_divergence=predicted[:, 0],
        predicted_se=predicted[:, 1],
        content_divergence=predicted[:, 2],
        est_seconds=texts["est_seconds"].to_numpy(),
        taken=pc.is_in(texts["id"], pa.array(sorted(taken), pa.string())).to_numpy(zero_copy_only=False),
        clusters=ClusterTable(
            p_web=table["p_web"].to_numpy(),
            p_target=table["p_target"].to_numpy(),
            divergence=table["divergence_shrunk"].to_numpy(),
            divergence_se=table["divergence_shrunk"].to_numpy() * table["log_sd"].to_numpy(),
        ),
    )


def reserve_for(chosen: Selection, view: PoolView, rng: np.random.Generator) -> Selection:
    """Free texts of the same clusters, drawn uniformly, for what quality control will turn down."""
    free = ~view.taken
    free[chosen.indices] = False
    rows: list[np.ndarray] = []
    reasons: list[str] = []
    clusters, counts = np.unique(view.cluster[chosen.indices], return_counts=True)
    for cluster, count in zip(clusters.tolist(), counts.tolist(), strict=True):
        members = np.flatnonzero(free & (view.cluster == cluster))
        n = min(max(RESERVE_LEAST, int(np.ceil(RESERVE * count))), len(members))
        rows.append(rng.permutation(members)[:n])
        reasons += [f"reserve of cluster {cluster}"] * n
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return Selection(indices, np.full(len(indices), np.nan), reasons)


def _rows(chosen: Selection, view: PoolView, texts: pa.Table, selector: str, round_: int, first_rank: int) -> pa.Table:
    picked = texts.take(pa.array(chosen.indices))
    n = len(chosen.indices)
    columns = {
        **{c: picked[c] for c in ("id", "text", "source", "domain")},
        "cluster": view.cluster[chosen.indices],
        "rank": np.arange(first_rank, first_rank + n),
        "probability": chosen.probabilities,
        "predicted_divergence": view.predicted_divergence[chosen.indices],
        "predicted_se": view.predicted_se[chosen.indices],
        "nearest_selected_distance": _nearest(view.embeddings[chosen.indices]),
        "est_seconds": picked["est_seconds"],
        "selector": [selector] * n,
        "reason": chosen.reasons,
        "round": np.full(n, round_),
    }
    return pa.table(columns).cast(SELECTION)


def _nearest(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row to the nearest other one; NaN for a single row."""
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan, dtype=np.float32)
    import faiss

    x = np.asarray(vectors, dtype=np.float32)
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    distance, _ = index.search(x, 2)
    return np.asarray(np.sqrt(np.maximum(distance[:, 1], 0)))


def selection_order(selection: Path, budget: float) -> Order:
    """What `synthesize` shall speak for a published selection."""
    reserve: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(selection / "reserve.parquet").to_pylist():
        reserve.setdefault(row["cluster"], []).append(row)
    return Order(pq.read_table(selection / "selection.parquet").to_pylist(), reserve, budget)
