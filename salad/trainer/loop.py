"""`transformers.Trainer` with the distillation loss: one mean over all positions of a step, whoever computes them.

The loss of a step is a mean over the text positions of all its micro-batches in all processes, so neither
accumulation, nor the number of processes, nor halving a batch for want of memory changes it.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from salad.errors import SaladError
from salad.trainer.decisions import Decisions, last_whole
from salad.trainer.memory import is_out_of_memory, out_of_memory
from salad.trainer.rates import rate
from salad.trainer.sharding import Names, make_shardable
from salad.trainer.targets import Loss

notices = logging.getLogger(__name__)
NAMED = 16  # samples that an error lists
KEPT = 2  # checkpoints to resume from


class Part(NamedTuple):
    """What came of a micro-batch, or of half of one."""

    ids: list[str]
    owner: torch.Tensor  # (m,), the sample of each position
    loss: torch.Tensor
    kl: torch.Tensor  # (m,)

    def suspects(self) -> list[str]:
        """Samples with a KL that is no number; all of them where only the loss is none."""
        bad = sorted(set(self.owner[~torch.isfinite(self.kl)].tolist()))
        return [self.ids[i] for i in bad] or ([] if torch.isfinite(self.loss) else self.ids)


class DistillationTrainer(Trainer):
    """Batches are those of `trainer.data.collate` with their `examples` beside them."""

    def __init__(self, *, loss: Loss, decisions: Decisions, groups: Any, decay_steps: int, **kwargs: Any) -> None:
        """groups: (student) -> parameter groups for AdamW."""
        super().__init__(**kwargs)
        self.loss, self.decisions, self.groups, self.decay_steps = loss, decisions, groups, decay_steps
        self.model_accepts_loss_kwargs = True  # so that positions are counted over the whole step
        self._step: list[dict[str, Any]] = []  # the micro-batches of this step
        self._parts: list[Part] = []  # what came of each so far
        self._row: dict[str, float] = {}
        self._names = make_shardable(self.model) if self.is_fsdp_enabled else Names()

    # -- data ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's share of every batch; the Trainer skips to its place by index and reads nothing before it."""
        batches = self.train_dataset.batches(self.args.process_index, self.args.world_size)  # type: ignore[union-attr]
        batches = batches[: self.args.max_steps * self.args.gradient_accumulation_steps]
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        self._step, positions = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._parts = []
        return self._step, None if positions is None else positions.clamp(min=1)

    # -- a step ----------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-batch; in two halves from the moment that memory ran out once."""
        if not self.decisions.halved:
            try:
                return super().training_step(model, inputs, num_items_in_batch)
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
            # Out of the `except`, so that nothing holds the tensors of the pass that failed.
            self._halve(inputs)
            model.zero_grad()
            done, self._parts = self._step[: self._at(inputs)], []
            for earlier in done:
                self._in_halves(model, earlier, num_items_in_batch)
        return self._in_halves(model, inputs, num_items_in_batch)

    def _at(self, inputs: Any) -> int:
        return next(i for i, batch in enumerate(self._step) if batch is inputs)

    def _halve(self, inputs: Any) -> None:
        clear_device_cache(garbage_collection=True)
        step = self.state.global_step + 1
        if self.args.world_size > 1:
            raise out_of_memory(step, "and with several processes a batch cannot be halved on the way")
        if len(inputs["examples"]) < 2:
            raise out_of_memory(step, "with one sample a batch")
        self.decisions.halved = True
        notices.warning("out of memory at step %d: from here on every batch is done in two halves (train.batch_size)", step)

    def _in_halves(self, model: Any, inputs: Any, positions: Any) -> torch.Tensor:
        examples = inputs["examples"]
        middle, total = (len(examples) + 1) // 2, torch.zeros((), device=self.args.device)
        for half in filter(None, (examples[:middle], examples[middle:])):
            try:
                total += super().training_step(model, self.data_collator(half), positions)
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
                raise out_of_memory(self.state.global_step + 1, "and half a batch did not fit either") from e
        return total

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> torch.Tensor:
        batch = {k: v for k, v in inputs.items() if k != "examples"}
        loss, kl = model(batch, self.loss, num_items_in_batch)
        self._parts.append(Part(batch["ids"], batch["owner"], loss.detach(), kl.detach()))
        return loss * self.args.world_size  # gradients of several processes are averaged

    def _clip_grad_norm(self, model: Any) -> Any:
        """Everything that this step will log, in one look, before the step is taken."""
        norm = super()._clip_grad_norm(model)
        loss = torch.stack([part.loss for part in self._parts]).sum()
        kl = torch.cat([part.kl for part in self._parts])
        sums = torch.stack([loss.double(), kl.double().sum(), torch.tensor(len(kl), dtype=torch.float64, device=loss.device)])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        mean_loss, total, positions = sums.tolist()
        if bad := [x for x in (mean_loss, total, float(norm)) if not math.isfinite(x)]:
            self._stop_at(bad[0])
        self._row = {"kl": total / max(positions, 1), "positions": positions}
        return norm

    def _stop_at(self, value: float) -> None:
        """SaladError that names the samples, the same in every process."""
        bad = [name for part in self._parts for name in part.suspects()]
        bad = list(dict.fromkeys(gather_object(bad)))
        what = "the loss" if bad else "the gradient's norm"
        bad = bad or gather_object([name for part in self._parts for name in part.ids])
        names = ", ".join(bad[:NAMED]) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        kept = last_whole(Path(self.args.output_dir))
        raise SaladError(
            f"{what} became {value} at step {self.state.global_step + 1}, samples {names}",
            "look at these samples, or lower train.adapter_lr (or lm_lr); "
            + (f"the last good checkpoint is {kept}" if kept else "there was no checkpoint yet"),
        )

    # -- rates and log ---------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = torch.optim.AdamW(self.groups(model or self.model), betas=(0.9, 0.98), fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        if self.lr_scheduler is None:  # type: ignore[has-type]
            warmup, decay = self.args.warmup_steps, self.decay_steps
            rates = lambda step: rate(step, int(warmup), self.decisions.decay_from, decay)  # noqa: E731
            self.lr_scheduler, self._created_lr_scheduler = LambdaLR(self.optimizer, rates), True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._row:
            logs.update(self._row)
            if self.decisions.measured and self.decisions.measured[-1][0] == self.state.global_step:
                logs["D"] = self.decisions.measured[-1][1]
            self._row = {}
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # an estimate that walks all parameters in every step, for a number that nobody reads

    # -- weights ---------------------------------------------------------------------------------------------

    def save_student(self, folder: Path) -> None:
        """safetensors and config; every process calls it, the first one writes."""
        self._save(str(folder), self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The student alone, without the pickled arguments that the Trainer would leave beside it."""
        if self.args.should_save:
            state = self._names.restore(state_dict) if state_dict is not None else None
            self.accelerator.unwrap_model(self.model).save_pretrained(output_dir or self.args.output_dir, state_dict=state)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process has written its part
        if self.args.should_save:
            self.decisions.write(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
            # Here, by number: the Trainer's `save_total_limit` goes by the files' times, and clocks are set back.
            rotate_checkpoints(self.args.output_dir, KEPT)
