"""D, M and F of a student on prepared texts, one value a text: the mean over its text positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import PreTrainedModel

from salad.trainer.data import Example, Hearing, collate
from salad.trainer.divergence import compare, mean_by_text
from salad.trainer.student import Student
from salad.trainer.targets import teacher_states

POSITIONS = 1024  # of a batch, padding included


@dataclass(frozen=True)
class Divergences:
    """In nats, each (texts,); NaN for a text without a text position, which has none of them."""

    divergence: np.ndarray  # D = KL(Q(w) || P(c))
    misalignment: np.ndarray  # M = KL(P(w) || P(c))
    forgetting: np.ndarray  # F = KL(Q(w) || P(w))
    teacher_entropy: np.ndarray  # H(Q(w)): how open the text is to one who reads it
    teacher_nll: np.ndarray  # -log Q(next token): how hard it is
    n_positions: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """(texts,) bool: those whose D, M and F are all numbers to reckon with."""
        return np.isfinite(self.divergence) & np.isfinite(self.misalignment) & np.isfinite(self.forgetting)


@torch.inference_mode()
def measure(
    student: Student,
    teacher: PreTrainedModel,
    examples: Sequence[Example],
    hearing: Hearing = "speech",
    progress: Callable[[int], None] = lambda n: None,
    positions: int = POSITIONS,
) -> Divergences:
    """Score every example. With a frozen LM the student reading text IS the teacher: F = 0 and M = D.

    hearing: "speech", or "nothing" for what the student would know without ears. The teacher's states come
    with the examples; a student pass without speech is made only where the LM was trained.
    """
    student.eval()
    stack = student.config.stack
    device, head = student.device, student.head()
    teacher_head = teacher.get_output_embeddings().weight.to(device)
    found = np.full((5, len(examples)), np.nan)
    done = 0
    for members in batches([e.length(stack) for e in examples], positions):
        here = [examples[j] for j in members]
        batch = send_to_device(collate(here, stack, hearing), device)
        spoken = student.states_at_loss(batch)
        read = None if student.lm_is_frozen else student.states_at_loss(send_to_device(collate(here, stack, "text"), device))
        rows = compare(teacher_states(batch), read, spoken, teacher_head, head, batch["labels"])
        found[:, members] = [mean_by_text(r, batch["owner"], len(members)).cpu().numpy() for r in rows]
        done += len(members)
        progress(done)
    d, m, f, entropy, nll = found
    return Divergences(d, m, f, entropy, nll, np.array([len(e.targets) for e in examples]))


def batches(lengths: Sequence[int], positions: int) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `positions` long with its padding (one text may be more)."""
    members: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda j: lengths[j]):
        if members and (len(members) + 1) * lengths[i] > positions:
            yield members
            members = []
        members.append(i)
    if members:
        yield members
