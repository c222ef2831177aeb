"""The kept tokens stand for their distribution: in the mean exactly, and the loss of them is what float64 says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as nn

from salad.trainer.divergence import distillation_loss, loss_against
from salad.trainer.sparse import Kept, SparseTarget, draw

V, K = 200, 16


def distribution(seed: int, scale: float = 3.0, rows: int = 1, v: int = V) -> torch.Tensor:
    return torch.log_softmax(torch.randn(rows, v, generator=torch.Generator().manual_seed(seed)) * scale, -1)


def as_rows(kept: Kept, v: int = V) -> torch.Tensor:
    """(m, V): the weight of every token."""
    return torch.zeros(len(kept.ids), v).scatter_add_(1, kept.ids, kept.weights())


@given(st.integers(0, 2**31), st.floats(0.01, 8), st.integers(1, 40))
def test_the_mean_of_all_draws_is_the_distribution(seed: int, scale: float, k: int) -> None:
    log_q, n = distribution(seed, scale), 2000
    weights = as_rows(draw(log_q.expand(n, -1), k, (torch.arange(n) + 0.5) / n))
    assert torch.allclose(weights.sum(-1), torch.ones(n))
    floor = draw(log_q, k, torch.zeros(1)).log_floor.exp()
    assert (weights.mean(0) - log_q[0].exp()).abs().max() < 1e-5 + floor / n * 2, (
        "the n draws are a grid: exact but for its steps"
    )


@given(st.integers(0, 2**31), st.floats(0.01, 8), st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_k_different_tokens_the_likely_ones_as_they_are(seed: int, scale: float, k: int, u: float) -> None:
    log_q = distribution(seed, scale)
    kept = draw(log_q, k, torch.tensor([u], dtype=torch.float64))
    ids, w, q = kept.ids[0], kept.weights()[0], log_q[0].exp()
    floor = float(kept.log_floor.exp())
    assert len(set(ids.tolist())) == k
    assert torch.equal(kept.log_q[0], log_q[0, ids])
    assert torch.allclose(w, q[ids].clamp(min=floor), rtol=1e-3)
    assert set(torch.nonzero(q > floor * 1.001).flatten().tolist()) <= set(ids.tolist())


def test_the_draw_is_a_function_of_its_random_number_and_of_its_own_row() -> None:
    log_q, u = distribution(1, rows=6), torch.rand(6)
    together = draw(log_q, K, u)
    for i in range(6):
        alone = draw(log_q[i : i + 1], K, u[i : i + 1])
        assert torch.equal(alone.ids[0], together.ids[i])
    assert not torch.equal(draw(log_q, K, (u + 0.5) % 1).ids, together.ids)


def test_a_distribution_of_fewer_tokens_than_are_kept() -> None:
    inf = math.inf
    for last in ([0.6, 0.4], [1.0]):
        log_q = torch.full((1, 30), -inf)
        log_q[0, -len(last) :] = torch.tensor(last).log()
        assert torch.allclose(as_rows(draw(log_q, 8, torch.tensor([0.9])), 30), log_q.exp())
        log_q = log_q.clamp(min=-120)
        assert torch.allclose(as_rows(draw(log_q, 8, torch.tensor([0.9])), 30), log_q.exp())
    everything = distribution(3, v=30)
    assert torch.allclose(as_rows(draw(everything, 30, torch.tensor([0.3])), 30), everything.exp(), atol=1e-6)


def test_float16_on_disk_moves_the_weights_by_less_than_a_thousandth() -> None:
    log_q = distribution(5, rows=50)
    kept = draw(log_q, K, torch.rand(50))
    rounded = Kept(kept.ids, kept.log_q.half(), kept.log_floor)
    assert torch.allclose(rounded.weights(), kept.weights(), rtol=5e-3)
    assert torch.allclose(rounded.weights().sum(-1), torch.ones(50))


M, D = 23, 5


def case(seed: int = 1) -> tuple[Kept, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kept tokens; states and head of a student; labels; weights."""
    g = torch.Generator().manual_seed(seed)
    kept = draw(torch.log_softmax(torch.randn(M, V, generator=g) * 3, -1), K, torch.rand(M, generator=g))
    states, head = torch.randn(M, D, generator=g).requires_grad_(), torch.randn(V, D, generator=g).requires_grad_()
    return kept, states, head, torch.randint(V, (M,), generator=g), torch.rand(M, generator=g)


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5) -> None:
    assert float((found.double() - expected).norm()) <= rtol * float(expected.norm())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_value_and_gradients_are_those_of_float64(alpha: float, rows: int, temperature: float) -> None:
    kept, states, head, labels, weights = case()
    found = loss_against(SparseTarget.of(kept, temperature), states, head, torch.float32, labels, alpha, weights, rows * V)
    s, h = (x.detach().double().requires_grad_() for x in (states, head))
    log_p = torch.log_softmax(s @ h.T / temperature, -1)
    w = torch.zeros(M, V, dtype=torch.double).scatter_add_(1, kept.ids, kept.weights().double())
    ratio = torch.zeros(M, V, dtype=torch.double).scatter_(1, kept.ids, kept.log_q.double()) - log_p
    kl = temperature**2 * (w * ratio).sum(-1)
    loss = (weights * (alpha * kl + (1 - alpha) * nn.cross_entropy(s @ h.T, labels, reduction="none"))).sum()
    assert_close(found[0].detach(), loss.detach())
    assert_close(found[1], kl.detach())
    expected = torch.autograd.grad(loss, [s, h])
    for g, wanted in zip(torch.autograd.grad(found[0], [states, head]), expected, strict=True):
        assert_close(g, wanted)


def test_kl_and_gradient_of_all_draws_are_the_exact_ones() -> None:
    n, g = 500, torch.Generator().manual_seed(2)
    teacher, teacher_head = torch.randn(3, D, generator=g) * 2, torch.randn(V, D, generator=g)
    states, head = torch.randn(3, D, generator=g).requires_grad_(), torch.randn(V, D, generator=g)
    exact, exact_kl = distillation_loss(teacher, states, teacher_head, head)
    (gradient,) = torch.autograd.grad(exact, states)
    log_q = torch.log_softmax(teacher @ teacher_head.T, -1)
    kept = draw(log_q.repeat_interleave(n, 0), K, ((torch.arange(n) + 0.5) / n).repeat(3))
    loss, kl = loss_against(SparseTarget.of(kept), states.repeat_interleave(n, 0), head, torch.float32)
    assert torch.allclose(kl.view(3, n).mean(-1), exact_kl, rtol=2e-3)
    assert kl.view(3, n).std(-1).min() > 0.01, "single draws differ"
    (found,) = torch.autograd.grad(loss, states)
    assert float((found - gradient).norm() / gradient.norm()) < 2e-3


def test_a_student_that_is_its_teacher_has_no_divergence_in_any_draw() -> None:
    g = torch.Generator().manual_seed(2)
    states, head = torch.randn(9, D, generator=g) * 2, torch.randn(V, D, generator=g)
    kept = draw(torch.log_softmax(states @ head.T, -1), K, torch.rand(9, generator=g))
    _, kl = loss_against(SparseTarget.of(kept), states, head, torch.float32)
    assert kl.abs().max() < 1e-5


def test_no_text_position_at_all() -> None:
    kept, states, head, labels, weights = case()
    nothing = states.detach()[:0].requires_grad_()
    target = SparseTarget.of(Kept(*(x[:0] for x in kept)))
    loss, kl = loss_against(target, nothing, head, torch.float32, labels[:0], 0.5, weights[:0])
    loss.backward()
    assert (loss.item(), kl.shape) == (0, (0,))
    assert np.prod(tuple(nothing.grad.shape)) == 0  # type: ignore[union-attr]
