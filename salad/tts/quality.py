"""Does the sound say the text? Character error rate by an ASR, and the plain checks that need none.

The ASR may be the same network whose encoder the student hears with: then a low CER says that the student
CAN hear the words, which is what training needs, and is no independent proof that a person would. The tests
use another ASR for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from salad.audio import Wave

LOUD = 0.999  # full scale: a sample that reaches it was clipped
SILENT = 0.01
LONGEST = 30.0  # seconds of a span: what Whisper can hear, as encoder and as ASR
_BRACKETS = str.maketrans("()[]<>", "      ")


@dataclass(frozen=True)
class Limits:
    max_cer: float
    min_words_per_second: float
    max_words_per_second: float


@cache
def _normaliser() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def character_errors(reference: str, heard: str) -> tuple[int, int]:
    """(edit distance, reference length) in characters, after Whisper's English text normalisation.

    Spaces do not count: "back ground" for "background" is heard right. Brackets go first, because the
    normaliser drops what stands inside them as a stage direction.
    """
    from rapidfuzz.distance import Levenshtein

    reference, heard = (_normaliser()(t.translate(_BRACKETS)).replace(" ", "") for t in (reference, heard))
    return Levenshtein.distance(reference, heard), len(reference)


def character_error_rate(references: list[str], heard: list[str]) -> float:
    """Errors over characters of several spans together; 1.0 where there is nothing to compare with."""
    counts = [character_errors(r, h) for r, h in zip(references, heard, strict=True)]
    errors, length = (sum(c[i] for c in counts) for i in (0, 1))
    return errors / length if length else 1.0


def fault(waves: list[Wave], rate: int, n_words: int, cer: float | None, limits: Limits) -> str | None:
    """Why these sounds of one text cannot be used, or None. Words per second counts all its spans."""
    if not waves or any(len(w) == 0 for w in waves):
        return "no sound"
    if any(not np.isfinite(w).all() for w in waves):
        return "sound is not finite"
    peak = max(float(np.abs(w).max()) for w in waves)
    if peak < SILENT:
        return "silent"
    if peak >= LOUD:
        return "clipped"
    if max(map(len, waves)) > LONGEST * rate:
        return "span too long"
    speed = n_words / (sum(map(len, waves)) / rate)
    if speed > limits.max_words_per_second:
        return "too fast"
    if speed < limits.min_words_per_second:
        return "too slow"
    if cer is not None and cer > limits.max_cer:
        return "not understood"
    return None
