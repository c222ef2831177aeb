"""Measuring a student as a stage: D, M and F on held-out texts, and how alike it hears and reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.distil import untrained
from salad.pipeline.models import Models
from salad.trainer.alignment import span_alignment
from salad.trainer.data import load_examples
from salad.trainer.evaluate import Divergences, measure
from salad.trainer.student import load_student


def build_metrics(
    out: Path,
    config: Config,
    models: Models,
    checkpoint: Path | None,
    heldout: Path,
    prepared: Path,
    hearing: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Held-out D, M, F of a checkpoint (None: the untrained student): `heldout.parquet`, `metrics.json`.

    A text without a finite D is named in the manifest and left out of every mean. A student that hears also gets
    `alignment.parquet`, the CKA of what it hears with what it reads by layer.
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
    overall = _summary(found, finite)
    by_domain = {str(d): _summary(found, finite & (domains == d)) for d in np.unique(domains[finite])}
    (out / "metrics.json").write_text(json.dumps({"all": overall, "domains": by_domain}, indent=1), encoding="utf-8")
    meta = {**overall, "unmeasured": unmeasured}
    if hearing != "speech":
        return meta
    cka = np.array(span_alignment(student, examples))
    layers = pa.array(range(len(cka)), pa.int32())
    pq.write_table(pa.table({"layer": layers, "cka": cka}), out / "alignment.parquet")
    return {**meta, "cka": None if np.isnan(cka).any() else float(cka.mean())}


def _summary(found: Divergences, rows: np.ndarray) -> dict[str, float | None]:
    n = int(rows.sum())
    return {
        "texts": n,
        "D": float(found.divergence[rows].mean()),
        "D_se": float(found.divergence[rows].std(ddof=1)) / n**0.5 if n > 1 else None,
        "M": float(found.misalignment[rows].mean()),
        "F": float(found.forgetting[rows].mean()),
    }
