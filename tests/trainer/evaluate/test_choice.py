"""Multiple choice from a shared cache: the numbers of one pass for each option, whatever is heard, padded or batched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from salad.errors import SaladError
from salad.trainer.data import prefix_token
from salad.trainer.evaluate import Context, Question, answer, listener, option_priors, reader
from salad.trainer.evaluate.choice import Reader, option_log_probs
from salad.trainer.student import Student, StudentConfig, load_lm, new_student

WORDS = "stir the warm soup with salt and pepper the patient shows a mild defect licence agreement".split()


@pytest.fixture(scope="module")
def lm(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


@pytest.fixture(scope="module")
def tokenizer(fake_models: dict[str, str]) -> Any:
    return AutoTokenizer.from_pretrained(fake_models["lm"])


@pytest.fixture(scope="module")
def student(lm: Any) -> Student:
    config = StudentConfig(lm="tiny", encoder_width=16, encoder_frame_rate=50.0, layers=1, width=16, mlp=32, heads=2, kv_heads=1)
    return new_student(config, lm, seed=3)


def questions(seed: int, n: int = 5, heard: bool = True) -> list[Question]:
    """Random words; the first part of each context is heard in two spans."""
    rng = np.random.default_rng(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(low, high))))

    found = []
    for i in range(n):
        first, second = words(1, 6), " " + words(1, 4)
        text = first + second + "\nAnswer:"
        spoken = [(0, len(first)), (len(first), len(first + second))] if heard else []
        frames = [rng.normal(size=(int(rng.integers(1, 30)), 16)).astype(np.float16) for _ in spoken]
        options = [" " + words(1, 7) for _ in range(int(rng.integers(2, 5)))]
        found.append(Question(f"q{i}", Context(text, spoken, frames), options, 0))
    return found


def one_by_one(who: Reader, question: Question, tokenizer: Any, before: str = "", student: Student | None = None) -> list[float]:
    """log P of each option from a pass of its own, without cache or padding: the definition."""
    text, spoken = question.context.text, list(question.context.spoken) if student else []

    def ids(words: str) -> torch.Tensor:
        return torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"], dtype=torch.long)

    def read(words: str) -> torch.Tensor:
        return who.lm.get_input_embeddings()(ids(words))

    pieces = [who.lm.get_input_embeddings()(torch.tensor([prefix_token(tokenizer)])), read(before)]
    at = 0
    for (start, end), frames in zip(spoken, question.context.frames, strict=False):
        pieces.append(read(text[at:start]))
        assert student is not None
        stack = student.config.stack
        padded = np.zeros((-(-len(frames) // stack) * stack, frames.shape[1]), np.float32)
        padded[: len(frames)] = frames
        pieces.append(student.adapter(torch.from_numpy(padded)[None])[0])
        at = end
    pieces.append(read(text[at:]))
    context = torch.cat(pieces)
    found = []
    for option in question.options:
        labels = ids(option)
        states = who.lm.get_decoder()(inputs_embeds=torch.cat([context, read(option)])[None]).last_hidden_state[0]
        log_p = torch.log_softmax(states[len(context) - 1 : -1] @ who.lm.get_output_embeddings().weight.T, -1)
        found.append(float(log_p.gather(1, labels[:, None]).double().sum()))
    return found


@torch.inference_mode()
@pytest.mark.parametrize("positions", [1, 100, 10_000])
def test_what_is_read_scores_as_in_a_pass_of_its_own(lm: Any, tokenizer: Any, positions: int) -> None:
    asked = questions(1, 9)
    found = option_log_probs(reader(lm), asked, tokenizer, positions=positions)
    for question, row in zip(asked, found, strict=True):
        assert row == pytest.approx(one_by_one(reader(lm), question, tokenizer), abs=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("positions", [1, 10_000])
def test_what_is_heard_scores_as_in_a_pass_of_its_own(student: Student, tokenizer: Any, positions: int) -> None:
    asked = questions(2, 9)
    found = option_log_probs(listener(student), asked, tokenizer, positions=positions)
    for question, row in zip(asked, found, strict=True):
        assert row == pytest.approx(one_by_one(listener(student), question, tokenizer, student=student), abs=1e-4)


@torch.inference_mode()
def test_shots_come_before_every_question_and_are_read_once(lm: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, shots = questions(3, 6, heard=False), Context("stir the soup\nAnswer: with salt\n\n" * 9)
    seen = []
    embeddings = lm.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, inputs, out: seen.append(out.shape[1]))
    try:
        found = option_log_probs(reader(lm), asked, tokenizer, shots, positions=60)
    finally:
        hook.remove()
    n_shots = 1 + len(tokenizer(shots.text)["input_ids"])
    assert sum(n >= n_shots for n in seen) == 1
    for question, row in zip(asked, found, strict=True):
        assert row == pytest.approx(one_by_one(reader(lm), question, tokenizer, shots.text), abs=1e-4)


@torch.inference_mode()
def test_shots_are_heard_too(student: Student, tokenizer: Any) -> None:
    asked = questions(4, 3)
    heard = questions(5, 1)[0].context
    shots = Context(heard.text + " warm soup\n\n", heard.spoken, heard.frames)
    found = option_log_probs(listener(student), asked, tokenizer, shots)
    for question, row in zip(asked, found, strict=True):
        n = len(shots.text)
        moved = [(a + n, b + n) for a, b in question.context.spoken]
        joined = Context(shots.text + question.context.text, [*shots.spoken, *moved], [*shots.frames, *question.context.frames])
        whole = one_by_one(listener(student), replace(question, context=joined), tokenizer, student=student)
        assert row == pytest.approx(whole, abs=1e-4)


@given(st.integers(0, 10_000))
def test_batching_order_and_neighbours_change_nothing(lm: Any, tokenizer: Any, seed: int) -> None:
    asked = questions(seed, 4, heard=False)
    order = np.random.default_rng(seed).permutation(4)
    found = option_log_probs(reader(lm), asked, tokenizer)
    again = option_log_probs(reader(lm), [asked[i] for i in order], tokenizer, positions=40)
    for i, row in zip(order, again, strict=True):
        assert row == pytest.approx(found[i], abs=1e-4)


def test_deaf_a_student_reads_what_is_left(student: Student, tokenizer: Any) -> None:
    asked = questions(6, 3)
    deaf = option_log_probs(listener(student, "nothing"), asked, tokenizer)
    other = [replace(q, context=replace(q.context, frames=[f + 1 for f in q.context.frames])) for q in asked]
    assert all(
        np.array_equal(a, b) for a, b in zip(deaf, option_log_probs(listener(student, "nothing"), other, tokenizer), strict=True)
    )
    heard = option_log_probs(listener(student), asked, tokenizer)
    assert not any(np.allclose(a, b) for a, b in zip(deaf, heard, strict=True))


def test_what_is_chosen_and_how(lm: Any, tokenizer: Any) -> None:
    asked = [
        Question("same", Context("stir the"), [" soup", " soup", " soup"], 2),
        Question("length", Context("stir the"), [" warm", " warm soup with salt and pepper the patient"], 0),
    ]
    found = answer(reader(lm), asked, tokenizer)
    assert found.ties.tolist() == [True, False]
    assert found.chosen[0] == found.chosen_normalised[0] == 0  # the first of equals
    per_character = found.log_probs[1] / [len("warm"), len("warm soup with salt and pepper the patient")]
    assert found.chosen[1] == found.log_probs[1].argmax() == 0
    assert found.chosen_normalised[1] == per_character.argmax()
    assert answer(reader(lm), asked, tokenizer, normalise="none").chosen_normalised[1] == found.chosen[1]


@torch.inference_mode()
def test_less_what_is_likely_without_a_prompt(lm: Any, tokenizer: Any) -> None:
    asked = questions(7, 6)
    priors = option_priors(lm, asked, tokenizer)
    bare = [replace(q, context=Context("")) for q in asked]
    for question, row in zip(bare, priors, strict=True):
        assert row == pytest.approx(one_by_one(reader(lm), question, tokenizer), abs=1e-4)
    found = answer(reader(lm), asked, tokenizer, normalise="prior")
    gains = [row - prior for row, prior in zip(found.log_probs, priors, strict=True)]
    assert found.chosen_normalised.tolist() == [int(g.argmax()) for g in gains]
    assert found.chosen_normalised.tolist() != found.chosen.tolist()
    zero = [np.zeros(len(q.options)) for q in asked]
    assert (answer(reader(lm), asked, tokenizer, normalise="prior", priors=zero).chosen_normalised == found.chosen).all()


def test_a_token_across_the_border_belongs_to_the_option(lm: Any, tokenizer: Any) -> None:
    """ "soup" may be one token: with the context "so" and the option "up" it is predicted whole."""
    (row,) = option_log_probs(reader(lm), [Question("torn", Context("the warm so"), ["up", "lt"], 0)], tokenizer)
    whole = Question("whole", Context("the warm"), [" soup", " solt"], 0)
    assert row == pytest.approx(one_by_one(reader(lm), whole, tokenizer), abs=1e-4)


def test_what_cannot_be_asked_is_named(lm: Any, tokenizer: Any) -> None:
    with pytest.raises(SaladError, match="question empty has an option without a token"):
        option_log_probs(reader(lm), [Question("empty", Context("stir"), ["", " soup"], 0)], tokenizer)
    with pytest.raises(SaladError, match=r"question q0 needs .* above interleave.max_positions"):
        option_log_probs(reader(lm), questions(1, 1), tokenizer, max_positions=3)
    assert option_log_probs(reader(lm), [], tokenizer) == []
