"""Training as stages: speech shards in, features and teacher targets, and from them checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.launch import train_in_processes
from salad.pipeline.models import Models
from salad.seeds import derive
from salad.trainer.data import TargetKind, Utterance, load_examples, prepare
from salad.trainer.evaluate import measure
from salad.trainer.rates import EarlyStop
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, load_student, new_student
from salad.trainer.targets import PREPARED, make_loss
from salad.trainer.train import Recipe, distil


def build_prepared(
    out: Path, config: Config, models: Models, speech: Path, progress: Callable[[int], None], targets: TargetKind = "states"
) -> dict[str, Any]:
    """Features and teacher targets of a speech folder: states for what is measured on, else see `training_targets`.

    A text whose sound cannot be decoded is left out and named in the manifest; SaladError when none can be.
    """
    undecodable: list[str] = []
    meta = _prepare(shards.read_utterances(speech, undecodable), out, config, models, progress, targets)
    if undecodable and not meta["examples"]:
        raise SaladError(f"none of the {len(undecodable)} sounds in {speech}/data can be decoded", "write them as FLAC or WAV")
    return {**meta, "undecodable": undecodable}


def build_prepared_text(
    out: Path, config: Config, models: Models, rows: Iterable[dict[str, Any]], progress: Callable[[int], None]
) -> dict[str, Any]:
    """The same for texts that are only read, and trained on."""
    utterances = (Utterance(r["id"], r["text"], [], [], 0) for r in rows)
    return _prepare(utterances, out, config, models, progress, training_targets(config))


def _prepare(
    utterances: Iterable[Utterance],
    out: Path,
    config: Config,
    models: Models,
    progress: Callable[[int], None],
    targets: TargetKind,
) -> dict[str, Any]:
    most, stack, train = config.interleave.max_positions, student_config(config, models).stack, config.train
    return prepare(
        utterances, out, models.encoder, models.teacher, models.tokenizer, most, stack, progress,
        targets=targets, k=train.top_k, temperature=train.temperature, seed=config.seed,
    )  # fmt: skip


def training_targets(config: Config) -> TargetKind:
    """What `train.teacher` wants kept of the teacher with every text that is trained on."""
    return PREPARED[config.train.teacher]


def student_config(config: Config, models: Models) -> StudentConfig:
    adapter = config.student.adapter
    return StudentConfig(
        lm=config.models.lm,
        lm_training=config.student.lm,
        lora=config.student.lora.model_dump() if config.student.lm == "lora" else None,
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
    probes: Path | None = None,
) -> dict[str, Any]:
    """Train from `start` (None: a new student) on prepared folders by kind; write stable/, final/, log.jsonl.

    probes: a prepared folder, for `train.early_stop` alone: held-out texts never choose.
    """
    train = config.train
    if train.launch:
        return train_in_processes(out, config, start, sources, stable_steps, scope, progress, probes)
    student = _starting(start, config, models)
    if student.config.lm_training == "full" and train.teacher == "cached" and not train.early_stop:
        models.forget_teacher()
    weights = train.mix.model_dump()
    if student.lm_is_frozen:
        weights["text"] = 0.0  # a frozen LM reads as its teacher does: no loss, no gradient
    steps = stable_steps + train.decay_steps
    seed = derive(config.seed, "train", scope)
    examples = {kind: [e for folder in folders for e in load_examples(folder)] for kind, folders in sources.items()}
    schedule = make_schedule(examples, weights, steps * train.accumulate, train.batch_size, student.config.stack, seed)
    recipe = make_recipe(config, models, steps, seed)
    loss = make_loss(train.teacher, None if train.teacher == "cached" else models.teacher, train.alpha, train.temperature)
    log = distil(student, loss, schedule, recipe, out, progress, _divergence(models, probes) if train.early_stop else None)
    return {
        "steps": len(log),
        "stable_steps": len(log) - train.decay_steps,
        "D": {str(int(row["step"])): row["D"] for row in log if "D" in row},
        "kl_first": _mean_kl(log[:10]),
        "kl_last": _mean_kl(log[-10:]),
        "examples": {kind: len(rows) for kind, rows in examples.items()},
    }


def _starting(start: Path | None, config: Config, models: Models) -> Student:
    """The student of a checkpoint, or a new one; the teacher is loaded only where it is a part of it."""
    if start is None:
        return untrained(config, models)
    return load_student(start, None if config.student.lm == "full" else models.teacher)


def make_recipe(config: Config, models: Models, steps: int, seed: int) -> Recipe:
    """The numbers of `train` for a stage of so many steps."""
    train = config.train
    return Recipe(
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
        clip=train.clip,
        gradient_checkpointing=train.gradient_checkpointing,
        early_stop=EarlyStop(**train.early_stop.model_dump()) if train.early_stop else None,
    )


def _divergence(models: Models, probes: Path | None) -> Callable[[Student], float]:
    """D of a student, the mean over the probe texts."""
    if probes is None:
        raise ValueError("train.early_stop needs probes")
    texts = load_examples(probes)

    def mean(student: Student) -> float:
        found = measure(student, models.teacher, texts)
        return float(found.divergence[found.n_positions > 0].mean())

    return mean


def _mean_kl(rows: list[dict[str, float]]) -> float:
    return sum(row["kl"] for row in rows) / len(rows)
