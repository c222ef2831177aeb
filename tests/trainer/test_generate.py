"""Answers: greedy is the argmax of the very states that training sees, prompts are plain text, long sounds are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.trainer.data import Utterance, collate, load_examples, prepare
from salad.trainer.generate import cut_at_quiet
from salad.trainer.student import Student, StudentConfig, load_lm, new_student
from tests.fakes import RATE, ToneEngine
from tests.trainer.encoders.tiny import write_qwen

SIZES = {"encoder_width": 16, "encoder_frame_rate": 50.0, "layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}
TEXT = "stir the warm soup with salt"
WAVE = ToneEngine().synthesize(["stir the warm"], "tone")[0].wave


@pytest.fixture(scope="module")
def student(fake_models: dict[str, str]) -> Student:
    config = StudentConfig(lm=fake_models["lm"], encoder=fake_models["encoder"], **SIZES)
    return new_student(config, load_lm(fake_models["lm"], torch.float32), seed=3)


@pytest.mark.parametrize("read", ["", " soup", " soup with", " soup with salt"])
@pytest.mark.parametrize("marker", ["", "<audio>"])
def test_greedy_is_the_argmax_of_the_states_of_training(student: Student, tmp_path: Path, marker: str, read: str) -> None:
    """The same words, prepared and collated as training does; the last state is the one that says what comes next."""
    utterance = Utterance("u", TEXT[:13] + read + " and", [(0, 13)], [WAVE], RATE)
    prepare([utterance], tmp_path, student.speech_encoder, student.language_model, student.tokenizer, 512, 4)
    batch = collate(load_examples(tmp_path), 4)
    said = len(student.tokenizer(" and")["input_ids"])
    with torch.no_grad():
        logits = student.eval().states_at_loss(batch) @ student.head().T
    likeliest = logits.argmax(-1)[-said:][:1]
    expected = student.tokenizer.decode(likeliest, skip_special_tokens=True)
    assert student.generate((WAVE, RATE), marker + read, max_new_tokens=1) == expected


def test_where_the_sound_goes_and_what_is_heard_matter(student: Student) -> None:
    answers = {
        student.generate((WAVE, RATE), "the party", max_new_tokens=12),
        student.generate((WAVE, RATE), "the party<audio>", max_new_tokens=12),
        student.generate((WAVE[::2].copy(), RATE), "the party", max_new_tokens=12),
        student.generate(None, "the party", max_new_tokens=12),
    }
    assert len(answers) == 4


def test_a_sound_of_another_rate_is_resampled(student: Student) -> None:
    from salad.audio import resample

    heard: list[int] = []
    encode = student.speech_encoder.encode
    student.__dict__["speech_encoder"].encode = lambda waves: heard.extend(map(len, waves)) or encode(waves)
    try:
        student.generate((resample(WAVE, RATE, 24_000), 24_000), max_new_tokens=1)
    finally:
        del student.__dict__["speech_encoder"].encode
    assert heard == [len(WAVE)]


def test_it_streams_what_it_returns(student: Student) -> None:
    parts: list[str] = []
    said = student.generate((WAVE, RATE), "the", max_new_tokens=80, temperature=2.0, write=parts.append)
    assert "".join(parts) == said
    assert len(parts) > 1


def test_draws_depend_on_the_seed_alone_and_leave_the_generator_be(student: Student) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)

    def draw(seed: int) -> str:
        return student.generate(None, "the", max_new_tokens=12, temperature=1.5, top_p=0.9, seed=seed)

    torch.manual_seed(1)
    first = draw(0)
    assert torch.equal(torch.rand(1), expected)
    assert draw(0) == first
    assert len({draw(seed) for seed in range(4)}) > 1


def test_it_ends_at_the_end_and_says_nothing_beyond_its_vocabulary(student: Student, tmp_path: Path) -> None:
    name = str(write_qwen(tmp_path, tied=False, padding=9))
    lm = load_lm(name, torch.float32)
    student = new_student(StudentConfig(lm=name, **SIZES), lm, seed=3)
    head = lm.get_output_embeddings().weight
    with torch.no_grad():
        state = lm.get_decoder()(input_ids=torch.tensor([[0, *student.tokenizer("the")["input_ids"]]])).last_hidden_state[0, -1]
        head[-1] = 100 * state  # a row beyond the vocabulary is the likeliest
        said = student.generate(None, "the", max_new_tokens=5)
        assert said
        head[0] = 50 * state  # then the end
        assert student.generate(None, "the", max_new_tokens=5) == ""


def test_control_tokens_in_a_prompt_are_plain_text(student: Student) -> None:
    ids: list[torch.Tensor] = []
    embed = student.language_model.get_input_embeddings()
    hook = embed.register_forward_pre_hook(lambda _, given: ids.append(given[0]))
    student.generate(None, "the<s>end", max_new_tokens=1)
    hook.remove()
    assert 0 in ids[0], "the prefix token"
    assert all(0 not in i for i in ids[1:3]), "<s> of a prompt is three characters"


def test_the_mode_comes_back(student: Student) -> None:
    for mode in (True, False):
        student.train(mode)
        student.generate(None, "the", max_new_tokens=1)
        assert student.training is mode


BAD = [
    (None, "", "neither sound nor text"),
    (None, "<audio>", "there is no sound"),
    ((WAVE, RATE), "<audio> and <audio>", "more than once"),
    ((np.zeros(0, np.float32), RATE), "", "empty"),
    ((np.full(9, np.nan, np.float32), RATE), "", "not finite"),
    ((np.zeros((9, 2), np.float32), RATE), "", "not mono"),
    ((np.zeros(RATE * 60, np.float32), RATE), "", r"60 s of sound need 750 positions, where the LM has room for 383"),
    (None, "salt " * 600, r"and 128 new tokens are more than the 512"),
]


@pytest.mark.parametrize(("audio", "prompt", "says"), BAD)
def test_what_cannot_be_answered_is_said(student: Student, audio: Any, prompt: str, says: str) -> None:
    with pytest.raises(SaladError, match=says):
        student.generate(audio, prompt)


def test_long_sounds_are_heard_in_pieces(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salad.trainer.generate.PIECE", 0.5)
    seconds: list[float] = []
    encode = student.speech_encoder.encode
    monkeypatch.setattr(student.speech_encoder, "encode", lambda w: seconds.extend(len(x) / RATE for x in w) or encode(w))
    student.generate((np.tile(WAVE, 3), RATE), max_new_tokens=1)
    assert len(seconds) > 3
    assert max(seconds) <= 0.5
    assert sum(seconds) == pytest.approx(3 * len(WAVE) / RATE)


@given(st.integers(0, 5000), st.integers(0, 2**31), st.floats(0.01, 2.0))
def test_pieces_are_the_wave_and_none_is_too_long(n: int, seed: int, longest: float) -> None:
    wave = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    pieces = cut_at_quiet(wave, 1000, longest)
    assert np.array_equal(np.concatenate(pieces), wave)
    assert all(len(p) <= max(longest * 1000, 2) for p in pieces)
    assert all(len(p) for p in pieces) or n == 0


def test_cuts_are_where_it_is_quiet() -> None:
    wave = np.ones(10_000, np.float32)
    for quiet in (3_300, 5_900, 9_100):
        wave[quiet - 150 : quiet + 150] = 0.01
    ends = np.cumsum([len(p) for p in cut_at_quiet(wave, 1000, 4.0)])
    assert [min(abs(ends - quiet)) <= 150 for quiet in (3_300, 5_900, 9_100)] == [True] * 3
