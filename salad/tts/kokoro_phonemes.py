"""Text to the phonemes that Kokoro reads, word by word: who says what, for word times and for cuts of long texts.

The phonemes follow misaki, Kokoro's own front end; hibari's G2P is a port of it that needs neither spaCy nor espeak (GPL).
It reads numbers, dates and abbreviations as words of its own, so each spoken word remembers the written one that it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

SENTENCE, CLAUSE, COMMA = ".!?…", ":;", ",—"  # where a text is best cut, best first
_AFTER_MARK = '"”)'  # may stand between such a mark and the space
_REACH = 6  # words: no rule of the front end looks further
# misaki's front ends read [word](/phonemes/) as markup; text of a pool is text and nothing else.
_MARKUP = str.maketrans({"[": " ", "]": " "})


@dataclass(frozen=True)
class Word:
    """A spoken word. chars: where in the text its written word stands; None where that is not certain."""

    phonemes: str  # one character a phoneme or mark; empty: not said
    chars: tuple[int, int] | None


@cache
def vocabulary() -> dict[str, int]:
    """Kokoro's token of each phoneme, stress mark and punctuation mark; 0 pads both ends."""
    import json
    from pathlib import Path

    from hibari.tts import ASSETS

    symbols: dict[str, int] = json.loads((Path(ASSETS) / "vocab.json").read_text(encoding="utf-8"))
    return symbols


@cache
def front_end(british: bool) -> Any:
    from hibari.g2p import G2P

    return G2P(british=british)


def read(text: str, british: bool = False) -> list[list[Word]]:
    """The words of each sentence as they are said. ValueError, IndexError or KeyError: the front end cannot read the text."""
    from hibari import Hibari

    text = text.translate(_MARKUP)
    sentences, at = [], 0
    for sentence in Hibari.split_sentences(text):
        at = text.index(sentence, at)
        sentences.append(_read_sentence(sentence, at, front_end(british)))
        at += len(sentence)
    return sentences


def _read_sentence(sentence: str, at: int, g2p: Any) -> list[Word]:
    from hibari.g2p import normalize

    spoken = normalize(sentence)
    phonemes = list(_by_word(g2p.phonemize_tokens(g2p.tokenize(spoken))))
    chars = _written(sentence, spoken.split(), at)
    if len(chars) != len(phonemes):
        chars = [None] * len(phonemes)
    return [Word(p, c) for p, c in zip(phonemes, chars, strict=True)]


def _by_word(tokens: Iterable[Any]) -> Iterator[str]:
    """The phonemes of each run of tokens without a space in between."""
    known = vocabulary()
    word, open_ = "", False
    for token in tokens:
        word, open_ = word + "".join(p for p in token.phonemes or "" if p in known), True
        if token.whitespace:
            yield word.strip()
            word, open_ = "", False
    if open_:
        yield word.strip()


def _written(sentence: str, spoken: list[str], at: int) -> list[tuple[int, int] | None]:
    """For each spoken word, where its written word stands; `at`: where the sentence begins."""
    from hibari.g2p import normalize

    def say(words: list[str]) -> list[str]:
        return normalize(" ".join(words)).split()

    places = [(at + m.start(), at + m.end()) for m in re.finditer(r"\S+", sentence)]
    written = sentence.split()
    if spoken == written:
        return list(places)
    # Where it makes no difference whether the words on both sides are read together or apart, a written word ends.
    apart = [
        k
        for k in range(1, len(written))
        if say(written[max(0, k - _REACH) : k]) + say(written[k : k + _REACH]) == say(written[max(0, k - _REACH) : k + _REACH])
    ]
    found: list[tuple[int, int] | None] = []
    said = []
    for a, b in zip([0, *apart], [*apart, len(written)], strict=True):
        words = say(written[a:b])
        said += words
        found += [places[a] if b - a == 1 else None] * len(words)
    return found if said == spoken else [None] * len(spoken)


def cut(words: list[Word], limit: int) -> list[list[Word]]:
    """Words in runs of at most `limit` phonemes, spaces counted: ended where a sentence ends, a clause, a comma, a word."""
    words = [Word(w.phonemes[i : i + limit], w.chars) for w in words for i in range(0, len(w.phonemes), limit)]
    runs, start = [], 0
    while start < len(words):
        fits = _how_many(words[start:], limit)
        end = start + fits
        if end < len(words):
            end = start + next((n for marks in (SENTENCE, CLAUSE, COMMA) if (n := _last(words[start:end], marks))), fits)
        runs.append(words[start:end])
        start = end
    return runs


def _how_many(words: list[Word], limit: int) -> int:
    length = -1
    for n, word in enumerate(words):
        length += 1 + len(word.phonemes)
        if length > limit:
            return n
    return len(words)


def _last(words: list[Word], marks: str) -> int:
    """How many words there are up to the last that ends with such a mark; 0: none does."""
    return next((n for n in range(len(words), 0, -1) if words[n - 1].phonemes.rstrip(_AFTER_MARK).endswith(tuple(marks))), 0)


def tokens(words: list[Word]) -> list[int]:
    """The token of each phoneme of a run, of each space between its words, and the pads."""
    known = vocabulary()
    return [0, *(known[p] for p in " ".join(w.phonemes for w in words)), 0]
