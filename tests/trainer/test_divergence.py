"""The KL against float64, its fixed points, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.trainer.divergence import kl_divergence, kl_from_states


def reference(q_logits: np.ndarray, p_logits: np.ndarray) -> np.ndarray:
    """KL in float64, by the definition."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    log_q, log_p = log_softmax(q_logits.astype(np.float64)), log_softmax(p_logits.astype(np.float64))
    with np.errstate(invalid="ignore"):
        terms = np.where(np.exp(log_q) > 0, np.exp(log_q) * (log_q - log_p), 0)
    return terms.sum(-1)


@given(st.integers(0, 2**31), st.floats(0.1, 30))
def test_matches_float64(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    q, p = (rng.normal(size=(5, 97)).astype(np.float32) * scale for _ in range(2))
    found = kl_divergence(torch.from_numpy(q), torch.from_numpy(p)).numpy()
    np.testing.assert_allclose(found, reference(q, p), rtol=2e-4, atol=2e-5)
    assert (found > -1e-5).all()


def test_of_itself_is_zero_and_it_is_not_symmetric() -> None:
    q = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    assert kl_divergence(q, q).abs().max() < 1e-6
    p = q.roll(1, -1)
    assert not torch.allclose(kl_divergence(q, p), kl_divergence(p, q))


def test_shifted_logits_are_the_same_distribution() -> None:
    q, p = torch.randn(3, 20), torch.randn(3, 20)
    assert torch.allclose(kl_divergence(q + 7, p - 3), kl_divergence(q, p), atol=1e-5)


def test_impossible_tokens() -> None:
    inf = float("inf")
    q = torch.tensor([[0.0, 0.0, -inf]])
    assert kl_divergence(q, q).item() == pytest.approx(0.0)
    assert kl_divergence(q, torch.zeros(1, 3)).item() == pytest.approx(np.log(1.5), rel=1e-5)
    assert kl_divergence(torch.zeros(1, 3), q).item() == inf


def test_from_states_is_the_same_in_any_chunk_and_so_are_gradients() -> None:
    torch.manual_seed(1)
    teacher, student = torch.randn(7, 6), torch.randn(7, 5, requires_grad=True)
    head_q, head_p = torch.randn(30, 6), torch.randn(30, 5)
    whole = kl_divergence(teacher @ head_q.T, student @ head_p.T)
    (expected,) = torch.autograd.grad(whole.mean(), student)
    for chunk in (1, 3, 7, 100):
        found = kl_from_states(teacher, student, head_q, head_p, chunk)
        assert torch.allclose(found, whole, atol=1e-6)
        (gradient,) = torch.autograd.grad(found.mean(), student)
        assert torch.allclose(gradient, expected, atol=1e-6)


def test_no_text_position_at_all() -> None:
    assert kl_from_states(torch.zeros(0, 6), torch.zeros(0, 5), torch.zeros(9, 6), torch.zeros(9, 5)).shape == (0,)
