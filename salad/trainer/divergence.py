"""The one true KL: the distillation loss, D, M and F all come from here, in nats.

KL(Q || P) = Σ_v Q(v) · (log Q(v) - log P(v)) (paper eq. for L_DIST), at positions whose next token is text.
Models give final hidden states and heads; logits are made a few rows at a time, used and forgotten. The
gradient is written out, ∂KL/∂logits = P - Q, so nothing of the size (positions × vocabulary) is ever kept.

With a temperature T both are softened, Q_T = softmax(logits / T), and the KL is multiplied by T² so that its gradient
keeps its size (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from salad.errors import SaladError
from salad.trainer.logits import CHUNK, add_product, chunks, expected, exponentials, logits, softmax


def kl_divergence(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each row of logits: (..., vocabulary) twice -> (...), float32. The definition.

    A token of teacher probability 0 adds 0, even where the student gives it 0 as well; where only the
    student gives 0 the divergence is infinite, as it should be.
    """
    log_q = torch.log_softmax(teacher_logits.float(), dim=-1)
    log_p = torch.log_softmax(student_logits.float(), dim=-1)
    q = log_q.exp()
    return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(-1)


def distillation_loss(
    teacher_states: torch.Tensor,
    student_states: torch.Tensor,
    teacher_head: torch.Tensor,
    student_head: torch.Tensor,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    weights: torch.Tensor | None = None,
    chunk: int = CHUNK,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ_i w_i · (α · KL_i + (1-α) · NLL_i), KL of each position): a scalar with gradients, and (m,) without.

    States (m, d_teacher) and (m, d_student), heads (vocabulary, d), labels (m,) wanted where α < 1, weights
    (m,), by default 1/m; see `text_weights`. KL_i is T² · KL(Q_T || P_T): the true one where the temperature is 1.
    Matrix products run in the dtype of the teacher's head, everything after them in float32. Costs the products of
    the plain implementation and no more: the gradient is made in the forward pass, while the logits are there.
    """
    check_heads(teacher_head, student_head)
    target = FullTarget(teacher_states.to(teacher_head.dtype), teacher_head, temperature)
    return loss_against(target, student_states, student_head, teacher_head.dtype, labels, alpha, weights, chunk)


class Target(Protocol):
    """Q at the m positions of a loss, however it is kept."""

    @property
    def temperature(self) -> float: ...

    @property
    def buffers(self) -> int: ...  # (rows, vocabulary) that `meet` wants

    def meet(
        self, rows: slice, z: torch.Tensor, log_total: torch.Tensor, d: torch.Tensor, scale: float, buffers: list[torch.Tensor]
    ) -> torch.Tensor:
        """KL(Q_T || P_T) of these rows, (r,), where log P_T = z - log_total; takes scale · Q_T from d (r, V) in place."""


@dataclass(frozen=True)
class FullTarget:
    """Q from the teacher's states (m, d) and head (V, d), of one dtype."""

    states: torch.Tensor
    head: torch.Tensor
    temperature: float = 1.0
    buffers = 2

    def meet(
        self, rows: slice, z: torch.Tensor, log_total: torch.Tensor, d: torch.Tensor, scale: float, buffers: list[torch.Tensor]
    ) -> torch.Tensor:
        log_q, q = softmax(self.states[rows], self.head, *buffers[:2], temperature=self.temperature)
        d.sub_(q, alpha=scale)
        return expected(q, log_q.sub_(z), log_q) + log_total.squeeze(1)


def loss_against(
    target: Target,
    student_states: torch.Tensor,
    student_head: torch.Tensor,
    dtype: torch.dtype,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    weights: torch.Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`distillation_loss` for any target; the student's matrix products run in `dtype`."""
    if alpha < 1 and labels is None:
        raise ValueError("alpha below 1 needs labels")
    m, device = len(student_states), student_states.device
    if weights is None:
        weights = torch.full((m,), 1 / max(m, 1), device=device)
    with torch.autocast(device.type, enabled=False):  # the dtypes are chosen here
        labels = labels if alpha < 1 else None  # without them there is no NLL
        inputs = (student_states, student_head, target, dtype, labels, alpha, weights, chunk)
        loss, kl = _Distillation.apply(*inputs)  # type: ignore[no-untyped-call]
    return loss, kl


def text_weights(owner: torch.Tensor) -> torch.Tensor:
    """(m,) weights that make `distillation_loss` the mean over texts of each text's mean over its positions.

    owner: (m,), the text of each position. A text without positions does not count.
    """
    _, text, count = torch.unique(owner, return_inverse=True, return_counts=True)
    return 1 / (count[text].float() * max(len(count), 1))


def mean_by_text(values: torch.Tensor, owner: torch.Tensor, n: int) -> torch.Tensor:
    """(m,) values of positions -> (n,) means by text in float64; NaN for a text without positions."""
    sums = torch.zeros(n, dtype=torch.float64, device=values.device).index_add_(0, owner, values.double())
    return sums / torch.bincount(owner, minlength=n)


class Rows(NamedTuple):
    """Of each text position, (m,) float32, in nats."""

    divergence: torch.Tensor  # D: KL(Q(w) || P(c))
    misalignment: torch.Tensor  # M: KL(P(w) || P(c))
    forgetting: torch.Tensor  # F: KL(Q(w) || P(w))
    entropy: torch.Tensor  # H(Q(w))
    teacher_nll: torch.Tensor  # -log Q(next token)


@torch.no_grad()
def compare(
    teacher: torch.Tensor,
    read: torch.Tensor | None,
    spoken: torch.Tensor,
    teacher_head: torch.Tensor,
    student_head: torch.Tensor,
    labels: torch.Tensor,
    chunk: int = CHUNK,
) -> Rows:
    """D, M and F, and how sure the teacher is, each distribution computed once.

    teacher, read, spoken: states (m, d) of Q(w), P(w) and P(c). read None: the student reading text is the
    teacher, so F = 0 and M = D.
    """
    check_heads(teacher_head, student_head)
    out = torch.zeros(5, len(spoken), device=spoken.device)
    dtype, vocabulary = teacher_head.dtype, len(teacher_head)
    student_head = student_head.to(dtype)
    for rows, buffers in chunks(len(spoken), vocabulary, chunk, 4 if read is None else 6, spoken.device):
        log_q, q = softmax(teacher[rows].to(dtype), teacher_head, *buffers[:2])
        heard = logits(spoken[rows].to(dtype), student_head, *buffers[2:4])
        log_p, scratch = torch.log_softmax(heard, -1, out=buffers[3]), buffers[2]
        out[3, rows] = -expected(q, log_q, scratch)
        out[4, rows] = -log_q.gather(1, labels[rows, None]).squeeze(1)
        if read is not None:
            log_r, r = softmax(read[rows].to(dtype), student_head, *buffers[4:])
            out[1, rows] = expected(r, torch.sub(log_r, log_p, out=scratch), scratch)
            out[2, rows] = expected(q, torch.sub(log_q, log_r, out=scratch), scratch)
        out[0, rows] = expected(q, log_q.sub_(log_p), scratch)
    if read is None:
        out[1] = out[0]
    return Rows(*out)


class _Distillation(torch.autograd.Function):
    """Value and gradient of `loss_against` in one pass over chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        student_states: torch.Tensor,
        student_head: torch.Tensor,
        target: Target,
        dtype: torch.dtype,
        labels: torch.Tensor | None,
        alpha: float,
        weights: torch.Tensor,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device, m, t = student_states.device, len(student_states), target.temperature
        student, head = student_states.to(dtype), student_head.to(dtype)
        wants_states, wants_head = ctx.needs_input_grad[:2]
        kl, nll = (torch.zeros(m, device=device) for _ in range(2))
        d_states = torch.zeros_like(student_states) if wants_states else None
        d_head = torch.zeros(student_head.shape, device=device) if wants_head else None
        softens = t != 1 and labels is not None
        for rows, (z, p, *more) in chunks(m, len(head), chunk, 2 + max(target.buffers, softens), device):
            log_total = exponentials(student[rows], head, z, p, temperature=t)
            if t != 1:
                p.mul_(alpha * t)
            kl[rows] = t * t * target.meet(rows, z, log_total, p, alpha * t, more)
            if labels is not None:
                if softens:  # labels are never softened
                    hard = torch.exp(z.mul_(t), out=more[0])
                    log_total = hard.sum(-1, keepdim=True).log_()
                    p.add_(hard.div_(log_total.exp()), alpha=1 - alpha)
                label = labels[rows, None]
                nll[rows] = (log_total - z.gather(1, label)).squeeze(1)
                p.scatter_add_(1, label, torch.full(label.shape, alpha - 1, device=device))
            if not (wants_states or wants_head):
                continue
            d_logits = p.mul_(weights[rows, None]).to(dtype)
            if d_states is not None:
                d_states[rows] = (d_logits @ head).to(d_states.dtype)
            if d_head is not None:
                add_product(d_head, d_logits.T, student[rows])
        ctx.gradients = (d_states, None if d_head is None else d_head.to(student_head.dtype))
        ctx.mark_non_differentiable(kl)
        loss = kl if labels is None else alpha * kl + (1 - alpha) * nll
        return (weights * loss).sum(), kl

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("distillation_loss keeps its gradient for one backward pass")
        d_states, d_head = (None if d is None else d.mul_(upstream[0]) for d in ctx.gradients)
        ctx.gradients = None  # scaled in place, and as large as the head
        return d_states, d_head, *[None] * 6


def check_heads(teacher: torch.Tensor, student: torch.Tensor) -> None:
    """SaladError unless both vocabularies are of one size."""
    if len(teacher) != len(student):
        raise SaladError(
            f"the teacher's vocabulary has {len(teacher)} tokens, the student's {len(student)}",
            "a student can only learn from a teacher with its own tokenizer: name the LM that it started from",
        )
