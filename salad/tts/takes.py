"""A take: one text said by one voice, its spans cut, cleaned, levelled and encoded, ready for a shard.

What is wrong with the sound itself (nothing, silence, NaN, another rate) is the take's `fault`: another try may mend it.
What is only bad speech is measured here and judged elsewhere (`salad/tts/quality.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from salad.audio import HEARD_RATE, Wave, resample, to_flac
from salad.config import Voice
from salad.errors import SaladError
from salad.seeds import derive
from salad.tts import sound
from salad.tts.base import Engine, Speech

SILENT = 1e-3  # of full scale, a peak below which nothing was said


@dataclass(frozen=True)
class Job:
    """What is to be said of a text, and by whom.

    segments: spoken forms, in the text's order. heard: which of them the sample holds. whole: say all segments in one go and
    cut them apart where the engine says that words begin and end; else each heard segment is said by itself.
    listen: an ASR will want to hear it.
    """

    key: str
    voice: Voice
    segments: tuple[str, ...]
    heard: tuple[int, ...]
    whole: bool = False
    listen: bool = False

    @property
    def texts(self) -> list[str]:
        """What the engine is given."""
        return [" ".join(self.segments)] if self.whole else [self.segments[i] for i in self.heard]

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class Take:
    """What came of a job: the spans' sounds one after the other, or the fault that made them useless."""

    key: str
    fault: str | None = None
    flac: bytes = b""
    rate: int = 0
    ends: tuple[int, ...] = ()  # in samples, where each span ends
    gain: float = 0.0  # dB
    peak: float = 0.0  # of full scale, after the gain
    measures: sound.Measures | None = None
    heard: tuple[Wave, ...] | None = None  # of each span, at HEARD_RATE, where the job is to be listened to


def pick_voice(voices: Sequence[Voice], seed: int, text_id: str) -> Voice:
    """The voice that speaks a text: each with the odds of its weight, by seed and id alone."""
    if len(voices) == 1:
        return voices[0]
    ends = list(accumulate(v.weight for v in voices))
    at = derive(seed, "voice", text_id) / 2**63 * ends[-1]
    return next((v for v, end in zip(voices, ends, strict=True) if at < end), voices[-1])


def record(engine: Engine, jobs: Sequence[Job], level: float) -> list[Take]:
    """Takes of jobs that share a voice, in order. level: dBFS of active speech that each is brought to.

    SaladError when the engine cannot do at all what is asked; whatever else it raises is for the caller to judge.
    """
    voice = jobs[0].voice
    asked = [job.texts for job in jobs]
    sounds = engine.synthesize([text for texts in asked for text in texts], voice.voice)
    if len(sounds) != sum(map(len, asked)):
        raise RuntimeError(f"{len(sounds)} sounds for {sum(map(len, asked))} texts")
    rate = next(v.rate for v in engine.voices() if v.name == voice.voice)
    rest = iter(sounds)
    return [_take(engine, job, [next(rest) for _ in texts], rate, level) for job, texts in zip(jobs, asked, strict=True)]


def _take(engine: Engine, job: Job, sounds: list[Speech], rate: int, level: float) -> Take:
    if fault := next(filter(None, (_fault(s, rate) for s in sounds)), None):
        return Take(job.key, fault)
    spans = _cut(engine, job, sounds[0]) if job.whole else [s.wave for s in sounds]
    if not spans or not all(map(len, spans)):
        return Take(job.key, "word times unknown")
    trimmed = (sound.trim_silence(wave, rate) for wave in spans)
    waves = [sound.fade(sound.change(wave, rate, job.voice.pitch, job.voice.tempo), rate) for wave in trimmed]
    measures = sound.measure(waves, rate, given=[s.wave for s in sounds])
    waves, gain = sound.level(waves, rate, level)
    joined = np.concatenate(waves)
    return Take(
        job.key,
        flac=to_flac(joined, rate),
        rate=rate,
        ends=tuple(accumulate(map(len, waves))),
        gain=gain,
        peak=float(np.abs(joined).max()),
        measures=measures,
        heard=tuple(resample(w, rate, HEARD_RATE) for w in waves) if job.listen else None,
    )


def _fault(speech: Speech, rate: int) -> str | None:
    """Why a sound is none."""
    wave = speech.wave
    if not isinstance(wave, np.ndarray) or wave.ndim != 1 or wave.dtype != np.float32:
        return "sound is not float32 mono"
    if speech.rate != rate:
        return "wrong rate"
    if len(wave) == 0:
        return "no sound"
    peak = float(np.abs(wave).max())  # NaN where one sample is
    if not np.isfinite(peak):
        return "sound is not finite"
    return "silent" if peak < SILENT else None


def _cut(engine: Engine, job: Job, speech: Speech) -> list[Wave]:
    """The heard segments of a whole text, cut apart at the quietest moment between two words; [] where words are not told
    apart there."""
    if speech.words is None:
        raise SaladError(f"engine '{engine.name}' does not say when words are heard", "set speech.cut: spans")
    words = speech.words
    edges = [0, *accumulate(len(s) + 1 for s in job.segments)]  # characters
    waves = []
    for i in job.heard:
        inside = [n for n, w in enumerate(words) if edges[i] <= w.char_start < edges[i + 1]]
        torn = any(w.char_start < edge < w.char_end for w in words for edge in edges[i : i + 2])
        if torn or not inside:
            return []
        first, last = inside[0], inside[-1]
        before = words[first - 1].end if first else 0.0
        after = words[last + 1].start if last + 1 < len(words) else speech.seconds
        waves.append(sound.cut_in_pauses(speech.wave, speech.rate, before, words[first].start, words[last].end, after))
    return waves
