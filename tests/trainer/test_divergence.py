"""The KL against float64, its fixed points, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as nn

from salad.errors import SaladError
from salad.trainer.divergence import compare, distillation_loss, kl_divergence, mean_by_text, text_weights


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


M, D_TEACHER, D_STUDENT, VOCABULARY = 23, 6, 5, 40


def case(seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random states and heads of a teacher and a student of different widths."""
    g = torch.Generator().manual_seed(seed)
    return {
        "teacher_states": torch.randn(M, D_TEACHER, generator=g).to(dtype),
        "student_states": torch.randn(M, D_STUDENT, generator=g).to(dtype).requires_grad_(),
        "teacher_head": torch.randn(VOCABULARY, D_TEACHER, generator=g).to(dtype),
        "student_head": torch.randn(VOCABULARY, D_STUDENT, generator=g).to(dtype).requires_grad_(),
        "labels": torch.randint(VOCABULARY, (M,), generator=g),
        "weights": torch.rand(M, generator=g),
    }


def plain(c: dict[str, torch.Tensor], alpha: float, t: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Loss, KL of each position and gradients by autograd, in float64, the textbook way."""
    q, s, hq, hs = (c[k].detach().double() for k in ("teacher_states", "student_states", "teacher_head", "student_head"))
    s, hs = s.requires_grad_(), hs.requires_grad_()
    log_q, log_p = torch.log_softmax(q @ hq.T / t, -1), torch.log_softmax(s @ hs.T / t, -1)
    kl = t**2 * (log_q.exp() * (log_q - log_p)).sum(-1)
    nll = nn.cross_entropy(s @ hs.T, c["labels"], reduction="none")
    loss = (c["weights"].double() * (alpha * kl + (1 - alpha) * nll)).sum()
    return loss, kl, list(torch.autograd.grad(loss, [s, hs]))


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5) -> None:
    assert float((found.double() - expected).norm()) <= rtol * float(expected.norm())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_value_and_gradients_are_those_of_float64(alpha: float, rows: int, temperature: float) -> None:
    c = case()
    loss, kl = distillation_loss(**c, alpha=alpha, chunk=rows * VOCABULARY, temperature=temperature)
    expected, expected_kl, gradients = plain(c, alpha, temperature)
    assert_close(loss.detach(), expected.detach())
    assert_close(kl, expected_kl.detach())
    for found, wanted in zip(torch.autograd.grad(loss, [c["student_states"], c["student_head"]]), gradients, strict=True):
        assert_close(found, wanted)


def test_gradients_scale_with_what_comes_from_above_and_are_given_once() -> None:
    c = case()
    loss, _ = distillation_loss(**c)
    (once,) = torch.autograd.grad(distillation_loss(**c)[0], c["student_states"])
    (thrice,) = torch.autograd.grad(3 * loss, c["student_states"], retain_graph=True)
    assert_close(thrice, 3 * once.double())
    with pytest.raises(RuntimeError, match="one backward pass"):
        torch.autograd.grad(loss, c["student_states"])


def test_a_tied_head_gets_its_gradient_through_both_ways() -> None:
    c = case()
    table = c["student_head"]
    tied = {**c, "student_states": table[:M] * 2.0}
    (found,) = torch.autograd.grad(distillation_loss(**tied)[0], table)
    t, ht = c["teacher_states"].detach(), c["teacher_head"].detach()
    rows = kl_divergence(t @ ht.T, table[:M] * 2.0 @ table.T)
    (expected,) = torch.autograd.grad((c["weights"] * rows).sum(), table)
    assert_close(found, expected.double())


def test_the_default_is_the_mean_over_positions_and_text_weights_the_mean_over_texts() -> None:
    c = case()
    del c["weights"]
    loss, kl = distillation_loss(**c)
    assert loss.item() == pytest.approx(kl.mean().item(), rel=1e-6)
    owner = torch.tensor([0] * 3 + [2] * (M - 3))  # text 1 has no position
    loss, kl = distillation_loss(**c, weights=text_weights(owner))
    assert loss.item() == pytest.approx((kl[:3].mean() + kl[3:].mean()).item() / 2, rel=1e-6)
    means = mean_by_text(kl, owner, 3)
    assert means[[0, 2]].mean().item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.isnan(means[1])


def test_bfloat16_states_and_heads_lose_only_the_rounding_of_the_logits() -> None:
    c = case(dtype=torch.bfloat16)
    loss, _ = distillation_loss(**c)
    expected, _, gradients = plain(c, 1.0)
    assert_close(loss.detach(), expected.detach(), rtol=1e-2)
    found = torch.autograd.grad(loss, [c["student_states"], c["student_head"]])
    assert [g.dtype for g in found] == [torch.bfloat16] * 2
    for g, wanted in zip(found, gradients, strict=True):
        assert_close(g, wanted, rtol=2e-2)


def test_tokens_that_neither_or_only_the_student_holds_possible() -> None:
    c = case()
    for k in ("teacher_states", "student_states"):
        c[k] = c[k].detach().abs()
    c["teacher_head"][3] = -torch.inf  # positive states: a logit of -inf
    student_head = c["student_head"].detach().clone()
    _, kl = distillation_loss(**{**c, "student_head": student_head, "student_states": c["student_states"].requires_grad_()})
    assert torch.isfinite(kl).all()
    student_head[3] = -torch.inf
    _, both = distillation_loss(**{**c, "student_head": student_head})
    assert torch.isfinite(both).all()
    c["teacher_head"][3] = 0.0
    _, only_student = distillation_loss(**{**c, "student_head": student_head})
    assert (only_student == torch.inf).all()


def test_no_text_position_at_all() -> None:
    c = case()
    empty = {k: v if "head" in k else v[:0] for k, v in c.items()}
    empty["student_states"] = empty["student_states"].detach().requires_grad_()
    loss, kl = distillation_loss(**empty)
    loss.backward()
    assert loss.item() == 0
    assert kl.shape == (0,)
    assert empty["student_states"].grad.shape == (0, D_STUDENT)  # type: ignore[union-attr]
    states = (empty["teacher_states"], None, empty["student_states"])
    assert compare(*states, c["teacher_head"], c["student_head"], empty["labels"]).divergence.shape == (0,)


def test_compare_is_five_numbers_a_position() -> None:
    c = case()
    read = torch.randn(M, D_STUDENT)
    heads = (c["teacher_head"], c["student_head"])
    found = compare(c["teacher_states"], read, c["student_states"], *heads, c["labels"], chunk=5 * VOCABULARY)
    q, r, p = c["teacher_states"] @ heads[0].T, read @ heads[1].T, c["student_states"] @ heads[1].T
    log_q = torch.log_softmax(q, -1)
    for rows, expected in zip(
        found,
        [
            kl_divergence(q, p),
            kl_divergence(r, p),
            kl_divergence(q, r),
            -(log_q.exp() * log_q).sum(-1),
            -log_q.gather(1, c["labels"][:, None]).squeeze(1),
        ],
        strict=True,
    ):
        assert_close(rows, expected.detach().double())
    frozen = compare(c["teacher_states"], None, c["student_states"], *heads, c["labels"])
    assert torch.equal(frozen.misalignment, frozen.divergence)
    assert (frozen.forgetting == 0).all()
    assert_close(frozen.divergence, found.divergence.double())


def test_two_vocabularies_are_refused_with_both_sizes() -> None:
    c = case()
    with pytest.raises(SaladError, match=r"40 tokens.*39"):
        distillation_loss(**{**c, "student_head": c["student_head"][:39]})
    with pytest.raises(SaladError, match=r"40 tokens.*39"):
        compare(c["teacher_states"], None, c["student_states"], c["teacher_head"], c["student_head"][:39], c["labels"])


def test_alpha_below_one_wants_labels() -> None:
    with pytest.raises(ValueError, match="labels"):
        distillation_loss(**{**case(), "labels": None}, alpha=0.5)
