"""The plan partitions the text; the layout lines up with the teacher; both against cases made by hand."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.trainer.interleave import Span, lay_out, plan_spans, token_modalities

texts = st.lists(st.text("abcd,.é", min_size=1, max_size=6), min_size=1, max_size=60).map(" ".join)
ranges = st.tuples(st.integers(1, 6), st.integers(0, 5)).map(lambda p: (p[0], p[0] + p[1]))


starts = st.sampled_from(["speech", "text", "random"])
patterns = st.sampled_from(["alternate", "random", "prefix"])


@given(texts, st.integers(0, 99), ranges, ranges, starts, patterns)
def test_a_plan_partitions_the_text_and_alternates(text, seed, speech, read, start, pattern) -> None:  # type: ignore[no-untyped-def]
    spans = plan_spans(text, "id", seed, speech, read, start, pattern)
    assert "".join(text[s.char_start : s.char_end] for s in spans) == text
    assert all(a.modality != b.modality for a, b in pairwise(spans))
    assert spans[-1].modality == "text", "something must be left to predict"
    for span in spans:
        words = text[span.char_start : span.char_end].split()
        assert words, "an empty span"
        if span.modality == "speech" and pattern != "random":
            assert len(words) <= speech[1]
    assert spans == plan_spans(text, "id", seed, speech, read, start, pattern)
    if pattern == "prefix" and len(text.split()) > 1:
        assert [s.modality for s in spans] == ["speech", "text"]
    if pattern == "alternate" and start != "random" and len(spans) > 1:
        assert spans[0].modality == start


def test_equal_bounds_make_every_span_equally_long() -> None:
    text = " ".join(f"w{i}" for i in range(40))
    spans = plan_spans(text, "x", 0, (4, 4), (6, 6), "speech")
    assert [len(text[s.char_start : s.char_end].split()) for s in spans] == [4, 6] * 4


def test_the_toss_of_a_coin_gives_half_the_words_to_each_modality() -> None:
    text = " ".join(f"w{i}" for i in range(30))
    plans = [plan_spans(text, str(i), 0, (5, 5), (5, 5), "random", "random") for i in range(400)]
    heard = [sum(len(text[s.char_start : s.char_end].split()) for s in p if s.modality == "speech") for p in plans]
    assert np.mean(heard) / 30 == pytest.approx(0.5, abs=0.03)
    assert min(heard) == 0
    assert max(heard) == 29
    assert any(len(p) == 2 and p[0].modality == "speech" and p[0].char_end > len("w0") * 12 for p in plans), "runs merge"


def test_spans_are_cut_between_words() -> None:
    text = "one two three four five six seven eight nine ten"
    for span in plan_spans(text, "x", 3, (2, 3), (1, 2), "speech"):
        assert re.fullmatch(r" ?\S.*\S|\S+| \S+", text[span.char_start : span.char_end])


def test_other_ids_and_seeds_give_other_plans() -> None:
    text = " ".join("w" for _ in range(60))
    plans = {tuple(plan_spans(text, str(i), 0)) for i in range(20)} | {tuple(plan_spans(text, "0", s)) for s in range(20)}
    assert len(plans) > 20


# "ab cd ef": tokens "ab", " cd", " e", "f"; heard: " cd"
OFFSETS = [(0, 2), (2, 5), (5, 7), (7, 8)]
SPANS = [Span("text", 0, 2), Span("speech", 2, 5), Span("text", 5, 8)]


def test_layout_of_a_hand_made_case() -> None:
    layout = lay_out(OFFSETS, SPANS, [3])
    # student: 0 prefix | 1 ab | 2 3 4 frames | 5 " e" | 6 "f"
    assert layout.length == 7
    assert layout.token_at.tolist() == [0, 1, 5, 6]
    assert layout.token.tolist() == [0, 1, 3, 4]
    assert [f.tolist() for f in layout.frame_at] == [[2, 3, 4]]
    # next token is text: prefix -> ab, last frame -> " e", " e" -> f; teacher reads prefix ab cd e f
    assert layout.student_loss_at.tolist() == [0, 4, 5]
    assert layout.teacher_loss_at.tolist() == [0, 2, 3]


def test_layout_without_ears_skips_the_speech() -> None:
    layout = lay_out(OFFSETS, SPANS, [3], deaf=True)
    assert layout.length == 4
    assert layout.frame_at == []
    assert layout.student_loss_at.tolist() == [0, 1, 2]
    assert layout.teacher_loss_at.tolist() == [0, 2, 3]


def test_layout_of_text_only_is_the_teachers_own_sequence() -> None:
    layout = lay_out(OFFSETS, [Span("text", 0, 8)], [])
    assert layout.student_loss_at.tolist() == layout.teacher_loss_at.tolist() == [0, 1, 2, 3]


def test_a_torn_token_follows_its_last_character() -> None:
    assert token_modalities([(0, 4)], [Span("speech", 0, 3), Span("text", 3, 8)]) == [1]


@given(texts, st.integers(0, 20), st.data())
def test_every_text_token_is_predicted_once_from_the_position_before_it(text, seed, data) -> None:  # type: ignore[no-untyped-def]
    spans = plan_spans(text, "id", seed, (1, 3), (1, 3), "random")
    offsets = [(m.start(), m.end()) for m in re.finditer(r" ?[^ ]{1,2}", text)]
    frames = [data.draw(st.integers(1, 5)) for s in spans if s.modality == "speech"]
    layout = lay_out(offsets, spans, frames)
    of = token_modalities(offsets, spans)
    read = [j for j, s in enumerate(of) if spans[s].modality == "text"]
    assert layout.teacher_loss_at.tolist() == read, "the teacher's position j predicts token j + 1 of w"
    assert (layout.token[1:] == np.array(read) + 1).all()
    assert (layout.student_loss_at + 1 == layout.token_at[1:]).all()
    places = np.concatenate([layout.token_at, *layout.frame_at])
    assert sorted(places.tolist()) == list(range(layout.length))


@pytest.mark.parametrize("text", ["", "word"])
def test_degenerate_texts(text: str) -> None:
    assert [s.modality for s in plan_spans(text, "x", 0)] == (["text"] if text else [])
