"""Where the distillation loss takes the teacher's distribution from: three kinds of `train.teacher`.

| kind   | kept a position         | in memory         | exact |
|--------|-------------------------|-------------------|-------|
| states | 2·d bytes               | the teacher's head | yes  |
| online | nothing                 | the teacher       | yes   |
| cached | 4k + 4 bytes (or 6k + 4) | nothing of it     | in the mean: `sparse` |

The loss is Σ_i w_i · (α · T² · KL(Q_T || P_T)_i + (1-α) · NLL_i), both distributions softened by the temperature T
(Hinton et al. 2015); labels are not. What is returned beside it is T² · KL(Q_T || P_T) of each position: the true KL
where T is 1; where it is not, the softened one, which is not to be compared with D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel

from salad.errors import SaladError
from salad.trainer.divergence import distillation_loss, loss_against
from salad.trainer.examples import TargetKind, Targets
from salad.trainer.sparse import Kept, SparseTarget

TeacherKind = Literal["states", "cached", "online"]
PREPARED: dict[TeacherKind, TargetKind] = {"states": "states", "cached": "top_k", "online": "none"}


class Loss(Protocol):
    """(batch, student states (m, d), student head (V, d), weights (m,)) -> (loss with gradients, KL of each position (m,)).

    SaladError for a batch that was prepared for another kind of teacher.
    """

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def make_loss(kind: TeacherKind, teacher: PreTrainedModel | None, alpha: float = 1.0, temperature: float = 1.0) -> Loss:
    """The loss of a `train.teacher`; "cached" wants no teacher."""
    if kind == "cached":
        return FromTopK(alpha, temperature)
    if teacher is None:
        raise ValueError(f"train.teacher: {kind} needs the teacher")
    if kind == "online":
        return FromOnline(teacher, alpha, temperature)
    return FromStates(teacher.get_output_embeddings().weight, alpha, temperature)


@dataclass
class FromStates:
    """Q is the teacher's head (V, d) times the states that come with the batch."""

    teacher_head: torch.Tensor
    alpha: float = 1.0
    temperature: float = 1.0

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.teacher_head = self.teacher_head.to(states.device)
        return distillation_loss(
            teacher_states(batch),
            states,
            self.teacher_head,
            head,
            batch["labels"],
            self.alpha,
            weights,
            temperature=self.temperature,
        )


@dataclass
class FromOnline:
    """Q is what the teacher says now; only the positions that answer for text go through its head."""

    teacher: PreTrainedModel
    alpha: float = 1.0
    temperature: float = 1.0

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.teacher.to(states.device)
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            # Padding is at the end only and attention is causal: real positions never see it.
            read = self.teacher.get_decoder()(input_ids=batch["teacher_ids"], use_cache=False).last_hidden_state
        at_loss = read.reshape(-1, read.shape[-1])[batch["teacher_at"]]
        teacher_head = self.teacher.get_output_embeddings().weight
        return distillation_loss(
            at_loss, states, teacher_head, head, batch["labels"], self.alpha, weights, temperature=self.temperature
        )


@dataclass(frozen=True)
class FromTopK:
    """Q is the k tokens that were kept of it, softened by the temperature they were kept at.

    The student's matrix products run in the dtype of autocast where it is on, else in its head's.
    """

    alpha: float = 1.0
    temperature: float = 1.0

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        about = _made_for("cached", batch)
        if about.temperature != self.temperature:
            raise SaladError(
                f"the targets were kept at temperature {about.temperature:g}, train.temperature is {self.temperature:g}",
                "prepare the speech anew, or train at that temperature",
            )
        if about.vocabulary != len(head):
            raise SaladError(
                f"the targets are of a teacher with {about.vocabulary} tokens, the student has {len(head)}",
                "a student can only learn from a teacher with its own tokenizer: name the LM that it started from",
            )
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
        kept = Kept(batch["kept_ids"], batch["kept_log_q"], batch["kept_log_floor"])
        target = SparseTarget.of(kept, self.temperature)
        return loss_against(target, states, head, dtype, batch["labels"], self.alpha, weights)


def teacher_states(batch: dict[str, Any]) -> torch.Tensor:
    """(m, d) of a batch, for the loss and for measuring; SaladError where its examples keep something else."""
    _made_for("states", batch)
    states: torch.Tensor = batch["teacher"]
    return states


def _made_for(wanted: TeacherKind, batch: dict[str, Any]) -> Targets:
    about: Targets = batch["targets"]
    if about.kind != PREPARED[wanted]:
        made = next(kind for kind, targets in PREPARED.items() if targets == about.kind)
        raise SaladError(
            f"text {batch['ids'][0]} was prepared for train.teacher: {made}, and this needs what {wanted} keeps",
            f"set train.teacher: {made}, or prepare the speech anew",
        )
    return about
