"""When each word is heard: the durations that Kokoro's graph computes, and hibari's after it, made an output of the graph.

Both are acoustic models with a duration predictor (Kokoro is StyleTTS 2, arXiv 2306.07691): a phoneme is given a whole number
of frames of 600 samples, and the decoder is driven with exactly these, so the times are not an estimate. An export as a rule
returns the sound alone. An ONNX file is one protobuf message, and the bytes of two messages one after the other are the
message in which their repeated fields are joined (protobuf's encoding guide, "last one wins"): a graph is given another
output by appending that output's name, with no need of the `onnx` package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from salad.audio import Wave
from salad.tts.base import Speech, WordTime
from salad.tts.kokoro_phonemes import Word

FRAME = 600  # samples at 24 kHz
EARLY = 3 * FRAME  # samples by which a phoneme sounds before its frames; Kokoro's own front end takes off as much
_MARKS = ' ;:,.!?—…"()“”'  # what a voice is silent at
_GRAPH, _OUTPUT, _NAME = 7, 12, 1  # ModelProto.graph, GraphProto.output, ValueInfoProto.name
# NodeProto.output (field 2), its length and its name: frames a phoneme are `round(…).clamp(min=1)`, the graph's only clip.
_CLIPPED = re.compile(rb"\x12([\x01-\x70])((?:/[\w.]+)*/Clip_output_\d+)")


def with_durations(model: bytes) -> bytes:
    """The ONNX file with the frames of each phoneme as one more output, last; as it is where it has no telling tensor."""
    names = {name for length, name in _CLIPPED.findall(model) if len(name) == length[0]}
    if len(names) != 1:
        return model
    return model + _field(_GRAPH, _field(_OUTPUT, _field(_NAME, names.pop())))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field; its length, below 128, is one byte."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def frames(outputs: Sequence[Any], tokens: int, samples: int) -> npt.NDArray[np.int64] | None:
    """The output that says how many frames each token takes; None where none can be that.

    It can where it is whole, one or more for each token, and all of them together are the sound to the sample.
    """
    for output in outputs:
        counts = np.asarray(output).ravel()
        if (
            len(counts) == tokens
            and (counts >= 1).all()
            and (counts == np.rint(counts)).all()
            and counts.sum() * FRAME == samples
        ):
            return counts.astype(np.int64)
    return None


@dataclass(frozen=True)
class Run:
    """Words that were said at one go: their sound, and how many frames each token takes; None: not known."""

    words: Sequence[Word]
    wave: Wave
    counts: npt.NDArray[np.int64] | None


def speech(runs: Sequence[Run], rate: int) -> Speech:
    """The runs of one text one after the other, with the times of its words.

    `words` is None where a run's durations are not known, and empty where not every spoken word's written one is known: half
    the times would be worse than none. A word without a phoneme has no time.
    """
    wave = np.concatenate([r.wave for r in runs]) if runs else np.zeros(0, np.float32)
    if any(r.counts is None for r in runs):
        return Speech(wave, rate)
    if any(word.chars is None for r in runs for word in r.words):
        return Speech(wave, rate, ())
    starts = accumulate((len(r.wave) for r in runs), initial=0)
    times = [time for r, start in zip(runs, starts, strict=False) for time in _run_times(r, start / rate, rate)]
    return Speech(wave, rate, tuple(_by_written_word(times)))


def _run_times(run: Run, begin: float, rate: int) -> Iterator[WordTime]:
    """From each word's first phoneme to its last, marks left out, for a run that begins at `begin` seconds."""
    frames_before = np.cumsum([0, *(run.counts if run.counts is not None else [])])
    edges = begin + np.maximum(frames_before * FRAME - EARLY, 0) / rate
    at = 1  # token 0 is a pad
    for word in run.words:
        voiced = [at + i for i, p in enumerate(word.phonemes) if p not in _MARKS]
        if voiced and word.chars:
            yield WordTime(*word.chars, float(edges[voiced[0]]), float(edges[voiced[-1] + 1]))
        at += len(word.phonemes) + 1


def _by_written_word(times: Sequence[WordTime]) -> Iterator[WordTime]:
    """One time for each written word: several spoken ones may have come of it."""
    for _, group in groupby(times, key=lambda t: t.char_start):
        first, *rest = group
        yield replace(first, end=rest[-1].end) if rest else first
