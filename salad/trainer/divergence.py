"""The one true KL: the distillation loss, D, M and F all come from here, in nats.

KL(Q || P) = Σ_v Q(v) · (log Q(v) - log P(v)) (paper eq. for L_DIST), at positions whose next token is text.
Models give final hidden states and heads; logits are made a few rows at a time, used and forgotten. The
gradient is written out, ∂KL/∂logits = P - Q, so nothing of the size (positions × vocabulary) is ever kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from salad.errors import SaladError

CHUNK = 2**23  # logits of one model that exist at once: rows · vocabulary
_kept = threading.local()


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ_i w_i · (α · KL_i + (1-α) · NLL_i), KL of each position): a scalar with gradients, and (m,) without.

    States (m, d_teacher) and (m, d_student), heads (vocabulary, d), labels (m,) wanted where α < 1, weights
    (m,), by default 1/m; see `text_weights`. Matrix products run in the dtype of the teacher's head, everything
    after them in float32. Costs the products of the plain implementation and no more: the gradient is made in
    the forward pass, while the logits are there.
    """
    _check_heads(teacher_head, student_head)
    if alpha < 1 and labels is None:
        raise ValueError("alpha below 1 needs labels")
    m, device = len(student_states), student_states.device
    if weights is None:
        weights = torch.full((m,), 1 / max(m, 1), device=device)
    with torch.autocast(device.type, enabled=False):  # the dtypes are chosen here
        targets = labels if alpha < 1 else None  # without them there is no NLL
        inputs = (teacher_states, student_states, teacher_head, student_head, targets, alpha, weights, chunk)
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
    _check_heads(teacher_head, student_head)
    out = torch.zeros(5, len(spoken), device=spoken.device)
    dtype, vocabulary = teacher_head.dtype, len(teacher_head)
    student_head = student_head.to(dtype)
    for rows, buffers in _chunks(len(spoken), vocabulary, chunk, 4 if read is None else 6, spoken.device):
        log_q, q = _softmax(teacher[rows].to(dtype), teacher_head, *buffers[:2])
        logits = _logits(spoken[rows].to(dtype), student_head, *buffers[2:4])
        log_p, scratch = torch.log_softmax(logits, -1, out=buffers[3]), buffers[2]
        out[3, rows] = -_expected(q, log_q, scratch)
        out[4, rows] = -log_q.gather(1, labels[rows, None]).squeeze(1)
        if read is not None:
            log_r, r = _softmax(read[rows].to(dtype), student_head, *buffers[4:])
            out[1, rows] = _expected(r, torch.sub(log_r, log_p, out=scratch), scratch)
            out[2, rows] = _expected(q, torch.sub(log_q, log_r, out=scratch), scratch)
        out[0, rows] = _expected(q, log_q.sub_(log_p), scratch)
    if read is None:
        out[1] = out[0]
    return Rows(*out)


class _Distillation(torch.autograd.Function):
    """Value and gradient of `distillation_loss` in one pass over chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        teacher_states: torch.Tensor,
        student_states: torch.Tensor,
        teacher_head: torch.Tensor,
        student_head: torch.Tensor,
        labels: torch.Tensor | None,
        alpha: float,
        weights: torch.Tensor,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype, device, m = teacher_head.dtype, student_states.device, len(student_states)
        student, teacher, head = student_states.to(dtype), teacher_states.to(dtype), student_head.to(dtype)
        wants_states, wants_head = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        kl, nll = (torch.zeros(m, device=device) for _ in range(2))
        d_states = torch.zeros_like(student_states) if wants_states else None
        d_head = torch.zeros(student_head.shape, device=device) if wants_head else None
        for rows, buffers in _chunks(m, len(head), chunk, 4, device):
            log_q, q = _softmax(teacher[rows], teacher_head, *buffers[:2])
            log_p, p = _softmax(student[rows], head, *buffers[2:])
            if labels is not None:
                nll[rows] = -log_p.gather(1, labels[rows, None]).squeeze(1)
            kl[rows] = _expected(q, log_q.sub_(log_p), log_q)
            if not (wants_states or wants_head):
                continue
            d_logits = p.sub_(q, alpha=alpha)
            if labels is not None:
                d_logits.scatter_add_(1, labels[rows, None], torch.full((len(p), 1), alpha - 1, device=device))
            d_logits = d_logits.mul_(weights[rows, None]).to(dtype)
            if d_states is not None:
                d_states[rows] = (d_logits @ head).to(d_states.dtype)
            if d_head is not None:
                _add_product(d_head, d_logits.T, student[rows])
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
        return None, d_states, None, d_head, None, None, None, None


def _check_heads(teacher: torch.Tensor, student: torch.Tensor) -> None:
    if len(teacher) != len(student):
        raise SaladError(
            f"the teacher's vocabulary has {len(teacher)} tokens, the student's {len(student)}",
            "a student can only learn from a teacher with its own tokenizer: name the LM that it started from",
        )


def _chunks(
    m: int, vocabulary: int, chunk: int, buffers: int, device: torch.device
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Slices of rows with float32 scratch (rows, vocabulary)."""
    size = max(min(chunk // vocabulary, m), 1)
    memory = _scratch(buffers * size * vocabulary, device).view(buffers, size, vocabulary)
    for i in range(0, m, size):
        rows = slice(i, min(i + size, m))
        yield rows, [b[: rows.stop - i] for b in memory]


def _scratch(n: int, device: torch.device) -> torch.Tensor:
    """(n,) float32. On a CPU the same memory every time: fresh pages cost as much as the arithmetic on them."""
    if device.type != "cpu":
        return torch.empty(n, device=device)
    kept: torch.Tensor | None = getattr(_kept, "memory", None)
    if kept is None or len(kept) < n:
        with torch.inference_mode(False):
            kept = _kept.memory = torch.empty(n)
    return kept[:n]


def _logits(states: torch.Tensor, head: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """states (r, d) times a head, as float32 (r, V) in `out`."""
    if states.dtype == torch.float32:
        return torch.mm(states, head.T, out=out)
    if states.is_cuda:
        return torch.mm(states, head.T, out_dtype=torch.float32, out=out)
    half = scratch.view(-1).view(states.dtype)[: scratch.numel()].view(scratch.shape)
    return out.copy_(torch.mm(states, head.T, out=half))


def _softmax(states: torch.Tensor, head: torch.Tensor, log_p: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and probabilities of states (r, d) under a head, written into the given (r, V)."""
    log_p = _logits(states, head, log_p, p)
    log_p.sub_(log_p.amax(-1, keepdim=True))
    torch.exp(log_p, out=p)
    total = p.sum(-1, keepdim=True)
    return log_p.sub_(total.log()), p.div_(total)


def _expected(q: torch.Tensor, x: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Σ_v q_v · x_v of each row, where q_v = 0 makes 0 of any x_v. `scratch` may be x itself."""
    product = torch.mul(q, x, out=scratch)
    total = product.sum(-1)
    if not bool(torch.isfinite(total).all()):
        total = product.masked_fill_(q == 0, 0.0).sum(-1)
    return total


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b in float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
