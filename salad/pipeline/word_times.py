"""A transcript's words and an aligner's: which spans of the text can be cut out of the sound, and where.

The two differ in case, punctuation and hyphens, sometimes in words ("42", "forty two"; "<unk>"). Both are taken apart into
runs of letters and digits and aligned by `difflib` (Ratcliff and Obershelp). A span may begin or end where a word of the text
begins or ends together with one of the aligner's; where it does not, it shrinks to the next place that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from salad.audio import Wave
from salad.pipeline.recordings import Word
from salad.tts import sound

MATCHED = 0.8  # of the transcript's words, or the times are another text's
MARGIN = 0.1  # seconds of a pause that stay with a span

Range = tuple[int, int]


@dataclass(frozen=True)
class Times:
    """When the words of a text begin and end, as indices of the aligner's words; None where they share no edge."""

    ranges: list[Range]  # (n,) characters of each word of the text
    first: list[int | None]  # (n,) the aligner's word that begins with it
    last: list[int | None]  # (n,) the aligner's word that ends with it
    words: Sequence[Word]

    def cut(self, span: Range, wave: Wave, rate: int) -> tuple[Range, Wave] | None:
        """What of the characters [start, end) can be heard by itself, and its sound; None: nothing."""
        inside = [i for i, (a, b) in enumerate(self.ranges) if span[0] <= a and b <= span[1]]
        begin = next((i for i in inside if self.first[i] is not None), None)
        end = next((i for i in reversed(inside) if self.last[i] is not None), None)
        if begin is None or end is None or begin > end:
            return None
        first, last = self.first[begin], self.last[end]
        assert first is not None
        assert last is not None
        before = self.words[first - 1].end if first else 0.0
        after = self.words[last + 1].start if last + 1 < len(self.words) else len(wave) / rate
        start, stop = self.words[first].start, self.words[last].end
        chars = span[0] if begin == inside[0] else self.ranges[begin - 1][1], self.ranges[end][1]
        return chars, sound.cut_in_pauses(wave, rate, max(before, start - MARGIN), start, stop, min(after, stop + MARGIN))


def align(text: str, words: Sequence[Word]) -> Times | None:
    """The aligner's words for those of `text`; None where fewer than `MATCHED` of the text are among them."""
    found = list(re.finditer(r"\S+", text))
    said, given = list(_pieces([m.group() for m in found])), list(_pieces([w.text for w in words]))
    first: list[int | None] = [None] * len(found)
    last: list[int | None] = [None] * len(found)
    matched = 0
    matcher = SequenceMatcher(None, [p.letters for p in said], [p.letters for p in given], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            matched += b - a
            pairs = [(i, i + 1, c + i - a, c + i - a + 1) for i in range(a, b)]
        else:  # as a whole, what one has here is what the other has
            pairs = [(a, b, c, d)] if tag == "replace" else []
        for begin, end, from_, to in pairs:
            if said[begin].begins and given[from_].begins:
                first[said[begin].word] = given[from_].word
            if said[end - 1].ends and given[to - 1].ends:
                last[said[end - 1].word] = given[to - 1].word
    if not said or matched < MATCHED * len(said):
        return None
    return Times([m.span() for m in found], first, last, words)


@dataclass(frozen=True)
class _Piece:
    """A run of letters and digits of a word; whether the word begins and ends with it."""

    letters: str
    word: int
    begins: bool
    ends: bool


def _pieces(words: Sequence[str]) -> Iterator[_Piece]:
    for i, word in enumerate(words):
        parts = re.findall(r"[^\W_]+", word.casefold())
        for j, part in enumerate(parts):
            yield _Piece(part, i, j == 0, j == len(parts) - 1)
