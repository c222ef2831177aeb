"""D, M and F of a student on prepared texts, one value a text: the mean over its text positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from salad.trainer.data import Example, collate
from salad.trainer.divergence import kl_from_states
from salad.trainer.student import Student


@dataclass(frozen=True)
class Divergences:
    """In nats, each (texts,). D = KL(Q(w)||P(c)) · M = KL(P(w)||P(c)) · F = KL(Q(w)||P(w))."""

    divergence: np.ndarray
    misalignment: np.ndarray
    forgetting: np.ndarray
    n_positions: np.ndarray


@torch.inference_mode()
def measure(
    student: Student,
    teacher: PreTrainedModel,
    examples: Sequence[Example],
    batch_size: int = 16,
    hearing: str = "speech",
    progress: Callable[[int], None] = lambda n: None,
) -> Divergences:
    """Score every example. With a frozen LM the student reading text IS the teacher: F = 0 and M = D.

    hearing: "speech", or "nothing" for what the student would know without ears.
    """
    student.eval()
    stack = student.config.stack
    head = teacher.get_output_embeddings().weight
    d, m, f = (np.zeros(len(examples)) for _ in range(3))
    counts = np.array([len(e.targets) for e in examples])
    order = sorted(range(len(examples)), key=lambda i: examples[i].length(stack))
    for i in range(0, len(order), batch_size):
        members = order[i : i + batch_size]
        batch = collate([examples[j] for j in members], stack, hearing)
        spoken = student.states_at_loss(batch)
        wanted = batch["teacher"].to(spoken.dtype)
        owner = batch["owner"]
        d[members] = _mean_by(owner, kl_from_states(wanted, spoken, head, student.head()), len(members))
        if student.lm_is_frozen:
            m[members] = d[members]
        else:
            read = student.states_at_loss(collate([examples[j] for j in members], stack, "text"))
            f[members] = _mean_by(owner, kl_from_states(wanted, read, head, student.head()), len(members))
            m[members] = _mean_by(owner, kl_from_states(read, spoken, student.head(), student.head()), len(members))
        progress(i + len(members))
    return Divergences(d, m, f, counts)


def _mean_by(owner: torch.Tensor, values: torch.Tensor, n: int) -> np.ndarray:
    sums = torch.zeros(n, dtype=torch.float64).index_add_(0, owner, values.double())
    return (sums / torch.bincount(owner, minlength=n).clamp(min=1)).numpy()
