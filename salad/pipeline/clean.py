"""Which texts can be spoken: cleaning, splitting into passages, and a reason for every refusal.

Languages written in Latin letters. What an English voice would stumble over (markup, symbols, addresses,
much arithmetic) is refused with a reason and not repaired.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")
_PARAGRAPH = re.compile(r"\s*\n\s*\n\s*")
_ADDRESS = re.compile(r"://|www\.|@|\.(?:com|org|net|html?|php)\b", re.IGNORECASE)
_MARKUP = re.compile(r"<[^>]*>|&[a-z]+;|&#\d+;")
_PUNCTUATION = set(" .,;:!?'\"()-–—‘’“”…/&%$")
LONGEST_WORD = 30
MOST_DIGITS = 0.08  # of all characters


def clean(text: str) -> str:
    """Unicode NFC; control and format characters out (so NUL, zero-width, bidi marks); no-break space to space.

    Line structure is kept for `passages`, which splits at blank lines.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\u00ad", "")
    return "".join(c if c == "\n" else " " if c.isspace() else c for c in text if c.isspace() or _printable(c))


def _printable(c: str) -> bool:
    return (c.isascii() and c.isprintable()) or (not c.isascii() and unicodedata.category(c)[0] != "C")


def passages(text: str, min_words: int, max_words: int) -> Iterator[str]:
    """Sentences of each paragraph, short neighbours joined until they have `min_words`.

    A sentence beyond `max_words` is cut at its clauses, at worst between words. Tails that stay too short
    are given too, so that the caller can count them.
    """
    for paragraph in _PARAGRAPH.split(text):
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
    """Why a passage cannot be spoken, or None."""
    words = passage.split()
    if len(words) < min_words:
        return "too short"
    if len(words) > max_words:
        return "too long"
    if max(map(len, words)) > LONGEST_WORD:
        return "overlong word"
    if _MARKUP.search(passage):
        return "markup"
    if _ADDRESS.search(passage):
        return "address"
    letters = digits = 0
    for c in passage:
        if c.isdigit():
            digits += 1
        elif c.isalpha():
            if not c.isascii() and not unicodedata.name(c, "").startswith("LATIN"):
                return "other script"
            letters += 1
        elif c not in _PUNCTUATION:
            return "symbol"
    if digits > MOST_DIGITS * len(passage):
        return "mostly numbers"
    if letters < 0.6 * len(passage):
        return "mostly punctuation"
    return None
