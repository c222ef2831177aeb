"""When Piper says each word: the phonemes it said, how long it held each, and which of them are whose.

VITS is given text as phonemes and decides for each how many frames it lasts; the sound has exactly these, so the times are not
an estimate. Whose a phoneme is Piper does not say: its front end, espeak, turns a whole clause into phonemes at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from salad.tts.base import WordTime

if TYPE_CHECKING:
    from piper import AudioChunk, PiperVoice

_MARKS = frozenset(" .,;:!?")  # what Piper has among its phonemes that is no sound


def word_times(tts: PiperVoice, text: str, chunks: Sequence[AudioChunk]) -> tuple[WordTime, ...] | None:
    """When each word is heard, exact as far as its phonemes are known; None for a model that does not say its durations.

    espeak runs words together (`of the` is `ʌvðə`) and says a number in several, so each word is also put to it alone, and
    the phonemes of all words alone are aligned with those of the text.
    """
    if tts.config.phoneme_type.value != "espeak" or any(c.phoneme_id_samples is None for c in chunks):
        return None
    words = [(m.span(), [p for p in _phonemes(tts, m.group()) if p not in _MARKS]) for m in re.finditer(r"\S+", text)]
    words = [(span, alone) for span, alone in words if alone]
    heard, edges = _timeline(tts, chunks)
    places = _align([alone for _, alone in words], heard)
    times = []
    for (span, _), (begin, end) in zip(words, places, strict=True):
        sounding = [i for i in range(begin, end) if heard[i] not in _MARKS]
        if sounding:
            times.append(WordTime(*span, edges[sounding[0]][0], edges[sounding[-1]][1]))
    return tuple(times)


def _phonemes(tts: PiperVoice, text: str) -> list[str]:
    return [p for sentence in tts.phonemize(text) for p in sentence]


def _timeline(tts: PiperVoice, chunks: Sequence[AudioChunk]) -> tuple[list[str], list[tuple[float, float]]]:
    """The phonemes that were said, and from when to when, in seconds; a pad after each belongs to it (phonemes_to_ids)."""
    ids, begin = tts.config.phoneme_id_map, 0
    heard: list[str] = []
    edges: list[tuple[float, float]] = []
    for chunk in chunks:
        said = [p for p in chunk.phonemes if p in ids]
        ends = [begin + int(n) for n in np.cumsum(chunk.phoneme_id_samples)]
        pad = len(ids["_"])
        last = list(accumulate([len(ids["^"]) + pad, *(len(ids[p]) + pad for p in said)]))
        at = [ends[i - 1] / tts.config.sample_rate for i in last]
        heard += said
        edges += pairwise(at)
        begin += len(chunk.audio_float_array)
    return heard, edges


def _align(words: Sequence[Sequence[str]], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Where in `heard` each word lies, [begin, end).

    Phonemes that both have in order, with the spaces between words, hold the two together; what is heard between these
    is shared out evenly among the phonemes that are not. From the end, because of two words that are run together the later
    one is weakened (`of a` is `əvə`), and so the space before it is the one that is missing.
    """
    from rapidfuzz.distance import Indel

    alone = [p for word in reversed(words) for p in (*reversed(word), " ")]
    place: list[int] = []  # of each phoneme of `alone`, in `heard`, both counted from the end
    end = 0  # of what is heard so far
    for block in Indel.opcodes(alone, heard[::-1]).as_matching_blocks():
        unheard = [p not in " ˈˌː" for p in alone[len(place) : block.a]]
        share = (block.b - end) / max(sum(unheard), 1)
        place += [end + round(share * n) for n in accumulate(unheard[:-1], initial=0)][: len(unheard)]
        place += range(block.b, end := block.b + block.size)
    begins = [0, *accumulate(len(word) + 1 for word in reversed(words))]
    return [(len(heard) - place[b - 1], len(heard) - place[a]) for a, b in pairwise(begins)][::-1]
