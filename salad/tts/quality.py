"""Does the sound say the text? Character error rate by an ASR, and the limits of what `sound.measure` found.

The ASR may be the same network whose encoder the student hears with: then a low CER says that the student
CAN hear the words, which is what training needs, and is no independent proof that a person would. The tests
use another ASR for that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from salad.config import Quality
from salad.tts.sound import Measures

SILENT = 0.01  # peak of full scale
_BRACKETS = str.maketrans("()[]<>", "      ")


@cache
def _normaliser() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def normal_form(text: str) -> str:
    """A wording as the CER compares it. Brackets go first: the normaliser drops what stands in them as a stage direction."""
    return str(_normaliser()(text.translate(_BRACKETS)))


def character_errors(reference: str, heard: str) -> tuple[int, int]:
    """(edit distance, reference length) in characters, after Whisper's English text normalisation.

    Spaces do not count: "back ground" for "background" is heard right.
    """
    from rapidfuzz.distance import Levenshtein

    reference, heard = (normal_form(t).replace(" ", "") for t in (reference, heard))
    return Levenshtein.distance(reference, heard), len(reference)


def character_error_rate(references: list[str], heard: list[str]) -> float:
    """Errors over characters of several spans together; 1.0 where there is nothing to compare with."""
    counts = [character_errors(r, h) for r, h in zip(references, heard, strict=True)]
    errors, length = (sum(c[i] for c in counts) for i in (0, 1))
    return errors / length if length else 1.0


def fault(measures: Measures, n_words: int, cer: float | None, limits: Quality) -> str | None:
    """Why the sounds of one text cannot be used, or None; the most telling reason, where there are several.

    measures: of its spans, trimmed, before levelling. n_words: in all of them. cer: None where no ASR listened.
    """
    m = measures
    if m.shortest == 0:
        return "no sound"
    if not m.finite:
        return "sound is not finite"
    speed = n_words / m.seconds
    faults = {
        "silent": m.faintest < SILENT,
        "clipped": m.clipped > limits.max_clipped,
        "silence at the edge": m.edge_silence > limits.max_edge_silence,
        "pause too long": m.pause > limits.max_pause,
        "span too long": m.longest > limits.max_seconds,
        "span too short": m.shortest < limits.min_seconds,
        "too fast": speed > limits.max_words_per_second,
        "too slow": speed < limits.min_words_per_second,
        "not understood": cer is not None and cer > limits.max_cer,
    }
    return next((reason for reason, found in faults.items() if found), None)
