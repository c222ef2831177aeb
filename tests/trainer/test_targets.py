"""Three ways to the teacher's distribution, one loss; and batches that were made for another way are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from salad.errors import SaladError
from salad.trainer.data import Utterance, collate, load_examples, prepare
from salad.trainer.interleave import plan_spans
from salad.trainer.student import load_lm
from salad.trainer.targets import PREPARED, FromOnline, FromStates, FromTopK, make_loss, teacher_states
from tests.fakes import WORDS
from tests.trainer.test_data import STACK, Ears

KINDS = ("states", "cached", "online")


@pytest.fixture(scope="module")
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


def utterances() -> list[Utterance]:
    found = []
    for i, text in enumerate(WORDS.values()):
        spans = plan_spans(text, str(i), 1, (2, 4), (2, 6))
        spoken = [(s.char_start, s.char_end) for s in spans if s.modality == "speech"]
        found.append(Utterance(str(i), text, spoken, [np.ones(2000, np.float32)] * len(spoken), 16_000))
    return found


@pytest.fixture(scope="module")
def batches(fake_models: dict[str, str], teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same texts as every kind of teacher wants them; the states as exact as the teacher's."""
    tokenizer, base, made = AutoTokenizer.from_pretrained(fake_models["lm"]), tmp_path_factory.mktemp("prepared"), {}
    for kind in KINDS:
        prepare(utterances(), base / kind, Ears(), teacher, tokenizer, 512, STACK, targets=PREPARED[kind], k=400)
        made[kind] = collate(load_examples(base / kind), STACK)
    with torch.inference_mode():
        read = teacher.get_decoder()(input_ids=made["states"]["teacher_ids"]).last_hidden_state
    made["states"]["teacher"] = read.reshape(-1, 32)[made["states"]["teacher_at"]].clone()
    return made


def student(batch: dict[str, Any], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random states and head of a student, weights."""
    g = torch.Generator().manual_seed(seed)
    m = len(batch["labels"])
    return (
        torch.randn(m, 32, generator=g).requires_grad_(),
        torch.randn(400, 32, generator=g).requires_grad_(),
        torch.rand(m, generator=g),
    )


def loss_of(kind: Any, batch: dict[str, Any], teacher: Any, seed: int = 0, **options: Any) -> list[torch.Tensor]:
    """Loss, KL of each position, gradients."""
    states, head, weights = student(batch, seed)
    loss, kl = make_loss(kind, None if kind == "cached" else teacher, **options)(batch, states, head, weights)
    return [loss.detach(), kl, *torch.autograd.grad(loss, [states, head])]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from([1.0, 0.5, 2.0]))
def test_online_is_states(batches: dict[str, Any], teacher: Any, seed: int, alpha: float, temperature: float) -> None:
    options = {"seed": seed, "alpha": alpha, "temperature": temperature}
    for a, b in zip(*(loss_of(kind, batches[kind], teacher, **options) for kind in ("states", "online")), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_all_tokens_kept_is_states_but_for_float16(batches: dict[str, Any], teacher: Any, alpha: float) -> None:
    for a, b in zip(*(loss_of(kind, batches[kind], teacher, alpha=alpha) for kind in ("states", "cached")), strict=True):
        assert float((a - b).norm() / a.norm()) < 2e-3


def test_targets_are_kept_at_the_temperature_they_are_for(
    fake_models: dict[str, str], batches: dict[str, Any], teacher: Any, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    prepare(utterances(), tmp_path, Ears(), teacher, tokenizer, 512, STACK, targets="top_k", k=400, temperature=2.0)
    batch = collate(load_examples(tmp_path), STACK)
    for a, b in zip(
        loss_of("states", batches["states"], teacher, temperature=2.0),
        loss_of("cached", batch, teacher, temperature=2.0),
        strict=True,
    ):
        assert float((a - b).norm() / a.norm()) < 2e-3
    with pytest.raises(SaladError, match=r"kept at temperature 2, train.temperature is 1"):
        loss_of("cached", batch, teacher)


def test_few_tokens_kept_are_near_states_in_the_mean(
    fake_models: dict[str, str], batches: dict[str, Any], teacher: Any, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    exact = loss_of("states", batches["states"], teacher)
    found: list[list[torch.Tensor]] = []
    for seed in range(40):
        out = tmp_path / str(seed)
        prepare(utterances(), out, Ears(), teacher, tokenizer, 512, STACK, targets="top_k", k=64, seed=seed)
        found.append(loss_of("cached", collate(load_examples(out), STACK), teacher))
    losses, gradients = torch.stack([f[0] for f in found]), torch.stack([f[2] for f in found])
    assert losses.mean() == pytest.approx(float(exact[0]), rel=5e-3)
    error = (gradients.mean(0) - exact[2]).norm() / exact[2].norm()
    single = (gradients[0] - exact[2]).norm() / exact[2].norm()
    assert error < single / 4, "what is wrong in one draw is gone in the mean of forty"


def test_the_teacher_gets_no_gradient_and_company_changes_nothing(
    fake_models: dict[str, str], teacher: Any, batches: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    prepare(utterances(), tmp_path, Ears(), teacher, tokenizer, 512, STACK, targets="none")
    states, head, weights = student(batches["online"])
    alone, at = [], 0
    for e in load_examples(tmp_path):
        batch = collate([e], STACK)
        rows = slice(at, at + len(batch["labels"]))
        alone.append(FromOnline(teacher)(batch, states[rows], head, weights[rows])[1])
        at = rows.stop
    loss, kl = FromOnline(teacher)(batches["online"], states, head, weights)
    assert torch.allclose(torch.cat(alone), kl, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_teacher_stays_as_it_is(batches: dict[str, Any], teacher: Any, kind: str) -> None:
    plain = loss_of(kind, batches[kind], teacher)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_of(kind, batches[kind], teacher)
    if kind == "cached":  # no teacher says what the student's products run in
        assert not torch.equal(plain[1], cast[1])
        assert torch.allclose(plain[1], cast[1], rtol=0.05, atol=0.05)
    else:
        assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_cached_wants_no_teacher_and_the_others_do(teacher: Any) -> None:
    assert make_loss("cached", None, 0.5, 2.0) == FromTopK(0.5, 2.0)
    assert isinstance(make_loss("online", teacher), FromOnline)
    assert isinstance(make_loss("states", teacher), FromStates)
    for kind in ("states", "online"):
        with pytest.raises(ValueError, match=f"train.teacher: {kind} needs the teacher"):
            make_loss(kind, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", ["states", "cached"])
@pytest.mark.parametrize("made", KINDS)
def test_a_batch_for_another_kind_is_refused(batches: dict[str, Any], teacher: Any, wanted: str, made: str) -> None:
    if wanted == made:
        loss_of(wanted, batches[made], teacher)
        return
    with pytest.raises(SaladError, match=f"text 0 was prepared for train.teacher: {made}, and this needs what {wanted} keeps"):
        loss_of(wanted, batches[made], teacher)


@pytest.mark.parametrize("made", KINDS)
def test_online_takes_any_batch_and_measuring_only_states(batches: dict[str, Any], teacher: Any, made: str) -> None:
    assert torch.isfinite(loss_of("online", batches[made], teacher)[0])
    if made == "states":
        assert teacher_states(batches[made]) is batches[made]["teacher"]
    else:
        with pytest.raises(SaladError, match="this needs what states keeps"):
            teacher_states(batches[made])


@pytest.mark.parametrize("kind", KINDS)
def test_two_vocabularies_are_refused(batches: dict[str, Any], teacher: Any, kind: str) -> None:
    states, head, weights = student(batches[kind])
    with pytest.raises(SaladError, match=r"400 tokens, the student.* 399"):
        make_loss(kind, teacher)(batches[kind], states, head[:399], weights)  # type: ignore[arg-type]
