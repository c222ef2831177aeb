"""What training and scoring work on: a spoken text, and the same prepared as tokens, features and teacher targets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from salad.audio import Wave
from salad.trainer.interleave import Layout, Span, lay_out

TargetKind = Literal["states", "top_k", "none"]
Hearing = Literal["speech", "text", "nothing"]


@dataclass(frozen=True)
class Utterance:
    """A text with the sound of its spoken spans, in order; no spoken span: text only."""

    id: str
    text: str
    spoken: list[tuple[int, int]]  # character ranges that are heard
    waves: list[Wave]
    rate: int

    def spans(self) -> list[Span]:
        """The spoken ranges and the read ones between them, a partition of the text."""
        return partition(self.spoken, len(self.text))


def partition(spoken: list[tuple[int, int]], n_chars: int) -> list[Span]:
    """Ascending spoken ranges and the read ones between them, of a text of so many characters."""
    spans, at = [], 0
    for start, end in spoken:
        if start > at:
            spans.append(Span("text", at, start))
        spans.append(Span("speech", start, end))
        at = end
    if at < n_chars:
        spans.append(Span("text", at, n_chars))
    return spans


@dataclass(frozen=True)
class Targets:
    """How the teacher's distribution at an example's text positions is kept."""

    kind: TargetKind = "states"
    temperature: float = 1.0  # that it was softened with; states are as the teacher made them
    vocabulary: int = 0  # tokens that the teacher has; 0: not known


@dataclass(frozen=True)
class Example:
    """One prepared text. `frames` has one (T, encoder width) array a speech span."""

    id: str
    tokens: np.ndarray  # (n + 1,), the prefix token first
    offsets: list[tuple[int, int]]  # (n,)
    spans: list[Span]
    frames: list[np.ndarray]
    targets: np.ndarray  # (m, d) bfloat16 bits of states, (m,) of `prepared.kept_dtype`, or (m, 0)
    about: Targets = Targets()
    _views: dict[tuple[int, Hearing], Layout] = field(default_factory=dict, init=False, repr=False, compare=False)

    def layout(self, stack: int, deaf: bool = False) -> Layout:
        """Every token and frame of the context c (deaf: without its frames) in its place."""
        return lay_out(self.offsets, self.spans, [math.ceil(len(f) / stack) for f in self.frames], deaf)

    def view(self, stack: int, hearing: Hearing = "speech") -> Layout:
        """What a student is given of it: the same in every epoch, so made once.

        hearing: see `batch.collate`. A last token that is itself predicted is left out: nothing is predicted from it.
        """
        if (stack, hearing) not in self._views:
            if hearing == "text":
                at, predicted = np.arange(len(self.tokens)), self.view(stack).teacher_loss_at
                layout = Layout(len(at), at, at, [], predicted, predicted)
            else:
                layout = self.layout(stack, deaf=hearing == "nothing")
            if len(layout.student_loss_at) and layout.student_loss_at[-1] == layout.length - 2:
                token_at, token = layout.token_at[:-1], layout.token[:-1]
                layout = replace(layout, length=layout.length - 1, token_at=token_at, token=token)
            self._views[stack, hearing] = layout
        return self._views[stack, hearing]

    def positions(self, stack: int, hearing: Hearing = "speech") -> int:
        """How many positions it takes in a batch."""
        return self.view(stack, hearing).length

    def length(self, stack: int) -> int:
        """Tokens and frames, heard words counted twice: no batch, whatever is heard, needs more positions."""
        return len(self.tokens) + sum(math.ceil(len(f) / stack) for f in self.frames)
