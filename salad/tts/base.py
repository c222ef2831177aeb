"""What an engine is, how to get one by name, and how fast its voice speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salad import plugins
from salad.audio import Wave
from salad.errors import SaladError

FASTEST = 1e-3  # seconds a character: no voice speaks a thousand characters a second
FEWEST_CHARS = 10  # between the shortest and the longest span, for a slope
ENGINES = {"hibari": "salad.tts.hibari:HibariEngine"}


@dataclass(frozen=True)
class Speech:
    """Sound of one text: float32 mono in [-1, 1]."""

    wave: Wave
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.rate


def trim_silence(wave: Wave, rate: int, keep: float = 0.05, floor: float = 0.01) -> Wave:
    """Cut leading and trailing samples below `floor` of full scale, but for `keep` seconds of them.

    Spans of words stand side by side in a context: their pauses would cost budget and positions.
    """
    loud = np.flatnonzero(np.abs(wave) > floor)
    if len(loud) == 0:
        return wave
    margin = int(keep * rate)
    return wave[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


class Engine(Protocol):
    """Text in, speech out. The same text and voice always give the same samples."""

    name: str

    def voices(self) -> list[str]: ...

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]: ...


def make_engine(name: str, voice: str) -> Engine:
    """The engine by name or `file.py:Class`; raises SaladError for an unknown engine or voice."""
    from salad.errors import nearest

    engine: Engine = plugins.find("engine", name, ENGINES)()
    if voice not in (voices := engine.voices()):
        raise SaladError(f"engine '{name}' has no voice '{voice}'{nearest(voice, voices)}", f"known: {', '.join(voices)}")
    return engine


@dataclass(frozen=True)
class SpeakingRate:
    """Seconds that a voice needs for a span: `per_span + per_char · characters`."""

    per_span: float
    per_char: float

    def seconds(self, chars: int) -> float:
        return max(self.per_span + self.per_char * chars, 0.1)


def measure_rate(engine: Engine, voice: str, texts: list[str]) -> SpeakingRate:
    """Least-squares fit of the seconds that `texts` take on their characters.

    Give spans like those that will be spoken: long words take less time a character than short ones.
    """
    seconds = np.array([s.seconds for s in engine.synthesize(texts, voice)])
    chars = np.array([len(t) for t in texts], dtype=np.float64)
    design = np.stack([np.ones(len(texts)), chars], axis=1)
    if np.ptp(chars) < FEWEST_CHARS:  # no slope can be told from spans of one length
        per_span, per_char = 0.0, float(seconds.sum() / chars.sum())
    else:
        (per_span, per_char), *_ = np.linalg.lstsq(design, seconds, rcond=None)
    if per_char < FASTEST:
        raise SaladError(f"voice '{voice}' of engine '{engine.name}' does not speak longer for longer text", "try another voice")
    return SpeakingRate(float(per_span), float(per_char))
