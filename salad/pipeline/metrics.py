"""Measuring a student as a stage: D, M and F on held-out texts, benchmarks, and how alike it hears and reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Config
from salad.errors import SaladError
from salad.intervals import mean_interval
from salad.pipeline import shards
from salad.pipeline.benchmarks import score
from salad.pipeline.distil import untrained
from salad.pipeline.models import Models
from salad.seeds import derive
from salad.trainer.alignment import span_alignment
from salad.trainer.data import Hearing, load_examples
from salad.trainer.evaluate import Divergences, measure
from salad.trainer.student import Student, load_student


def build_metrics(
    out: Path,
    config: Config,
    models: Models,
    checkpoint: Path | None,
    heldout: Path,
    prepared: Path,
    hearing: Hearing,
    progress: Callable[[int], None],
    benchmarks: Sequence[score.Spoken] = (),
) -> dict[str, Any]:
    """Held-out D, M, F of a checkpoint (None: the untrained student): `heldout.parquet`, `metrics.json`.

    A text without a finite D is named in the manifest and left out of every mean. Benchmarks: every item's answers in
    `benchmarks.parquet`. A student that hears also gets `alignment.parquet`, the CKA of what it hears with what it reads
    by layer.
    """
    student = load_student(checkpoint, models.teacher) if checkpoint else untrained(config, models)
    examples = load_examples(prepared)
    found = measure(student, models.teacher, examples, hearing=hearing, progress=progress)
    facts = shards.read_columns(heldout, ["id", "domain"])
    facts = facts.filter(pc.is_in(facts["id"], pa.array([e.id for e in examples])))
    assert facts["id"].to_pylist() == [e.id for e in examples]
    unmeasured = facts["id"].filter(~found.finite).to_pylist()
    if len(unmeasured) == len(examples):
        raise SaladError(
            f"none of the {len(examples)} held-out texts has a finite divergence", "look at the training log: it diverged"
        )
    table = pa.table(
        {
            "id": facts["id"],
            "domain": facts["domain"],
            "divergence": found.divergence,
            "misalignment": found.misalignment,
            "forgetting": found.forgetting,
            "n_positions": found.n_positions,
            "teacher_entropy": found.teacher_entropy,
            "teacher_nll": found.teacher_nll,
        }
    )
    pq.write_table(table, out / "heldout.parquet")
    domains, finite = np.array([d or "unknown" for d in facts["domain"].to_pylist()]), found.finite
    overall = _summary(found, finite, config, "all")
    by_domain = {str(d): _summary(found, finite & (domains == d), config, f"domain {d}") for d in np.unique(domains[finite])}
    asked = _ask(out, student, benchmarks, hearing, config, models)
    metrics = {"all": overall, "domains": by_domain, "benchmarks": asked}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    meta = {name: overall[name] for name in ("texts", "D", "D_se", "M", "F")}
    meta |= {**{f"gap_{name}": of_one["gap"] for name, of_one in asked.items()}, "unmeasured": unmeasured}
    if hearing != "speech":
        return meta
    cka = np.array(span_alignment(student, examples))
    layers = pa.array(range(len(cka)), pa.int32())
    pq.write_table(pa.table({"layer": layers, "cka": cka}), out / "alignment.parquet")
    return {**meta, "cka": None if np.isnan(cka).any() else float(cka.mean())}


def _ask(
    out: Path, student: Student, benchmarks: Sequence[score.Spoken], hearing: Hearing, config: Config, models: Models
) -> dict[str, Any]:
    """What the student makes of each benchmark, by name."""
    tables = [score.ask_student(student, bench, hearing, config, models) for bench in benchmarks]
    if tables:
        pq.write_table(pa.concat_tables(tables), out / "benchmarks.parquet")
    return {
        bench.benchmark.name: {**score.summary(table, config, f"p_{hearing}"), "left_out": len(score.left_out(bench))}
        for bench, table in zip(benchmarks, tables, strict=True)
    }


def _summary(found: Divergences, rows: np.ndarray, config: Config, scope: str) -> dict[str, float | None]:
    """Means over texts with 95 % intervals; the resamples of a scope are the same for every student."""
    n = int(rows.sum())
    values = {"D": found.divergence[rows], "M": found.misalignment[rows], "F": found.forgetting[rows]}
    seed = derive(config.seed, "bootstrap", scope)
    means: dict[str, float | None] = {}
    for name, of_texts in values.items():
        low, high = mean_interval(of_texts, config.evaluate.bootstrap, seed) or (None, None)
        means |= {name: float(of_texts.mean()), f"{name}_low": low, f"{name}_high": high}
    standard_error = float(values["D"].std(ddof=1)) / n**0.5 if n > 1 else None
    return {"texts": n, "D": means.pop("D"), "D_se": standard_error, **means}
