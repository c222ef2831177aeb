"""The one true KL: D, M, F and the distillation loss are all this function of two rows of logits.

KL(Q || P) = sum_v Q(v) · (log Q(v) - log P(v)), in nats, accumulated in float32 (paper eq. for L_DIST).
"""

from __future__ import annotations

import torch
from torch.nn import functional as nn


def kl_divergence(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each row: (..., vocabulary) twice -> (...), float32, in nats.

    A token of teacher probability 0 adds 0, even where the student gives it 0 as well; where only the
    student gives 0 the divergence is infinite, as it should be.
    """
    log_q = nn.log_softmax(teacher_logits.float(), dim=-1)
    log_p = nn.log_softmax(student_logits.float(), dim=-1)
    q = log_q.exp()
    return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(-1)


def kl_from_states(
    teacher_states: torch.Tensor,
    student_states: torch.Tensor,
    teacher_head: torch.Tensor,
    student_head: torch.Tensor,
    chunk: int = 256,
) -> torch.Tensor:
    """The same from final hidden states: (m, d_teacher), (m, d_student), heads (vocabulary, d) -> (m,).

    At most `chunk` rows of logits exist at once in a pass without gradients.
    """
    rows = [
        kl_divergence(nn.linear(t, teacher_head), nn.linear(s, student_head))
        for t, s in zip(torch.split(teacher_states, chunk), torch.split(student_states, chunk), strict=True)
    ]
    return torch.cat(rows) if rows else student_states.new_zeros(0, dtype=torch.float32)
