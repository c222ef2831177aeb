"""Training and measuring as stages: prepared speech in, checkpoints and D, M, F on held-out texts out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.models import Models
from salad.seeds import derive
from salad.trainer.alignment import span_alignment
from salad.trainer.data import Utterance, load_examples, prepare
from salad.trainer.evaluate import Divergences, measure
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, load_student, new_student
from salad.trainer.train import Recipe, distil


def build_prepared(out: Path, config: Config, models: Models, speech: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Features and teacher targets of a speech folder, for training and scoring alike.

    A text whose sound cannot be decoded is left out and named in the manifest; SaladError when none can be.
    """
    undecodable: list[str] = []
    meta = _prepare(shards.read_utterances(speech, undecodable), out, config, models, progress)
    if undecodable and not meta["examples"]:
        raise SaladError(f"none of the {len(undecodable)} sounds in {speech}/data can be decoded", "write them as FLAC or WAV")
    return {**meta, "undecodable": undecodable}


def build_prepared_text(
    out: Path, config: Config, models: Models, rows: Iterable[dict[str, Any]], progress: Callable[[int], None]
) -> dict[str, Any]:
    """The same for texts that are only read."""
    utterances = (Utterance(r["id"], r["text"], [], [], 0) for r in rows)
    return _prepare(utterances, out, config, models, progress)


def _prepare(
    utterances: Iterable[Utterance], out: Path, config: Config, models: Models, progress: Callable[[int], None]
) -> dict[str, Any]:
    most, stack = config.interleave.max_positions, student_config(config, models).stack
    return prepare(utterances, out, models.encoder, models.teacher, models.tokenizer, most, stack, progress)


def student_config(config: Config, models: Models) -> StudentConfig:
    adapter = config.student.adapter
    return StudentConfig(
        lm=config.models.lm,
        lm_training=config.student.lm,
        encoder=config.models.encoder,
        encoder_width=models.encoder.width,
        encoder_frame_rate=models.encoder.frame_rate,
        **adapter.model_dump(),
    )


def untrained(config: Config, models: Models) -> Student:
    """The student before Stage I: the teacher with ears that have never heard."""
    return new_student(student_config(config, models), models.teacher, derive(config.seed, "student") % 2**31)


def build_checkpoint(
    out: Path,
    config: Config,
    models: Models,
    start: Path | None,
    sources: dict[str, list[Path]],
    stable_steps: int,
    scope: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Train from `start` (None: a new student) on prepared folders by kind; write stable/, final/, log.jsonl."""
    student = load_student(start, models.teacher) if start else untrained(config, models)
    train = config.train
    weights = train.mix.model_dump()
    if student.lm_is_frozen:
        weights["text"] = 0.0  # a frozen LM reads as its teacher does: no loss, no gradient
    steps = stable_steps + train.decay_steps
    seed = derive(config.seed, "train", scope)
    examples = {kind: [e for folder in folders for e in load_examples(folder)] for kind, folders in sources.items()}
    schedule = make_schedule(examples, weights, steps * train.accumulate, train.batch_size, student.config.stack, seed)
    recipe = Recipe(
        steps=steps,
        decay_steps=train.decay_steps,
        warmup_steps=train.warmup_steps,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        adapter_lr=train.adapter_lr,
        lm_lr=train.lm_lr,
        weight_decay=train.weight_decay,
        alpha=train.alpha,
        bf16=models.dtype == torch.bfloat16,
        save_steps=train.save_steps,
        seed=seed,
    )
    head = models.teacher.get_output_embeddings().weight
    log = distil(student, head, schedule, recipe, out, progress)
    return {
        "steps": steps,
        "kl_first": _mean_kl(log[:10]),
        "kl_last": _mean_kl(log[-10:]),
        "examples": {kind: len(rows) for kind, rows in examples.items()},
    }


def _mean_kl(rows: list[dict[str, float]]) -> float:
    return sum(row["kl"] for row in rows) / len(rows)


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
