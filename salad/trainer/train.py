"""Distillation on `transformers.Trainer`: warm-up, stable, linear decay (WSD), the true KL in the log.

L = α · KL(Q(·|w) || P(·|c)) + (1-α) · NLL, at positions whose next token is text (paper section 3).
The checkpoint `stable` is taken before the decay, for later stages to start from; `final` after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from salad.devices import pick_device
from salad.errors import SaladError
from salad.trainer.data import collate
from salad.trainer.decisions import Decisions, last_whole, remove_broken
from salad.trainer.loop import DistillationTrainer
from salad.trainer.memory import is_out_of_memory, out_of_memory
from salad.trainer.milestones import Milestones
from salad.trainer.rates import EarlyStop
from salad.trainer.schedule import Schedule
from salad.trainer.student import Student
from salad.trainer.targets import Loss

LOGGED = ("step", "kl", "loss", "grad_norm", "learning_rate", "positions", "D")


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training stage; steps are optimiser steps, batches those of all processes together."""

    steps: int
    decay_steps: int
    warmup_steps: int
    batch_size: int
    accumulate: int
    adapter_lr: float
    lm_lr: float
    weight_decay: float
    bf16: bool
    save_steps: int
    seed: int
    clip: float = 1.0  # gradient norm
    gradient_checkpointing: bool = False
    early_stop: EarlyStop | None = None  # of the stable steps, which are `steps` less the decay at most


def distil(
    student: Student,
    loss: Loss,
    schedule: Schedule,
    recipe: Recipe,
    out: Path,
    progress: Callable[[int], None] = lambda step: None,
    measure: Callable[[Student], float] | None = None,
) -> list[dict[str, float]]:
    """Train; write `out/stable`, `out/final` and `out/log.jsonl`; return the log (`LOGGED`, D where it was measured).

    measure: D on the probes, wanted by `recipe.early_stop`. Killed and called again with the same `out`, it goes
    on from the last whole checkpoint in `out/_trainer` to the same weights. SaladError for a loss or gradient
    that is not finite, and when memory runs out for the second time. Under `accelerate launch` every process
    calls it with the same arguments; the first one writes.
    """
    work = out / "_trainer"
    arguments = _arguments(recipe, work)
    if recipe.batch_size % arguments.world_size:
        raise SaladError(
            f"train.batch_size {recipe.batch_size} cannot be shared by {arguments.world_size} processes",
            "make it a multiple of num_processes in the file that train.launch names",
        )
    if arguments.should_save:
        remove_broken(work)
    if recipe.gradient_checkpointing:
        student.activation_checkpointing_enable()
    decisions = Decisions(decay_from=recipe.steps - recipe.decay_steps)
    trainer = DistillationTrainer(
        model=student,
        args=arguments,
        train_dataset=schedule,
        data_collator=lambda examples: {**collate(examples, student.config.stack), "examples": list(examples)},
        loss=loss,
        decisions=decisions,
        groups=lambda model: _groups(model, recipe),
        decay_steps=recipe.decay_steps,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Milestones(trainer, out, progress, recipe.early_stop, measure))
    if last := last_whole(work):
        decisions.read(last)
        arguments.max_steps = decisions.decay_from + recipe.decay_steps  # it may have been the last step
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except Exception as e:
        if type(e).__name__ == "UnpicklingError":  # torch loads plain values only
            advice = "delete it: training goes on from the one before, or from the start"
            raise SaladError(f"cannot go on from {last}: something in it would run code", advice) from e
        if not is_out_of_memory(e):
            raise
        raise out_of_memory(trainer.state.global_step + 1, "outside the passes over a batch") from e
    trainer.save_student(out / "final")
    log = [{k: float(row[k]) for k in LOGGED if k in row} for row in trainer.state.log_history if "kl" in row]
    if arguments.should_save:
        (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    return log


def _arguments(recipe: Recipe, work: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,  # of all devices: the schedule shares it out
        gradient_accumulation_steps=recipe.accumulate,
        warmup_steps=min(recipe.warmup_steps, recipe.steps - recipe.decay_steps),
        max_grad_norm=recipe.clip,
        bf16=recipe.bf16,
        use_cpu=pick_device().type == "cpu",
        ddp_find_unused_parameters=True,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,  # such a loss stops the run
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed % 2**31,
    )


def _groups(student: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """A rate for the adapter and one for the LM; vectors and scalars do not decay."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("adapter."), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.adapter_lr if of_adapter else recipe.lm_lr,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (of_adapter, decays), parameters in groups.items()
    ]
