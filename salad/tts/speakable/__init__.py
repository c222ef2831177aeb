"""Text to what an English (US) voice shall say: `speakable("5 km on May 3rd")` gives "five kilometers on May third".

The way of Sproat et al., "Normalization of Non-Standard Words" (2001), by rules: refuse what nobody could read aloud
(`refuse`), take markup off (`markup`), then write out addresses (`address`), short forms (`words`) and numbers (`numbers`,
which is where the library normt2s works), and read the symbols that are left. What comes out has letters, spaces and
.,;:!?'- and nothing else, so no engine finds markup, SSML or phonemes in it.

A text that is plain from the start comes back as it is; that takes about a microsecond and loads nothing.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from salad.tts.speakable import address, markup, numbers, roman, words
from salad.tts.speakable.refuse import ONLY_WORDS, refusal

_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ"
_MOST_ROUNDS = 5  # of reading what a reading brought to light, such as "&amp;lt;"
# A short form, an ellipsis, a double dash, a name such as "example.com", a Roman numeral: plain letters, yet not said as written.
_READ_ANOTHER_WAY = re.compile(
    rf"[.IVXLC-](?:(?<=-)-|(?<=\.)(?:\.|[A-Za-z]{{2}}|{words.ENDS_SHORT_FORM})|(?<=[IVXLC]){roman.REST})"
)
_NOT_SAID = re.compile(rf"[^{_LETTERS} .,;:!?'-]+")
_LETTER = re.compile(rf"[{_LETTERS}]")


@dataclass(frozen=True)
class Spoken:
    """`text`: what the engine is given to say, empty when `problem` (one of `refuse.REASONS`) says why there is nothing."""

    text: str
    problem: str | None


def speakable(text: str) -> Spoken:
    """How `text` is said aloud, or why it cannot be; what it gives, it gives back unchanged.

    SaladError if there is a number and normt2s is not installed; no text makes it raise.
    """
    if is_plain(text):
        return Spoken(text, None)
    problem = refusal(text)
    if problem:
        return Spoken("", problem)
    for _ in range(_MOST_ROUNDS):
        before, text = text, _read(text)
        if is_plain(text):
            return Spoken(text, None)
        if text == before:
            break
    problem = refusal(text) if _LETTER.search(text) else "nothing to say"
    return Spoken("" if problem else text, problem)


def is_plain(text: str) -> bool:
    """Nothing but ASCII words of at most 30 letters and plain punctuation, all said as they are written."""
    return ONLY_WORDS.fullmatch(text) is not None and _READ_ANOTHER_WAY.search(text) is None


def _read(text: str) -> str:
    text = markup.strip(unicodedata.normalize("NFC", text))
    text = address.read(text)
    text = words.plain_marks(text)
    text = words.read_short_forms(text)
    text = numbers.read(text)
    text = words.as_pauses(words.read_symbols(text))
    return words.tidy(_NOT_SAID.sub(" ", text))
