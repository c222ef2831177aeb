"""What happens between steps: progress, D on the probes, the pre-decay checkpoint, the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from salad.errors import SaladError
from salad.trainer.loop import DistillationTrainer
from salad.trainer.rates import EarlyStop
from salad.trainer.sharding import whole
from salad.trainer.student import Student


class Milestones(TrainerCallback):
    def __init__(
        self,
        trainer: DistillationTrainer,
        out: Path,
        progress: Callable[[int], None],
        early_stop: EarlyStop | None,
        measure: Callable[[Student], float] | None,
    ) -> None:
        self.trainer, self.out, self.progress = trainer, out, progress
        self.early_stop, self.measure = early_stop, measure

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decisions, step = self.trainer.decisions, state.global_step
        if args.process_index == 0:
            self.progress(step)
        stop = self.early_stop
        if stop and step < decisions.decay_from and stop.is_due(step, args.warmup_steps):
            decisions.measured.append((step, self._divergence(step)))
            if stop.has_stalled([value for _, value in decisions.measured]):
                decisions.decay_from = step  # whose rate is the full one either way
        if step == decisions.decay_from:
            self.trainer.save_student(self.out / "stable")
        if step == decisions.decay_from + self.trainer.decay_steps:
            control.should_training_stop = True

    def _divergence(self, step: int) -> float:
        """D as the first process measures it; all take part, for a sharded student is whole in none of them."""
        assert self.measure is not None, "early_stop needs something to measure"
        accelerator = self.trainer.accelerator
        student = accelerator.unwrap_model(self.trainer.model)
        with whole(student):
            value = self.measure(student)
        if accelerator.num_processes > 1:
            shared = torch.tensor([value], dtype=torch.float64, device=accelerator.device)
            torch.distributed.broadcast(shared, src=0)
            value = float(shared)
        if not math.isfinite(value):
            raise SaladError(f"the divergence on the probes became {value} at step {step}", "lower train.adapter_lr (or lm_lr)")
        return value
