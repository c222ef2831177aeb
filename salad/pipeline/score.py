"""From probe texts to clusters: D with its error, shrunk, and the target distribution (paper section 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad.config import Config
from salad.pipeline import shards
from salad.pipeline.cluster import load_assignment
from salad.pipeline.embed import load_embeddings
from salad.pipeline.models import Models
from salad.pipeline.pool import read_pool
from salad.pipeline.schema import CLUSTER_SCORES, PROBE_SCORES

NEIGHBOURS = 8


def build_scores(
    out: Path,
    config: Config,
    models: Models,
    pool: Path,
    embeddings: Path,
    clusters: Path,
    probe: Path,
    prepared: Path,
    checkpoint: Path,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write `probes.parquet`, `clusters.parquet` and `predicted.npy` ((N, 2): D and its standard error)."""
    from salad.trainer.data import load_examples
    from salad.trainer.evaluate import measure
    from salad.trainer.student import load_student

    examples = load_examples(prepared)
    student = load_student(checkpoint, models.teacher)
    found = measure(student, models.teacher, examples, progress=progress)
    facts = shards.read_columns(probe, ["id", "cluster", "cer", "seconds"])
    assert facts["id"].to_pylist() == [e.id for e in examples]
    cluster = facts["cluster"].to_numpy()
    cer = facts["cer"].to_numpy(zero_copy_only=False).astype(np.float64)
    rows = {
        "id": facts["id"],
        "cluster": cluster,
        "divergence": found.divergence,
        "misalignment": found.misalignment,
        "forgetting": found.forgetting,
        "n_positions": found.n_positions,
        "cer": facts["cer"],
        "seconds": facts["seconds"],
    }
    pq.write_table(pa.table(rows).cast(PROBE_SCORES), out / "probes.parquet")

    assignment = load_assignment(clusters)
    table = cluster_table(
        found.divergence, cluster, cer, np.bincount(assignment, minlength=config.cluster.k), config.select.gamma,
        config.speech.max_cer,
    )  # fmt: skip
    pq.write_table(pa.table(table).cast(CLUSTER_SCORES), out / "clusters.parquet")

    ids = read_pool(pool, ["id"])["id"].to_pylist()
    row_of = {text_id: i for i, text_id in enumerate(ids)}
    vectors = load_embeddings(embeddings)
    probe_rows = [row_of[i] for i in facts["id"].to_pylist()]
    prior = table["divergence_shrunk"][assignment]
    np.save(out / "predicted.npy", predict(vectors, probe_rows, found.divergence, prior))
    p = table["p_target"]
    return {
        "divergence": float(found.divergence.mean()),
        "misalignment": float(found.misalignment.mean()),
        "forgetting": float(found.forgetting.mean()),
        "effective_clusters": float(1 / (p**2).sum()),
        "flagged": int((table["flag"] != "").sum()),
    }


def cluster_table(
    divergence: np.ndarray, cluster: np.ndarray, cer: np.ndarray, n_pool: np.ndarray, gamma: float, max_cer: float
) -> dict[str, np.ndarray]:
    """One row a cluster: mean D, its standard error, the shrunk mean, P_web, P_target, flag.

    divergence, cluster, cer: (probes,), cer NaN where unknown. n_pool: (K,) texts a cluster. A cluster
    whose probes the ASR does not understand is flagged "cer" and leaves the target distribution: its D may
    be the voice's fault. One without a usable probe is flagged "no probe" and stands at the global mean.
    """
    k = len(n_pool)
    n = np.bincount(cluster, minlength=k)
    sums = np.bincount(cluster, weights=divergence, minlength=k)
    overall = float(divergence.mean())
    mean = np.where(n > 0, sums / np.maximum(n, 1), overall)
    squares = np.bincount(cluster, weights=(divergence - mean[cluster]) ** 2, minlength=k)
    with np.errstate(invalid="ignore", divide="ignore"):
        se = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1)), np.nan)
    shrunk = shrink(mean, squares, n)
    flag = np.full(k, "", dtype=object)
    for c in range(k):
        known = cer[(cluster == c) & np.isfinite(cer)]
        if n[c] == 0:
            flag[c] = "no probe"
        elif len(known) and known.mean() > max_cer:
            flag[c] = "cer"
    p_web = n_pool / n_pool.sum()
    return {
        "cluster": np.arange(k),
        "n_pool": n_pool,
        "n_probe": n,
        "divergence": mean,
        "divergence_se": se,
        "divergence_shrunk": shrunk,
        "p_web": p_web,
        "p_target": target_distribution(p_web, shrunk, gamma, flag != "cer"),
        "flag": flag,
    }


def shrink(mean: np.ndarray, squares: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Empirical-Bayes means (normal-normal, method of moments): each towards the grand mean by its own error.

    mean, squares (sum of squared deviations from the cluster's mean), n: (K,). The within-cluster variance is
    pooled, since a handful of probes says little of its own.
    """
    measured = n > 0
    if measured.sum() < 3 or (n - 1).clip(0).sum() == 0:
        return mean.copy()
    within = squares.sum() / (n - 1).clip(0).sum()
    error = within / np.maximum(n, 1)
    between = max(float(np.var(mean[measured], ddof=1) - error[measured].mean()), 0.0)
    centre = (
        float(np.average(mean[measured], weights=1 / (between + error[measured])))
        if between + within > 0
        else float(mean[measured].mean())
    )
    trust = np.where(measured & (between + error > 0), between / np.maximum(between + error, 1e-300), 0.0)
    return np.asarray(trust * mean + (1 - trust) * centre)


def target_distribution(p_web: np.ndarray, divergence: np.ndarray, gamma: float, allowed: np.ndarray | None = None) -> np.ndarray:
    """P_target(c) ∝ P_web(c) · D(c)^γ (paper section 4); γ = 0 gives P_web. In logs, so that γ may be large.

    Clusters not `allowed` get 0; if none is, all are.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(p_web) + (gamma * np.log(np.maximum(divergence, 1e-12)) if gamma else 0.0)
    if allowed is not None and allowed.any():
        logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def predict(vectors: np.ndarray, probe_rows: list[int], divergence: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Nearest-neighbour estimate of D for every text: (N, 2) float32, mean and standard error.

    The mean of the `NEIGHBOURS` nearest probes and, with the weight of as many, of the text's own cluster.
    """
    import faiss

    k = min(NEIGHBOURS, len(probe_rows))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.asarray(vectors[probe_rows], dtype=np.float32))
    out = np.zeros((len(vectors), 2), dtype=np.float32)
    for i in range(0, len(vectors), 65_536):
        _, near = index.search(np.asarray(vectors[i : i + 65_536], dtype=np.float32), k)
        of_near = divergence[near]
        out[i : i + 65_536, 0] = (of_near.mean(1) + prior[i : i + 65_536]) / 2
        out[i : i + 65_536, 1] = of_near.std(1, ddof=1 if k > 1 else 0) / np.sqrt(2 * k)
    return out
