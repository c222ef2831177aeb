"""A teacher's distribution in k tokens: the likely ones as they are, the tail by a sample of it.

Cutting the tail off, or keeping its mass as one lump, bends the KL however the tokens are weighed (`bench/targets.py`);
a sample that is weighed by how likely it was to be drawn does not (Anshumann et al. 2025, "Sparse Logit Sampling").
Ours has the least variance that k tokens can have for their mass: token v is kept with probability min(1, Q(v) / τ), and
with the weight max(Q(v), τ), where τ makes that k tokens in all (Cohen et al. 2009, "Stream sampling for
variance-optimal estimation of subset sums"). The draw is systematic, in the order of the tokens' numbers, so that

  Σ_kept w = 1   and   E Σ_kept w_v · f(v) = Σ_v Q(v) · f(v)   for every f.

With f = log Q - log P that is the KL, with f = the rows of the head its gradient: both unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Kept(NamedTuple):
    """What is kept of m distributions."""

    ids: torch.Tensor  # (m, k) tokens, int64
    log_q: torch.Tensor  # (m, k) their log-probabilities …
    log_floor: torch.Tensor  # (m,) … and log τ, below which a weight never is; -inf where k tokens are all that Q has

    def weights(self) -> torch.Tensor:
        """(m, k) float32, of sum 1 even where the logarithms were rounded."""
        w = torch.maximum(self.log_q.float(), self.log_floor.float()[:, None]).exp_()
        return w.div_(w.sum(-1, keepdim=True))


def draw(log_q: torch.Tensor, k: int, u: torch.Tensor) -> Kept:
    """k tokens of each row of log_q (m, V), k at most V; u: (m,) in [0, 1), the one random number that a row takes."""
    q = log_q.float().exp()
    top, at = torch.topk(q, k)
    slot = torch.arange(k, device=q.device)
    # With the first i tokens kept as they are, k - i are left for the rest of the mass: the first i for which that
    # makes a floor that token i does not exceed.
    q.scatter_(1, at, 0.0)
    mass = q.sum(-1, keepdim=True) + top.flip(-1).cumsum(-1).flip(-1)
    sampled = mass / (k - slot) >= top
    exact = torch.where(sampled.any(-1), sampled.int().argmax(-1), k)[:, None]
    q.scatter_(1, at, torch.where(slot < exact, 0.0, top))
    below = q.cumsum(-1)  # of the sampled ones alone: small masses are not added to large ones
    left = (k - exact).clamp(min=1)
    point = ((slot - exact + u[:, None]) / left).float().clamp(0, 1 - 2**-23) * below[:, -1:]
    drawn = torch.searchsorted(below, point, right=True).clamp_(max=q.shape[1] - 1)
    floor = torch.where(exact < k, below[:, -1:] / left, 0.0)
    ids = torch.where((slot < exact) | (floor == 0), at, drawn)
    return Kept(ids, log_q.gather(1, ids), floor.squeeze(1).log())


@dataclass(frozen=True)
class SparseTarget:
    """Q from what was kept of it, for `divergence.loss_against`."""

    ids: torch.Tensor
    log_q: torch.Tensor
    weights: torch.Tensor
    temperature: float = 1.0
    buffers = 0

    @classmethod
    def of(cls, kept: Kept, temperature: float = 1.0) -> SparseTarget:
        return cls(kept.ids, kept.log_q.float(), kept.weights(), temperature)

    def meet(
        self, rows: slice, z: torch.Tensor, log_total: torch.Tensor, d: torch.Tensor, scale: float, buffers: list[torch.Tensor]
    ) -> torch.Tensor:
        """An estimate of each KL: unbiased, so that of a student very near its teacher may be a little below 0."""
        ids, w = self.ids[rows], self.weights[rows]
        d.scatter_add_(1, ids, w * -scale)
        ratio = self.log_q[rows] - z.gather(1, ids)
        return torch.where(w > 0, w * ratio, 0.0).sum(-1) + log_total.squeeze(1)
