"""Whether two runs chose alike: the texts that both chose, and how alike their seconds lie over clusters and domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from salad.pipeline.comparison.facts import Side


@dataclass(frozen=True)
class Chosen:
    """The selections of all rounds of a run."""

    side: Side
    ids: set[str]
    clusters: dict[str, float]  # estimated seconds
    domains: dict[str, float]
    clustering: str | None  # key of the clusters that they are of
    pool: str | None
    passages: int | None


@dataclass(frozen=True)
class Overlap:
    """Of two runs. by_chance: the Jaccard index that uniform draws of as many texts from the pool would have."""

    one: str
    other: str
    texts: tuple[int, int]
    common: int
    jaccard: float
    by_chance: float | None  # None: not the same pool
    clusters: float | None  # 1 − total variation of the seconds; None: not the same clusters
    domains: float


def chosen(side: Side) -> Chosen | None:
    """None before the first selection."""
    import pyarrow.parquet as pq

    ids: set[str] = set()
    by_cluster: dict[str, float] = {}
    by_domain: dict[str, float] = {}
    for r in range(side.config.rounds):
        name = f"round-{r:03d}/selection"
        if side.manifest(name) is None:
            break
        side.store.fetch(name)
        columns = ["id", "cluster", "domain", "est_seconds"]
        for row in pq.read_table(side.store.path(name) / "selection.parquet", columns=columns).to_pylist():
            ids.add(row["id"])
            seconds = float(row["est_seconds"] or 0.0)
            for shares, key in ((by_cluster, str(row["cluster"])), (by_domain, row["domain"] or "unknown")):
                shares[key] = shares.get(key, 0.0) + seconds
    if not ids:
        return None
    clusters, pool = side.manifest("clusters"), side.manifest("pool")
    passages = pool.meta.get("passages") if pool else None
    return Chosen(side, ids, by_cluster, by_domain, clusters.key if clusters else None, pool.key if pool else None, passages)


def overlaps(sides: Sequence[Side]) -> list[Overlap]:
    """Every pair of runs that have chosen something."""
    found = [one for side in sides if (one := chosen(side))]
    return [overlap(one, other) for one, other in combinations(found, 2)]


def overlap(one: Chosen, other: Chosen) -> Overlap:
    common = len(one.ids & other.ids)
    same_pool = one.pool is not None and one.pool == other.pool and one.passages
    expected = len(one.ids) * len(other.ids) / one.passages if same_pool and one.passages else None
    both = len(one.ids) + len(other.ids)
    alike = one.clustering is not None and one.clustering == other.clustering
    return Overlap(
        one=one.side.label,
        other=other.side.label,
        texts=(len(one.ids), len(other.ids)),
        common=common,
        jaccard=common / (both - common),
        by_chance=None if expected is None else expected / (both - expected),
        clusters=in_common(one.clusters, other.clusters) if alike else None,
        domains=in_common(one.domains, other.domains),
    )


def in_common(one: dict[str, float], other: dict[str, float]) -> float:
    """1 − total variation of two distributions that are given by amounts: 1 where they are the same, 0 where they are apart."""
    a, b = sum(one.values()), sum(other.values())
    return sum(min(one.get(key, 0.0) / a, other.get(key, 0.0) / b) for key in one.keys() | other.keys()) if a and b else 0.0
