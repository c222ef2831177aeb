"""From probe texts to clusters and to every text: D with its error, flags, and the target distribution.

The formulas are in `estimate.py` (clusters), `surrogate.py` (texts) and `flags.py` (faults of the voice);
docs/signal.md explains them. This module measures, joins and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards, surrogate
from salad.pipeline.cluster import load_assignment
from salad.pipeline.compute.parts import made_parts
from salad.pipeline.embed import load_embeddings
from salad.pipeline.estimate import (
    Estimates,
    cluster_estimates,
    effective_number,
    expected_error,
    gamma_for,
    means,
    signal_of,
    target_distribution,
)
from salad.pipeline.flags import OUT, cluster_cer, flag_clusters
from salad.pipeline.models import Models
from salad.pipeline.pool import read_pool
from salad.pipeline.rows import rows_of
from salad.pipeline.schema import CLUSTER_SCORES, PROBE_SCORES
from salad.pipeline.shards import turned_down

if TYPE_CHECKING:
    from salad.trainer.evaluate import Divergences

PART = 64  # probes measured together; the batches inside depend on them alone


@dataclass(frozen=True)
class ProbeSet:
    """Probe texts that were spoken together."""

    speech: Path
    prepared: Path


def build_scores(
    out: Path,
    config: Config,
    models: Models,
    pool: Path,
    embeddings: Path,
    clusters: Path,
    probes: Sequence[ProbeSet],
    checkpoint: Path,
    known: Path | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write `probes.parquet`, `clusters.parquet` and `predicted.npy`.

    predicted.npy: (N, 3) of each text of the pool its expected D, the standard error of that, and the D to expect were
    as much of it heard and read as of the average text: what of D is its content's and not its span plan's.

    known: scores of some of the same probes by the same checkpoint, which are not measured again. A probe
    without a finite D is quarantined: named with its reason, and counted nowhere. Those of clusters that are flagged
    for their sound say nothing of other clusters.
    """
    table = _measured(out, probes, checkpoint, models, known, progress)
    pq.write_table(table, out / "probes.parquet")
    usable = table.filter(pc.is_null(table["quarantined"]))
    if usable.num_rows == 0:
        reasons = sorted(set(table["quarantined"].to_pylist())) or ["no probe made a sound that could be used"]
        raise SaladError(f"none of the {table.num_rows} probes can be used: {', '.join(reasons)}", "see probes.parquet")
    texts = _features(pool, embeddings, clusters)
    flag = _flags(usable, [p.speech for p in probes], config)
    allowed = ~np.isin(flag, OUT)
    trusted = usable.filter(allowed[usable["cluster"].to_numpy()])
    trusted = trusted if trusted.num_rows else usable
    rows = rows_of(pool, trusted["id"])
    signal = signal_of(trusted, config.score.signal)
    found, predicted, fitted = surrogate.estimate(texts, rows, signal, config.score.estimate, config.cluster.k, config.seed)
    content = surrogate.at_average_layout(fitted, texts, predicted[:, 0])
    np.save(out / "predicted.npy", np.column_stack([predicted, content]))

    n_pool = np.bincount(texts.cluster, minlength=config.cluster.k)
    p_web = n_pool / n_pool.sum()
    gamma = chosen_gamma(config, p_web, found.shrunk, allowed)
    p_target = target_distribution(p_web, found.shrunk, gamma, allowed)
    shares = {"n_pool": n_pool, "p_web": p_web, "p_target": p_target, "flag": flag}
    columns = _cluster_columns(usable, found, config) | shares
    pq.write_table(pa.table(columns).select(CLUSTER_SCORES.names).cast(CLUSTER_SCORES), out / "clusters.parquet")
    measured = {name: float(usable[name].to_numpy().mean()) for name in ("divergence", "misalignment", "forgetting")}
    return {
        "probes": usable.num_rows,
        "seconds": float(table["seconds"].to_numpy().sum()),
        "divergence": measured["divergence"],
        "effective_clusters": effective_number(p_target),
        "p_target_error": expected_error(p_web, found.shrunk, found.shrunk_log_sd, gamma, allowed, config.seed),
        "flagged": int((~allowed).sum()),
        "quarantined": table.num_rows - usable.num_rows,
        **measured,
        "signal": config.score.signal,
        "estimate": config.score.estimate,
        "gamma": gamma,
        "surrogate": {
            "scales": dict(zip(("linear", "smooth", "reach", "cluster", "noise"), fitted.scales.tolist(), strict=True)),
            "explained": fitted.explained,
        },
    }


def chosen_gamma(config: Config, p_web: np.ndarray, divergence: np.ndarray, allowed: np.ndarray) -> float:
    """`select.gamma`, or what makes P_target amount to `select.target_ess` clusters."""
    wanted = config.select.target_ess
    return config.select.gamma if wanted is None else gamma_for(p_web, divergence, wanted, allowed)


def _measured(
    out: Path,
    probes: Sequence[ProbeSet],
    checkpoint: Path,
    models: Models,
    known: Path | None,
    progress: Callable[[int], None],
) -> pa.Table:
    """Rows of PROBE_SCORES for every probe, in the order of the sets."""
    from salad.trainer.data import load_examples
    from salad.trainer.evaluate import Divergences

    before = pq.read_table(known / "probes.parquet") if known else PROBE_SCORES.empty_table()
    seen = set(before["id"].to_pylist())
    examples = [e for p in probes for e in load_examples(p.prepared) if e.id not in seen]
    columns = ["id", "cluster", "cer", "words_per_second", "seconds"]
    facts = pa.concat_tables([shards.read_columns(p.speech, columns) for p in probes])
    facts = facts.filter(pc.invert(pc.is_in(facts["id"], before["id"].combine_chunks())))
    if facts.num_rows == 0:
        return before
    ids = [e.id for e in sorted(examples, key=lambda e: len(e.tokens))]  # so that a batch has little padding
    folders = [str(p.prepared.resolve()) for p in probes]
    parts = [(str(checkpoint.resolve()), folders, ids[i : i + PART]) for i in range(0, len(ids), PART)]
    found = [np.empty((6, 0))]

    def tick() -> None:
        progress(sum(values.shape[1] for values in found))

    with models.compute as compute:
        for values in made_parts(compute, measure_part, parts, out / "_parts", models.config.compute.score, tick):
            found.append(values)
            tick()
    models.forget("student", "examples")
    return pa.concat_tables([before, probe_rows(facts, ids, Divergences(*np.concatenate(found, axis=1)))])


def measure_part(models: Models, checkpoint: str, folders: list[str], ids: list[str]) -> np.ndarray:
    """The task: the columns of `Divergences` for some prepared texts, (6, n)."""
    from salad.trainer.data import load_examples
    from salad.trainer.evaluate import measure
    from salad.trainer.student import load_student

    def stamp(file: Path) -> int:
        return file.stat().st_mtime_ns

    saved = stamp(Path(checkpoint) / "config.json")
    student = models.kept("student", (checkpoint, saved), lambda: load_student(Path(checkpoint), models.teacher))
    made = tuple(stamp(Path(f) / "examples.parquet") for f in folders)
    known = models.kept("examples", (*folders, made), lambda: {e.id: e for f in folders for e in load_examples(Path(f))})
    found = measure(student, models.teacher, [known[i] for i in ids], progress=lambda n: models.go_on())
    return np.array(astuple(found))


def probe_rows(facts: pa.Table, ids: list[str], found: Divergences) -> pa.Table:
    """PROBE_SCORES of spoken probes: `facts` of their sound, `found` for the `ids` that could be prepared."""
    at = pc.index_in(facts["id"], pa.array(ids, pa.string()))
    rows = at.fill_null(0).to_numpy()
    missing = at.is_null().to_numpy(zero_copy_only=False)

    def of_text(values: np.ndarray) -> np.ndarray:
        return np.where(missing, np.nan, values[rows] if len(values) else np.nan)

    positions = np.nan_to_num(of_text(found.n_positions)).astype(np.int64)
    reasons = np.full(len(rows), None, dtype=object)
    reasons[of_text(found.finite) != 1] = "divergence is not finite"
    reasons[positions == 0] = "no text position"
    reasons[missing] = "sound cannot be decoded"
    return pa.table(
        {
            **{name: facts[name] for name in ("id", "cluster")},
            **{name: of_text(getattr(found, name)) for name in ("divergence", "misalignment", "forgetting")},
            "n_positions": positions,
            "teacher_entropy": of_text(found.teacher_entropy),
            "teacher_nll": of_text(found.teacher_nll),
            **{name: facts[name] for name in ("cer", "words_per_second", "seconds")},
            "quarantined": pa.array(reasons, pa.string()),
        }
    ).cast(PROBE_SCORES)


def _features(pool: Path, embeddings: Path, clusters: Path) -> surrogate.Features:
    words = read_pool(pool, ["n_words", "n_heard"])
    layout = surrogate.layout_features(words["n_words"].to_numpy(), words["n_heard"].to_numpy())
    return surrogate.Features(layout, load_embeddings(embeddings), load_assignment(clusters))


def _flags(table: pa.Table, speech: list[Path], config: Config) -> np.ndarray:
    cer = table["cer"].to_numpy(zero_copy_only=False).astype(np.float64)
    tried = {c for folder in speech for c in turned_down(folder, ["cluster"])["cluster"].to_pylist()}
    return flag_clusters(cer, table["cluster"].to_numpy(), config.cluster.k, config.score.flags, tried)


def _cluster_columns(table: pa.Table, found: Estimates, config: Config) -> dict[str, Any]:
    """CLUSTER_SCORES of what was measured (`table`, every probe that counts) and of what was estimated from it."""
    k, cluster = config.cluster.k, table["cluster"].to_numpy()

    def column(name: str) -> np.ndarray:
        return np.asarray(table[name].to_numpy(zero_copy_only=False).astype(np.float64))

    own = cluster_estimates(column("divergence"), cluster, k, config.seed)

    columns = {
        "cluster": np.arange(k),
        "n_probe": own.n,
        "divergence": own.mean,
        "divergence_se": own.se,
        "divergence_low": own.low,
        "divergence_high": own.high,
        "divergence_shrunk": found.shrunk,
        "log_sd": found.shrunk_log_sd,
        "text_log_sd": np.sqrt(found.text_log_var),
        "cer": cluster_cer(column("cer"), cluster, k),
        **{name: means(column(name), cluster, k) for name in ("forgetting", "teacher_entropy", "words_per_second")},
    }
    nullable = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}  # NaN: null
    return {**nullable, "signal": [config.score.signal] * k}
