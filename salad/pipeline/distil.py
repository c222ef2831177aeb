"""Training as stages: speech shards in, features and teacher targets, and from them checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.models import Models
from salad.seeds import derive
from salad.trainer.data import Utterance, load_examples, prepare
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, load_student, new_student
from salad.trainer.targets import FromStates
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
        bf16=models.dtype == torch.bfloat16,
        save_steps=train.save_steps,
        seed=seed,
    )
    loss = FromStates(models.teacher.get_output_embeddings().weight, train.alpha)
    log = distil(student, loss, schedule, recipe, out, progress)
    return {
        "steps": steps,
        "kl_first": _mean_kl(log[:10]),
        "kl_last": _mean_kl(log[-10:]),
        "examples": {kind: len(rows) for kind, rows in examples.items()},
    }


def _mean_kl(rows: list[dict[str, float]]) -> float:
    return sum(row["kl"] for row in rows) / len(rows)
