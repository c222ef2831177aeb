"""Texts set aside before anything is chosen: probes of each cluster, held-out texts, and Stage I's speech.

Probes tell where the student disagrees; held-out texts tell whether the rounds helped and are never used to
choose. Neither is ever trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from salad.pipeline.estimate import allocate, means
from salad.pipeline.flags import OUT
from salad.pipeline.ledger import Order
from salad.pipeline.pool import read_pool
from salad.pipeline.rows import among, take_rows
from salad.pipeline.score import chosen_gamma
from salad.pipeline.select import taken_ids
from salad.seeds import generator

NATURAL_SPARE = 1.2  # of natural.seconds is lined up, for what is turned down or shorter than expected
SPARE = 4  # texts that stand by for a cluster's probes that make no sound


def probe_order(config: Config, pool: Path, clusters: Path) -> Order:
    """`probe.per_cluster` uniform draws of each cluster, in cluster order; fewer where it is smaller."""
    assignment = load_assignment(clusters)
    rows: list[int] = []
    reserve: dict[int, list[int]] = {}
    for c in range(config.cluster.k):
        members = generator(config.seed, "probe", c).permutation(np.flatnonzero(assignment == c))
        n = min(config.probe.per_cluster, max(len(members) - 1, 0))  # leave something to select
        rows += members[:n].tolist()
        reserve[c] = members[n : n + SPARE].tolist()
    return _order(rows, reserve, pool, assignment, "uniform draw of its cluster")


def wave_order(
    config: Config, wave: int, pool: Path, clusters: Path, scores: Path, probes: Iterable[Path], taken: Iterable[Path]
) -> Order:
    """More probes where they lower the error of P_target most, for this wave's part of what is left of `probe.budget`.

    wave: from 1. scores: of all probes so far. Within a cluster they are uniform draws of the free texts.
    """
    budget = config.probe.budget or 0.0
    spent = sum(float(shards.read_columns(folder, ["seconds"])["seconds"].to_numpy().sum()) for folder in probes)
    left = (budget - spent) / (config.probe.waves - wave + 1)
    if wave == 1 and left <= 0:
        raise SaladError(
            f"probe.budget is {budget:.0f} s but {config.probe.per_cluster} probes a cluster already took {spent:.0f} s",
            "raise probe.budget, lower probe.per_cluster, or leave the budget out",
        )
    table = pq.read_table(scores / "clusters.parquet")
    column = {name: table[name].to_numpy() for name in ("divergence_shrunk", "log_sd", "text_log_sd", "p_web")}
    allowed = ~np.isin(table["flag"].to_numpy(zero_copy_only=False), OUT)
    gamma = chosen_gamma(config, column["p_web"], column["divergence_shrunk"], allowed)

    assignment, price = load_assignment(clusters), read_pool(pool, ["est_seconds"])["est_seconds"].to_numpy()
    free = _free(config, pool, taken, f"probe/{wave}")
    count = np.bincount(assignment[free], minlength=config.cluster.k)
    seconds = means(price[free], assignment[free], config.cluster.k, empty=0.0)
    available = np.where(allowed, np.maximum(count - 1, 0), 0)  # leave something to select
    extra = allocate(
        column["divergence_shrunk"], column["log_sd"], column["text_log_sd"] ** 2, column["p_web"], gamma,
        np.maximum(seconds, 1e-3), available, left,
    )  # fmt: skip
    rows: list[int] = []
    reserve: dict[int, list[int]] = {}
    for c in np.flatnonzero(extra).tolist():
        members = free[assignment[free] == c]  # in random order already
        rows += members[: extra[c]].tolist()
        reserve[c] = members[extra[c] : extra[c] + SPARE].tolist()
    rows = generator(config.seed, "probe-order", wave).permutation(np.array(rows, np.int64)).tolist()
    return _order(rows, reserve, pool, assignment, "drawn where P_target is least sure", left)


def heldout_order(config: Config, pool: Path, clusters: Path, taken: Iterable[Path]) -> Order:
    """`probe.heldout` uniform draws of the pool: a cluster counts as much as the pool has of it (P_web)."""
    free = _free(config, pool, taken, "heldout")
    if len(free) <= config.probe.heldout:
        raise SaladError(
            f"probe.heldout is {config.probe.heldout} but {len(free)} passages are left beside the probes",
            "lower probe.heldout or probe.per_cluster, or enlarge the pool",
        )
    chosen = free[: config.probe.heldout].tolist()
    return Order(_describe(chosen, pool, load_assignment(clusters), "heldout", "uniform draw of the pool"))


def natural_order(config: Config, pool: Path, clusters: Path, taken: Iterable[Path]) -> Order:
    """Random texts of `natural.domains` until `natural.seconds`: they stand in for natural speech."""
    facts = read_pool(pool, ["domain", "est_seconds"])
    known = sorted(filter(None, facts["domain"].unique().to_pylist()))
    if missing := [d for d in config.natural.domains if d not in known]:
        raise SaladError(f"natural.domains: the pool has no domain '{missing[0]}'", f"it has: {', '.join(known) or 'none'}")
    inside = pc.is_in(facts["domain"], pa.array(config.natural.domains)).to_numpy(zero_copy_only=False)
    free = _free(config, pool, taken, "natural")
    chosen = free[inside[free]]
    reached = np.cumsum(facts["est_seconds"].to_numpy()[chosen], dtype=np.float64)
    supply = float(reached[-1]) if len(reached) else 0.0
    if supply < config.natural.seconds:
        named = ", ".join(config.natural.domains)
        raise SaladError(
            f"natural.seconds is {config.natural.seconds:.0f} but the texts of {named} make {supply:.0f} s",
            "lower natural.seconds or add domains",
        )
    enough = int(np.searchsorted(reached, NATURAL_SPARE * config.natural.seconds)) + 1
    rows = _describe(chosen[:enough].tolist(), pool, load_assignment(clusters), "natural", "stands in for natural speech")
    return Order(rows, budget=config.natural.seconds)


def text_only_rows(config: Config, pool: Path, clusters: Path, taken: Iterable[Path], n: int) -> list[dict[str, Any]]:
    """`n` random free texts, to be read and never heard: they hold forgetting down."""
    free = _free(config, pool, taken, "text-only")[:n].tolist()
    return _describe(free, pool, load_assignment(clusters), "text-only", "read only")


def free_order(config: Config, pool: Path, clusters: Path, taken: Iterable[Path], n: int, purpose: str) -> Order:
    """Up to `n` uniform draws of the texts that nobody has; another `purpose`, another draw."""
    free = _free(config, pool, taken, purpose)[:n].tolist()
    return Order(_describe(free, pool, load_assignment(clusters), purpose, "uniform draw of the pool"))


def _free(config: Config, pool: Path, taken: Iterable[Path], purpose: str) -> np.ndarray:
    """Rows of the pool that nobody has, in random order."""
    return generator(config.seed, purpose).permutation(np.flatnonzero(~among(pool, taken_ids(taken))))


def _order(
    rows: list[int], reserve: dict[int, list[int]], pool: Path, assignment: np.ndarray, reason: str, budget: float | None = None
) -> Order:
    """Probes to speak, with those that stand by for them."""
    wanted = [*rows, *(i for spare in reserve.values() for i in spare)]
    described = dict(zip(wanted, _describe(wanted, pool, assignment, "probe", reason), strict=True))
    return Order([described[i] for i in rows], {c: [described[i] for i in spare] for c, spare in reserve.items()}, budget)


def _describe(rows: list[int], pool: Path, assignment: np.ndarray, selector: str, reason: str) -> list[dict[str, Any]]:
    """Rows of the selection's schema for texts that no strategy chose."""
    texts = take_rows(pool, np.array(rows, np.int64), ["id", "text", "source", "domain", "est_seconds"]).to_pylist()
    return [
        {
            **text,
            "cluster": int(assignment[i]),
            "rank": rank,
            "selector": selector,
            "reason": reason,
        }
        for rank, (i, text) in enumerate(zip(rows, texts, strict=True))
    ]
