"""Choose what to speak next: one call of the strategy, checked, written so that anyone can read why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from salad.pipeline.estimate import log_change, signal_of
from salad.pipeline.ledger import Order
from salad.pipeline.pool import read_pool
from salad.pipeline.rows import PoolIds, among, take_rows
from salad.pipeline.schema import SELECTION
from salad.pipeline.shards import turned_down
from salad.seeds import generator
from salad.selectors.base import Budget, ClusterTable, PastRound, PoolView, Selection, make_selector
from salad.selectors.choose import RepeatCap, choose, near_any

RESERVE = 0.5  # reserve texts per chosen text of a cluster, at least RESERVE_LEAST
RESERVE_LEAST = 4


@dataclass(frozen=True)
class Inputs:
    """Published folders that a round's selection reads."""

    pool: Path
    embeddings: Path
    clusters: Path
    scores: list[Path]  # of every round so far, this one last
    aside: list[Path]  # speech that measures: probes, held-out texts
    trained: list[Path]  # speech that teaches: natural speech, then every earlier round
    evaluation: Path | None = None  # embeddings of the user's test sets
    target: Path | None = None  # embeddings of texts to become good at


def build_selection(out: Path, config: Config, round_: int, inputs: Inputs, progress: Callable[[int], None]) -> dict[str, Any]:
    """Write `selection.parquet` (in rank order) and `reserve.parquet` (replacements, by cluster)."""
    view = pool_view(inputs, config)
    budget = Budget(config.select.budget)
    supply = float(view.est_seconds[view.free].sum())
    if supply < budget.seconds:
        raise SaladError(
            f"select.budget is {budget.seconds:.0f} s but the texts left in the pool make {supply:.0f} s of speech",
            "lower the budget, enlarge the pool, or raise select.near",
        )
    selector = make_selector(config.select.selector, config.select.options)
    rng = generator(config.seed, "select", round_, selector.name)
    chosen = choose(selector, view, budget, rng, config.select.near, config.select.repeats)
    if len(chosen.indices) == 0:
        raise SaladError(
            f"selector '{selector.name}' chose nothing within {budget.seconds:.0f} s",
            "raise select.budget above the shortest text",
        )
    rng = generator(config.seed, "reserve", round_, selector.name)
    reserve = reserve_for(chosen, view, rng, config.select.near, config.select.repeats)
    n = len(chosen.indices)
    pq.write_table(_rows(chosen, view, inputs.pool, selector.name, round_, 0), out / "selection.parquet", compression="zstd")
    pq.write_table(_rows(reserve, view, inputs.pool, selector.name, round_, n), out / "reserve.parquet", compression="zstd")
    progress(n)
    return {
        "selector": selector.name,
        "texts": n,
        "est_seconds": float(view.est_seconds[chosen.indices].sum()),
        "clusters": len(np.unique(view.cluster[chosen.indices])),
        "free": len(view.free),
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


def pool_view(inputs: Inputs, config: Config) -> PoolView:
    """The selector's view, assembled from the artefacts.

    Taken is what was spoken or tried, and what is near a text that measures (`select.near`): a probe, a held-out text, or one
    of the user's test sets.
    """
    vectors = load_embeddings(inputs.embeddings)
    table = pq.read_table(inputs.scores[-1] / "clusters.parquet")
    predicted = np.load(inputs.scores[-1] / "predicted.npy", mmap_mode="r", allow_pickle=False)
    aside, trained = (among(inputs.pool, taken_ids(folders)) for folders in (inputs.aside, inputs.trained))
    taken = aside | trained
    if near := config.select.near:
        tests = [np.asarray(vectors[np.flatnonzero(aside)])]
        if inputs.evaluation:
            tests.append(np.asarray(load_embeddings(inputs.evaluation)))
        taken |= near_any(vectors, np.concatenate(tests), near)
    return PoolView(
        ids=PoolIds(inputs.pool, len(vectors)),
        embeddings=vectors,
        cluster=load_assignment(inputs.clusters),
        predicted_divergence=predicted[:, 0],
        predicted_se=predicted[:, 1],
        content_divergence=predicted[:, 2],
        est_seconds=read_pool(inputs.pool, ["est_seconds"])["est_seconds"].to_numpy(),
        taken=taken,
        trained=trained,
        clusters=ClusterTable(
            p_web=table["p_web"].to_numpy(),
            p_target=table["p_target"].to_numpy(),
            divergence=table["divergence_shrunk"].to_numpy(),
            divergence_se=table["divergence_shrunk"].to_numpy() * table["log_sd"].to_numpy(),
            centroids=np.load(inputs.clusters / "centroids.npy", allow_pickle=False),
        ),
        history=past_rounds(inputs.scores, inputs.trained, config.score.signal, table.num_rows),
        target=np.asarray(load_embeddings(inputs.target), np.float32) if inputs.target else None,
    )


def past_rounds(scores: list[Path], spoken: list[Path], signal: str, k: int) -> list[PastRound]:
    """What each finished round fed to the k clusters, and what became of log D there, on the same probes.

    scores: of rounds 0..r; spoken: speech folders, those of rounds 0..r-1 last.
    """
    past = []
    fed = spoken[len(spoken) - (len(scores) - 1) :]
    for before, after, folder in zip(scores[:-1], scores[1:], fed, strict=True):
        speech = shards.read_columns(folder, ["cluster", "seconds"])
        seconds = np.bincount(speech["cluster"].to_numpy(), weights=speech["seconds"].to_numpy(), minlength=k)
        first, then = (pq.read_table(f / "probes.parquet").filter(pc.field("quarantined").is_null()) for f in (before, after))
        at = pc.index_in(then["id"], first["id"])
        first, then = first.take(at.drop_null()), then.filter(at.is_valid())
        change, error = log_change(signal_of(first, signal), signal_of(then, signal), then["cluster"].to_numpy(), k)
        past.append(PastRound(seconds, change, error))
    return past


def reserve_for(
    chosen: Selection, view: PoolView, rng: np.random.Generator, near: float | None = None, repeats: int = 1
) -> Selection:
    """Free texts of the same clusters, drawn uniformly, for what quality control will turn down.

    near, repeats: as in `choose`; they are near neither what is chosen nor each other.
    """
    free = ~view.taken
    free[chosen.indices] = False
    cap = None if near is None else RepeatCap(view, near, repeats)
    if cap:
        cap.add(chosen.indices)
    rows: list[np.ndarray] = []
    reasons: list[str] = []
    clusters, counts = np.unique(view.cluster[chosen.indices], return_counts=True)
    for cluster, count in zip(clusters.tolist(), counts.tolist(), strict=True):
        members = rng.permutation(np.flatnonzero(free & (view.cluster == cluster)))
        n = max(RESERVE_LEAST, int(np.ceil(RESERVE * count)))
        members = members[: 2 * n]  # a few more than wanted, for those that the cap turns away
        rows.append((members[cap.keep(members)] if cap else members)[:n])
        reasons += [f"reserve of cluster {cluster}"] * len(rows[-1])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return Selection(indices, np.full(len(indices), np.nan), reasons)


def _rows(chosen: Selection, view: PoolView, pool: Path, selector: str, round_: int, first_rank: int) -> pa.Table:
    picked = take_rows(pool, chosen.indices, ["id", "text", "source", "domain", "est_seconds"])
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
