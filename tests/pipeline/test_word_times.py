"""A transcript's words and an aligner's are matched, and spans are cut where both have an edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.pipeline.recordings import Word
from salad.pipeline.word_times import Times, align

RATE = 1000


def every_second(text: str) -> list[Word]:
    """Word i from i to i + 1 seconds."""
    return [Word(w, float(i), i + 1.0) for i, w in enumerate(text.split())]


def aligned(text: str, said: str) -> Times:
    times = align(text, every_second(said))
    assert times is not None
    return times


def edges(text: str, said: str) -> list[tuple[int | None, int | None]]:
    times = aligned(text, said)
    return list(zip(times.first, times.last, strict=True))


@pytest.mark.parametrize(
    ("text", "said", "expected"),
    [
        ("Stir, then wait.", "stir THEN wait", [(0, 0), (1, 1), (2, 2)]),
        ("a well-known tune", "a well known tune", [(0, 0), (1, 2), (3, 3)]),
        ("a well known tune", "a well-known tune", [(0, 0), (1, None), (None, 1), (2, 2)]),
        ("I don’t know it", "i do n't know it", [(0, 0), (1, 2), (3, 3), (4, 4)]),
        (
            "it was 42 then and now so",
            "it was forty two then and now so",
            [(0, 0), (1, 1), (2, 3), (4, 4), (5, 5), (6, 6), (7, 7)],
        ),
        ("it was — well — good", "it was well good", [(0, 0), (1, 1), (None, None), (2, 2), (None, None), (3, 3)]),
        ("so it goes on", "um so it uh goes on", [(1, 1), (2, 2), (4, 4), (5, 5)]),
        ("a b c d e", "a b d e", [(0, 0), (1, 1), (None, None), (2, 2), (3, 3)]),
    ],
)
def test_words_are_matched_whatever_their_case_punctuation_and_division(
    text: str, said: str, expected: list[tuple[int | None, int | None]]
) -> None:
    assert edges(text, said) == expected


@pytest.mark.parametrize("said", ["another text altogether it is", "", "the", "— …"])
def test_times_of_another_text_are_refused(said: str) -> None:
    assert align("the soup is warm today", every_second(said)) is None
    assert align("… —", every_second(said)) is None


def test_a_span_is_cut_at_its_words_and_a_pause_is_left_out() -> None:
    """Each word is a constant of its own; half a second of nothing between them."""
    text, wave = "one two three four", np.zeros(6000, np.float32)
    words = []
    for i, word in enumerate(text.split()):
        wave[1500 * i : 1500 * i + 1000] = 0.1 * (i + 1)
        words.append(Word(word, 1.5 * i, 1.5 * i + 1))
    times = align(text, words)
    assert times
    (chars, cut) = times.cut((3, 13), wave, RATE)
    assert text[chars[0] : chars[1]] == " two three"
    assert 2500 <= len(cut) <= 2700
    assert {round(float(x), 1) for x in cut[100:-100]} == {0.0, 0.2, 0.3}
    assert abs(cut[0]) < 0.01
    assert times.cut((0, 3), wave, RATE)[0] == (0, 3)


def test_words_without_a_pause_are_parted_at_their_border() -> None:
    times = aligned("one two three", "one two three")
    wave = np.ones(3000, np.float32)
    _, cut = times.cut((3, 7), wave, RATE)
    assert len(cut) == 1000


def test_a_span_shrinks_to_what_has_an_edge() -> None:
    text = "a well known tune is played"
    times = aligned(text, "a well-known tune is played")
    wave = np.ones(5000, np.float32)
    (start, end), cut = times.cut((1, 17), wave, RATE)  # " well known tune"
    assert text[start:end] == " well known tune"
    (start, end), cut = times.cut((6, 17), wave, RATE)  # " known tune"
    assert text[start:end] == " tune"
    assert len(cut) == 1000
    assert times.cut((6, 12), wave, RATE) is None  # " known"
    assert times.cut((1, 6), wave, RATE) is None  # " well"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b-c", "D.", "—", "e’f", "42"]), min_size=2, max_size=20), st.data())
def test_a_cut_is_never_more_than_was_asked_and_never_other_words(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    said = data.draw(st.lists(st.sampled_from([*text.replace("-", " ").lower().split(), "um"]), min_size=1, max_size=24))
    times = align(text, every_second(" ".join(said)))
    if times is None:
        return
    i = data.draw(st.integers(0, len(words) - 1))
    j = data.draw(st.integers(i, len(words) - 1))
    span = (times.ranges[i - 1][1] if i else 0, times.ranges[j][1])
    found = times.cut(span, np.ones(1000 * len(said), np.float32), RATE)
    if found:
        (start, end), wave = found
        assert span[0] <= start < end <= span[1]
        assert 0 < len(wave) <= 1000 * len(said)
