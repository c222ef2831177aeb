"""Logits of many positions under a large vocabulary, a few rows at a time: made, used, forgotten.

Products run in the dtype of the given states and head, everything after them in float32. Softmax is shifted by the
largest logit (Blanchard et al. 2021, "Accurately computing the log-sum-exp and softmax functions").
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

CHUNK = 2**23  # logits of one model that exist at once: rows · vocabulary
_kept = threading.local()


def chunks(m: int, vocabulary: int, chunk: int, buffers: int, device: torch.device) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Slices of m rows, each with so many float32 buffers (rows, vocabulary) to write into."""
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


def logits(states: torch.Tensor, head: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """states (r, d) times a head (V, d), as float32 (r, V) in `out`."""
    if states.dtype == torch.float32:
        return torch.mm(states, head.T, out=out)
    if states.is_cuda:
        return torch.mm(states, head.T, out_dtype=torch.float32, out=out)
    half = scratch.view(-1).view(states.dtype)[: scratch.numel()].view(scratch.shape)
    return out.copy_(torch.mm(states, head.T, out=half))


def exponentials(
    states: torch.Tensor, head: torch.Tensor, z: torch.Tensor, p: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Fills z with logits / temperature less their largest, and p with their softmax, (r, V) both; returns log Σ exp z (r, 1)."""
    z = logits(states, head, z, p)
    z.sub_(z.amax(-1, keepdim=True))
    if temperature != 1:
        z.div_(temperature)
    total = torch.exp(z, out=p).sum(-1, keepdim=True)
    p.div_(total)
    return total.log_()


def softmax(
    states: torch.Tensor, head: torch.Tensor, log_p: torch.Tensor, p: torch.Tensor, *, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and probabilities of states (r, d) under a head, written into the given (r, V)."""
    total = exponentials(states, head, log_p, p, temperature=temperature)
    return log_p.sub_(total), p


def expected(q: torch.Tensor, x: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Σ_v q_v · x_v of each row, where q_v = 0 makes 0 of any x_v. `scratch` may be x itself."""
    product = torch.mul(q, x, out=scratch)
    total = product.sum(-1)
    if not bool(torch.isfinite(total).all()):
        total = product.masked_fill_(q == 0, 0.0).sum(-1)
    return total


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b in float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
