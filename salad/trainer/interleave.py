"""Which words of a text are heard and which are read (paper section 3), and how both line up with the teacher.

The plan depends on the text, its id and the seed alone, so a sample is the same in synthesis, training and
scoring, in any order and on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np

from salad.seeds import generator

Modality = Literal["speech", "text"]
Pattern = Literal["alternate", "random", "prefix"]


@dataclass(frozen=True)
class Span:
    """A run of words in one modality: `text[char_start:char_end]` is it, leading white space included."""

    modality: Modality
    char_start: int
    char_end: int


def plan_spans(
    text: str,
    text_id: str,
    seed: int,
    speech_words: tuple[int, int] = (5, 15),
    text_words: tuple[int, int] = (10, 30),
    start: Literal["speech", "text", "random"] = "random",
    pattern: Pattern = "alternate",
) -> list[Span]:
    """Spans that partition `text` and alternate; lengths in words are uniform in their ranges.

    pattern: see `_modalities`; what it makes neighbours of one modality is one span.

    The last word is always read: a tail that would be heard to the end has nothing to be measured on, so
    its final text span takes at least one word from it. A one-word text is one text span.
    """
    words = [m.end() for m in re.finditer(r"\S+", text)]
    if len(words) < 2:
        return [Span("text", 0, len(text))] if text else []
    rng = generator(seed, "interleave", text_id)
    ranges: dict[Modality, tuple[int, int]] = {"speech": speech_words, "text": text_words}
    spans: list[Span] = []
    at_word, at_char = 0, 0
    for modality in _modalities(pattern, start, rng):
        low, high = ranges[modality]
        n = int(rng.integers(low, high + 1))
        if modality == "speech":
            n = min(n, len(words) - 1 - at_word)
        if n == 0:  # one word is left, and it has to be read
            continue
        at_word = min(at_word + n, len(words))
        end = words[at_word - 1] if at_word < len(words) else len(text)
        spans.append(Span(modality, at_char, end))
        at_char = end
        if at_word == len(words):
            break
    return _merged(spans)


def _modalities(pattern: Pattern, start: Literal["speech", "text", "random"], rng: np.random.Generator) -> Iterator[Modality]:
    """The modality of one span after the other, without end.

    alternate: in turn, the first as `start` says. random: each by the toss of a fair coin, the first as `start` says.
    prefix: one speech span, then text.
    """

    def toss() -> Modality:
        return "speech" if rng.random() < 0.5 else "text"

    if pattern == "prefix":
        yield "speech"
        yield from repeat("text")
    modality: Modality = toss() if start == "random" else start
    while True:
        yield modality
        other: Modality = "text" if modality == "speech" else "speech"
        modality = toss() if pattern == "random" else other


def _merged(spans: list[Span]) -> list[Span]:
    """Neighbours of one modality become one span."""
    out: list[Span] = []
    for span in spans:
        if out and out[-1].modality == span.modality:
            out[-1] = Span(span.modality, out[-1].char_start, span.char_end)
        else:
            out.append(span)
    return out


@dataclass(frozen=True)
class Layout:
    """Where the student sees what, and which of its positions answer to which of the teacher's.

    The student's sequence has `length` positions. Tokens are indices into w = [prefix, w_1 … w_n], the
    sequence that the teacher reads.
    """

    length: int
    token_at: np.ndarray  # (t,) student positions that hold a token …
    token: np.ndarray  # (t,) … and which token of w
    frame_at: list[np.ndarray]  # per speech span: the student positions of its frames
    student_loss_at: np.ndarray  # (m,) student positions whose NEXT token is text
    teacher_loss_at: np.ndarray  # (m,) the same predictions in the teacher's sequence


def token_modalities(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[int]:
    """For each token the index of the span that holds its last character.

    White space belongs to the word after it, in spans and in byte-level tokenizers alike, so a token is
    torn only where a tokenizer merges across words; it then follows its end.
    """
    ends = np.array([s.char_end for s in spans])
    return [int(np.searchsorted(ends, max(end - 1, 0), side="right")) for _, end in offsets]


def lay_out(offsets: Sequence[tuple[int, int]], spans: Sequence[Span], frames: Sequence[int], deaf: bool = False) -> Layout:
    """Place tokens and speech frames in the student's sequence.

    offsets: character range of each token of the text (the prefix token excluded). frames: number of
    positions of each speech span, in order. deaf: leave the speech out (what the student would know
    without ears). Position 0 is always the prefix token, so every text token has a predecessor.
    """
    span_of = token_modalities(offsets, spans)
    token_at, token = [0], [0]
    frame_at: list[np.ndarray] = []
    student_loss, teacher_loss = [], []
    position, heard = 1, iter(frames)
    j = 0
    for i, span in enumerate(spans):
        if span.modality == "speech":
            n = next(heard)
            if not deaf:
                frame_at.append(np.arange(position, position + n))
                position += n
            while j < len(span_of) and span_of[j] <= i:
                j += 1
            continue
        while j < len(span_of) and span_of[j] <= i:
            token_at.append(position)
            token.append(j + 1)
            student_loss.append(position - 1)
            teacher_loss.append(j)
            position += 1
            j += 1
    return Layout(
        length=position,
        token_at=np.array(token_at),
        token=np.array(token),
        frame_at=frame_at,
        student_loss_at=np.array(student_loss, dtype=np.int64),
        teacher_loss_at=np.array(teacher_loss, dtype=np.int64),
    )
