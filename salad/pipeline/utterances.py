"""From recordings to samples of a text that is partly heard, partly read: by word times, or utterance by utterance.

With word times a recording is interleaved as synthetic speech is (`plan_spans`), its heard spans cut out of it. Without, whole
utterances are the spans: those of one group (a speaker, a chapter) that follow each other stand side by side, heard and read
in turn, and a second sample hears what the first one read. So every utterance is heard once, but the last of its group, after
which nothing would be left to read.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from salad.audio import HEARD_RATE, Wave, resample
from salad.config import Config
from salad.pipeline.clean import passages
from salad.pipeline.recordings import Recording, Unusable
from salad.pipeline.script import spans_of
from salad.pipeline.word_times import Range, align
from salad.tts import sound
from salad.tts.takes import SILENT

OPEN_GROUPS = 64  # whose last utterances wait for their next one

Spans = list[tuple[Range, Wave]]


@dataclass(frozen=True)
class Sample:
    """A text and the sounds of its heard ranges, at HEARD_RATE; not levelled."""

    id: str
    key: str  # of the recordings it is made of
    text: str
    spans: Spans
    group: str
    clipped: float  # share of the recording's samples at full scale
    timed: bool  # by word times

    @property
    def seconds(self) -> float:
        return sum(len(wave) for _, wave in self.spans) / HEARD_RATE


def make_samples(recordings: Iterable[Recording | Unusable], config: Config) -> Iterator[Sample | Unusable]:
    """Samples in the order of their recordings, each once, and whatever cannot be one with its reason."""
    seen: set[str] = set()
    for item in _samples(recordings, config):
        if isinstance(item, Sample):
            reason = "repeated" if item.id in seen else None if fits(item, config) else "too many positions"
            seen.add(item.id)
            yield Unusable(item.key, item.text, item.group, reason) if reason else item
        else:
            yield item


def _samples(recordings: Iterable[Recording | Unusable], config: Config) -> Iterator[Sample | Unusable]:
    chains: OrderedDict[str, _Chain] = OrderedDict()  # the group heard of last is the last
    for item in recordings:
        if isinstance(item, Recording) and not item.words:
            chain = chains.setdefault(item.group, _Chain(config.pool.max_words))
            chains.move_to_end(item.group)
            yield from chain.add(item, config)
            if len(chains) > OPEN_GROUPS:
                yield from chains.popitem(last=False)[1].close()
            continue
        if item.group in chains:  # what comes next does not follow what came before
            yield from chains.pop(item.group).close()
        if isinstance(item, Unusable):
            yield item
        else:
            yield from _timed(item, config)
    for chain in chains.values():
        yield from chain.close()


def fits(sample: Sample, config: Config) -> bool:
    """Whether the student's context surely holds it: a tokenizer gives no more tokens than the text has bytes."""
    frames = sum(math.ceil(len(w) / HEARD_RATE * config.student.adapter.frame_rate) + 1 for _, w in sample.spans)
    everything = len(sample.text.encode())
    heard = sum(len(sample.text[a:b].encode()) for (a, b), _ in sample.spans)
    return 1 + max(everything, everything - heard + frames) <= config.interleave.max_positions


# -- whole utterances ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Utterance:
    key: str
    text: str
    group: str
    wave: Wave  # at HEARD_RATE, its ends trimmed
    digest: str
    clipped: float


@dataclass
class _Chain:
    """Utterances of a group that follow each other. Samples share their border, so that what ends one is heard in the next."""

    max_words: int
    waiting: list[_Utterance] = field(default_factory=list)

    def add(self, recording: Recording, config: Config) -> Iterator[Sample | Unusable]:
        """The next of the group; one that cannot be heard ends what came before."""
        key, text, rate, group = recording.key, recording.text, recording.rate, recording.group
        wave = sound.trim_silence(recording.wave, rate)
        if fault := _fault([wave], rate, _n_words(text), config):
            yield from self.close()
            yield Unusable(key, text, group, fault)
            return
        if len(self.waiting) >= 2 and sum(_n_words(u.text) for u in self.waiting) + _n_words(text) > self.max_words:
            yield from _side_by_side(self.waiting)
            self.waiting = self.waiting[-1:]
        wave = resample(sound.fade(wave, rate), rate, HEARD_RATE)
        self.waiting.append(_Utterance(key, text, group, wave, _digest(recording), _clipped(recording)))

    def close(self) -> Iterator[Sample | Unusable]:
        if len(self.waiting) >= 2:
            yield from _side_by_side(self.waiting)
        else:
            yield from (Unusable(u.key, u.text, u.group, "no neighbour to read") for u in self.waiting)
        self.waiting = []


def _side_by_side(utterances: Sequence[_Utterance]) -> Iterator[Sample]:
    """The first, the third … heard; then, from the second on, those that were read."""
    for shifted in (utterances, utterances[1:]):
        if members := shifted[: len(shifted) // 2 * 2]:
            ends = np.cumsum([len(u.text) + 1 for u in members]) - 1
            ranges = [(0, int(ends[0])), *((int(a), int(b)) for a, b in pairwise(ends))]
            heard = members[::2]
            text = " ".join(u.text for u in members)
            yield Sample(
                id=_hash(text, *(u.digest for u in heard)),
                key=" | ".join(u.key for u in members),
                text=text,
                spans=[(span, u.wave) for span, u in zip(ranges[::2], heard, strict=True)],
                group=members[0].group,
                clipped=float(np.average([u.clipped for u in heard], weights=[len(u.wave) for u in heard])),
                timed=False,
            )


# -- by word times ---------------------------------------------------------------------------------------------


def _timed(recording: Recording, config: Config) -> Iterator[Sample | Unusable]:
    """A sample a window: the whole recording, or the passages that a long one falls into, as texts of the pool do."""
    assert recording.words
    times = align(recording.text, recording.words)
    if times is None:
        yield _refused(recording, "words are not the transcript's")
        return
    digest, clipped = _digest(recording), _clipped(recording)
    shortest = max(1.0, config.speech.quality.min_seconds * recording.rate)  # samples; what is shorter is read
    for number, (begin, end) in enumerate(windows(recording.text, config.pool.min_words, config.pool.max_words)):
        text = recording.text[begin:end]
        window = replace(recording, text=text, key=f"{recording.key} #{number}" if number else recording.key)
        text_id = _hash(text, digest, str(begin))
        cuts = (times.cut((a + begin, b + begin), recording.wave, recording.rate) for a, b in _heard(text, text_id, config))
        spans = [((a - begin, b - begin), wave) for (a, b), wave in filter(None, cuts) if len(wave) >= shortest]
        if not spans:
            yield _refused(window, "too short" if _n_words(text) < 2 else "words are not the transcript's")
            continue
        n_words = sum(_n_words(text[a:b]) for (a, b), _ in spans)
        if fault := _fault([wave for _, wave in spans], recording.rate, n_words, config):
            yield _refused(window, fault)
            continue
        heard = [(span, resample(wave, recording.rate, HEARD_RATE)) for span, wave in spans]
        yield Sample(text_id, window.key, text, heard, recording.group, clipped, True)


def _heard(text: str, text_id: str, config: Config) -> list[Range]:
    """The ranges that are heard; a text that would be read throughout begins with speech."""
    for from_speech in (False, True):
        spans = spans_of(text, text_id, config, from_speech)
        if heard := [(s.char_start, s.char_end) for s in spans if s.modality == "speech"]:
            return heard
    return []


def windows(text: str, min_words: int, max_words: int) -> list[Range]:
    """Ranges of at most `max_words` words, of whole sentences where these are no longer; one where the text is no longer.

    `text` has one space between words. The space before a window is not part of it.
    """
    if _n_words(text) <= max_words:
        return [(0, len(text))]
    ranges, words, at = [], text.split(), 0
    for passage in passages(text, min_words, max_words):
        n = _n_words(passage)
        length = len(" ".join(words[:n]))
        ranges.append((at, at + length))
        words, at = words[n:], at + length + 1
    return ranges


# -- what both share -------------------------------------------------------------------------------------------


def _fault(waves: Sequence[Wave], rate: int, n_words: int, config: Config) -> str | None:
    """Why these sounds cannot be heard spans. A recording may be slow, pause and be clipped: people and microphones are so."""
    quality = config.speech.quality
    measures = sound.measure(waves, rate)
    if not measures.finite:
        return "sound is not finite"
    if measures.faintest < SILENT:
        return "silent"
    if measures.longest > quality.max_seconds:
        return "span too long"
    if measures.shortest < quality.min_seconds:
        return "span too short"
    return "too fast" if n_words > quality.max_words_per_second * measures.seconds else None


def _refused(recording: Recording, reason: str) -> Unusable:
    return Unusable(recording.key, recording.text, recording.group, reason)


def _clipped(recording: Recording) -> float:
    return float(np.mean(np.abs(recording.wave) >= sound.FULL_SCALE))


def _digest(recording: Recording) -> str:
    return _hash(recording.text, recording.wave.tobytes(), str(recording.rate))


def _hash(*parts: str | bytes) -> str:
    """32 hex digits of BLAKE2b."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big") + data)
    return h.hexdigest()


def _n_words(text: str) -> int:
    return len(text.split())
