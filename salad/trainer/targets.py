"""Where the distillation loss takes the teacher's distribution from.

states: the teacher's final hidden state at every text position, kept with the example; its head turns them into
Q exactly, at 2·d bytes a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from salad.trainer.divergence import distillation_loss


class Loss(Protocol):
    """(batch, student states (m, d), student head (V, d), weights (m,)) -> (loss with gradients, KL of each position (m,)).

    The loss is Σ_i w_i · (α · KL_i + (1-α) · NLL_i).
    """

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True)
class FromStates:
    """Q is the teacher's head (V, d) times the states that come with the batch."""

    teacher_head: torch.Tensor
    alpha: float = 1.0

    def __call__(
        self, batch: dict[str, Any], states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return distillation_loss(batch["teacher"], states, self.teacher_head, head, batch["labels"], self.alpha, weights)
