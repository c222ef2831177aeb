"""What goes into the pool: cleaning, splitting into passages, and a reason for every refusal.

English. What nobody could read aloud is refused (`salad/tts/speakable/refuse.py`); what can be rewritten so that a voice can
say it stays as it is, because the student reads the original.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator

from salad.tts.speakable.refuse import refusal as unspeakable

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")
LEAST_READ = 0.5  # letters and digits of all characters
LONGEST_NAME = 200
_ASCII_READ = (string.ascii_letters + string.digits).encode()
_NOT_PLAIN = re.compile(r"[^ -~\n]+")
_PARAGRAPH = re.compile(r"\s*\n\s*\n\s*")


def clean(text: str) -> str:
    """Unicode NFC; control and format characters out (so NUL, zero-width, bidi marks); no-break space to space.

    Line structure is kept for `passages`, which splits at blank lines.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\u00ad", "")
    return _NOT_PLAIN.sub(_cleaned, text)


def short_name(value: object) -> str:
    """What something outside is called (a domain, a speaker, a recording) as one short line."""
    return "" if value is None else " ".join(clean(str(value)[: 4 * LONGEST_NAME]).split())[:LONGEST_NAME]


def _cleaned(run: re.Match[str]) -> str:
    return "".join(" " if c.isspace() else c for c in run[0] if c.isspace() or unicodedata.category(c)[0] != "C")


def passages(text: str, min_words: int, max_words: int) -> Iterator[str]:
    """Sentences of each paragraph, short neighbours joined until they have `min_words`.

    A sentence beyond `max_words` is cut at its clauses, at worst between words. Tails that stay too short
    are given too, so that the caller can count them.
    """
    for paragraph in _PARAGRAPH.split(text) if "\n" in text else (text,):
        held: list[str] = []
        for sentence in _SENTENCE_END.split(paragraph):
            words = sentence.split()
            if held and len(held) + len(words) > max_words:
                yield " ".join(held)
                held = []
            held += words
            if len(held) > max_words:
                *whole, held = _cut(held, max_words)
                yield from (" ".join(part) for part in whole)
            if len(held) >= min_words:
                yield " ".join(held)
                held = []
        if held:
            yield " ".join(held)


def _cut(words: list[str], most: int) -> list[list[str]]:
    """Pieces of at most `most` words, each ending at the last clause mark in its second half if there is one."""
    pieces = []
    while len(words) > most:
        ends = [i for i in range(most // 2, most) if words[i][-1] in ",;:—"]
        at = ends[-1] + 1 if ends else most
        pieces.append(words[:at])
        words = words[at:]
    return [*pieces, words]


def refusal(passage: str, min_words: int, max_words: int) -> str | None:
    """Why a passage is not for the pool, or None. What can be read aloud once it is rewritten may stay."""
    n_words = len(passage.split())
    if n_words < min_words:
        return "too short"
    if n_words > max_words:
        return "too long"
    if _letters_and_digits(passage) < LEAST_READ * len(passage):
        return "mostly punctuation"
    return unspeakable(passage)


def _letters_and_digits(text: str) -> int:
    if text.isascii():
        return len(text) - len(text.encode().translate(None, _ASCII_READ))
    return sum(map(str.isalnum, text))
