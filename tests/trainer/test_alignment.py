"""CKA against its definition, and what is pooled against positions counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from salad.trainer.alignment import linear_cka, span_alignment, span_places, span_states
from salad.trainer.data import Example, collate
from salad.trainer.interleave import Span
from salad.trainer.student import Student, StudentConfig, load_lm, new_student

STACK = 4
RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def slow_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The same from the definition of the U-statistic: a sum over all four distinct rows (Song et al. 2012, eq. 4)."""
    k, g = x @ x.T, y @ y.T

    def hsic(k: np.ndarray, g: np.ndarray) -> float:
        terms = [k[i, j] * (g[i, j] + g[q, r] - 2 * g[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
        return float(np.mean(terms))

    return hsic(k, g) / (hsic(k, k) * hsic(g, g)) ** 0.5


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def test_it_is_the_definition() -> None:
    for n, d1, d2 in ((4, 3, 2), (7, 3, 5), (8, 20, 12)):
        x = normal(n, d1) + 10
        y = x @ normal(d1, d2) + normal(n, d2)
        assert linear_cka(x, y) == pytest.approx(slow_cka(x, y), abs=1e-9)


def test_many_rows_agree_with_the_plain_estimate() -> None:
    x = normal(4000, 5)
    y = x @ normal(5, 6) + normal(4000, 6)
    assert linear_cka(x, y) == pytest.approx(plain_cka(x, y), abs=0.01)


def test_neither_rotation_nor_scale_nor_shift_matters() -> None:
    x, y = normal(60, 100), normal(60, 40)
    y[:, :20] += x[:, :20]
    turned = x @ np.linalg.qr(normal(100, 100))[0]
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * turned - 5) == pytest.approx(1)
    assert linear_cka(0.01 * turned + 2, y) == pytest.approx(linear_cka(x, y))
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y))
    assert 0.02 < linear_cka(x, y) < 0.9


def test_unrelated_rows_give_nought_even_where_dimensions_outnumber_them() -> None:
    found = [linear_cka(normal(100, 576), normal(100, 576)) for _ in range(20)]
    assert abs(np.mean(found)) < 0.01
    assert np.abs(found).max() < 0.06
    assert plain_cka(normal(100, 576), normal(100, 576)) > 0.8, "what debiasing is for"


def test_too_little_to_tell_is_no_number() -> None:
    assert math.isnan(linear_cka(normal(3, 5), normal(3, 5)))
    assert math.isnan(linear_cka(np.full((9, 5), 0.1), normal(9, 5)))
    with pytest.raises(ValueError, match="9 rows against 8"):
        linear_cka(normal(9, 5), normal(8, 5))


def example(name: str, words: list[str], frames: list[int], first: int, torn: tuple[str, ...] = ()) -> Example:
    """Words, those to be heard in capitals; one token a word, from `first` on. A word in `torn` has none of its own."""
    spans: list[Span] = []
    offsets, at, pending = [], 0, 0
    for word in words:
        end = at + len(word) + (at > 0)
        modality = "speech" if word.isupper() else "text"
        if spans and spans[-1].modality == modality:
            spans[-1] = Span(spans[-1].modality, spans[-1].char_start, end)
        else:
            spans.append(Span(modality, at, end))  # type: ignore[arg-type]
        if word not in torn:
            offsets.append((pending, end))
            pending = end
        at = end
    tokens = np.array([0, *range(first, first + len(offsets))])
    read = sum(any(s.char_start < end <= s.char_end for s in spans if s.modality == "text") for _, end in offsets)
    features = [normal(n, 16).astype(np.float32) for n in frames]
    return Example(name, tokens, offsets, spans, features, np.zeros((read, 32), np.int16))


EXAMPLES = [
    example("one", ["AB", "CD", "ef", "gh", "IJ", "kl"], [6, 4], first=10),
    example("two", ["a", "BC", "DE", "FG", "h"], [13], first=20),
    example("torn", ["a", "BC", "de", "FG", "hi"], [4, 8], first=30, torn=("BC",)),
    example("silent", ["AB", "cd", "EF", "gh"], [0, 3], first=40),
    example("read", ["ab", "cd"], [], first=50),
]
# By hand, at four frames a position: mean place of each span's frames in c, of its tokens in w, and mean token.
BY_HAND = [
    (1.5, 1.5, 10.5),  # one: prefix, AB CD in positions 1 and 2 …
    (5.0, 5.0, 14.0),  # … ef gh in 3 and 4, IJ in 5
    (3.5, 3.0, 22.0),  # two: 13 frames are four positions, 2 to 5
    (4.5, 3.0, 32.0),  # torn: BC is heard in 2 but its token ends in de; FG is heard in 4 and 5
    (2.0, 3.0, 42.0),  # silent: AB made no frame; cd in 1, EF in 2
]


def stand_in() -> Any:
    """Its states are (position, token id) and, a layer up, twice that."""

    def hidden_states(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        ids = batch["token_ids"]
        states = torch.stack([torch.arange(ids.shape[1]).expand_as(ids), ids], dim=-1).float()
        return states, 2 * states

    lm = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=1))
    about = SimpleNamespace(stack=STACK)
    return SimpleNamespace(
        eval=lambda: None, config=about, hidden_states=hidden_states, language_model=lm, device=torch.device("cpu")
    )


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_pooled_positions_are_those_counted_by_hand(batch_size: int) -> None:
    done: list[int] = []
    heard, read = span_states(stand_in(), EXAMPLES, batch_size, done.append)
    assert heard.shape == read.shape == (2, 5, 2)
    found = sorted((float(h[0]), float(r[0]), float(r[1])) for h, r in zip(heard[0], read[0], strict=True))
    assert found == sorted(BY_HAND)
    assert (heard[0, :, 1] == 0).all(), "a place that is heard holds no token"
    assert (heard[1] == 2 * heard[0]).all()
    assert done[-1] == 4, "a text without speech is not run"


def test_texts_that_are_only_read_have_no_alignment() -> None:
    found = span_alignment(stand_in(), EXAMPLES[-1:])
    assert len(found) == 2
    assert all(map(math.isnan, found))


def student_of(fake_models: dict[str, str], lm_training: str) -> Student:
    sizes = {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}
    config = StudentConfig("tiny", lm_training, encoder_width=16, encoder_frame_rate=50.0, **sizes)
    return new_student(config, load_lm(fake_models["lm"], torch.float32), seed=3).eval()


def ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(rows[:, 0])]


@pytest.mark.parametrize("lm_training", ["frozen", "full"])
def test_a_students_layers_are_pooled_where_its_spans_are(fake_models: dict[str, str], lm_training: str) -> None:
    student = student_of(fake_models, lm_training)
    assert student.config.stack == STACK
    places = [(b, *place) for b, e in enumerate(EXAMPLES) for place in span_places(e, STACK)]
    found = span_states(student, EXAMPLES, batch_size=2)
    for side, hearing in ((0, "speech"), (1, "text")):
        batch = collate(EXAMPLES, STACK, hearing)
        layers = student.hidden_states(batch)
        assert len(layers) == 3
        assert torch.equal(layers[-1], student.states(batch))
        for layer, states in enumerate(layers):
            wanted = np.array([states[b, place[side]].mean(0).tolist() for b, *place in places])
            assert np.allclose(ordered(found[side][layer]), ordered(wanted), atol=1e-5), (hearing, layer)


class Mimic(torch.nn.Module):
    """Ears that hear the words as the LM reads them: its features are already the tokens' embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames * self.scale


def test_a_student_that_hears_what_it_reads_is_aligned_in_every_layer(fake_models: dict[str, str]) -> None:
    student = student_of(fake_models, "frozen")
    student.adapter, student.config.frame_rate = Mimic(), 50.0  # one frame a position
    embeddings = student.language_model.get_input_embeddings().weight.detach().numpy()
    words = ["ab", "CD", "EF", "gh", "IJ", "kl"]
    examples = []
    for i in range(6):
        e = example(f"e{i}", words, [2, 1], first=10 + 7 * i)
        heard = [embeddings[e.tokens[[2, 3]]], embeddings[e.tokens[[5]]]]
        examples.append(replace(e, frames=heard))
    assert span_alignment(student, examples) == pytest.approx([1, 1, 1])
    deafened = replace(examples[5], frames=[normal(2, 32).astype(np.float32), normal(1, 32).astype(np.float32)])
    assert max(span_alignment(student, [*examples[:5], deafened])) < 0.99
    assert span_alignment(student, [*examples[:5], deafened], texts=5) == pytest.approx([1, 1, 1])
