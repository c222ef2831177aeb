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
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from salad.errors import SaladError
from salad.trainer.data import collate
from salad.trainer.schedule import Schedule
from salad.trainer.student import Student
from salad.trainer.targets import Loss

COMPLETE = "_complete"  # written into a Trainer checkpoint after everything else


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training stage; steps are optimiser steps."""

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


def distil(
    student: Student,
    loss: Loss,
    schedule: Schedule,
    recipe: Recipe,
    out: Path,
    progress: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    """Train; write `out/stable`, `out/final` and `out/log.jsonl`; return the log (step, kl, loss, …).

    Killed and called again with the same `out`, it goes on from the last whole checkpoint in `out/_trainer`
    to the same weights. A loss that is not finite stops it with SaladError.
    """
    work = out / "_trainer"
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.adapter_lr,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": recipe.decay_steps, "decay_type": "linear", "min_lr_ratio": 0.0},
        warmup_steps=min(recipe.warmup_steps, recipe.steps - recipe.decay_steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed % 2**31,
    )
    trainer = DistillationTrainer(
        model=student,
        args=arguments,
        train_dataset=schedule,
        data_collator=lambda examples: collate(examples, student.config.stack),
        optimizers=(_optimizer(student, recipe), None),
        callbacks=[_Checkpoints(out, recipe.steps - recipe.decay_steps, progress)],
        loss=loss,
    )
    trainer.remove_callback(_default_printer())
    last = _last_complete(work)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    student.save_pretrained(out / "final")
    log = [_log_row(row) for row in trainer.state.log_history if "kl" in row]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    return log


class DistillationTrainer(Trainer):
    """The Trainer with the distillation loss and the fixed order of the schedule."""

    def __init__(self, *args: Any, loss: Loss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss
        self.model_accepts_loss_kwargs = True  # so that a mean over an accumulated batch is one mean
        self._kl: list[float] = []

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> torch.Tensor:
        positions = num_items_in_batch if num_items_in_batch is not None else max(len(inputs["labels"]), 1)
        loss, of_positions = model(inputs, self.loss, positions)
        kl = of_positions.sum() / positions
        if not torch.isfinite(loss):
            raise SaladError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}",
                "lower train.adapter_lr (or lm_lr); the checkpoints before it are intact",
            )
        self._kl.append(float(kl.detach()))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._kl:
            logs["kl"] = sum(self._kl)  # the parts of one accumulated batch, each already over all its positions
            self._kl = []
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


class _Checkpoints(TrainerCallback):
    """Progress, the pre-decay checkpoint, and a mark in each Trainer checkpoint that is whole."""

    def __init__(self, out: Path, stable_at: int, progress: Callable[[int], None]) -> None:
        self.out, self.stable_at, self.progress = out, stable_at, progress

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.progress(state.global_step)
        if state.global_step == self.stable_at:
            model.save_pretrained(self.out / "stable")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def _optimizer(student: Student, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with a rate for the adapter and one for the LM; vectors and scalars do not decay."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("adapter."), parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": recipe.adapter_lr if of_adapter else recipe.lm_lr,
                "weight_decay": recipe.weight_decay if decays else 0.0,
            }
            for (of_adapter, decays), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def _last_complete(work: Path) -> Path | None:
    steps = [int(p.parent.name.removeprefix("checkpoint-")) for p in work.glob(f"checkpoint-*/{COMPLETE}")]
    return work / f"checkpoint-{max(steps)}" if steps else None


def _log_row(row: dict[str, Any]) -> dict[str, float]:
    return {k: float(row[k]) for k in ("step", "kl", "loss", "grad_norm", "learning_rate") if k in row}


def _default_printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback
