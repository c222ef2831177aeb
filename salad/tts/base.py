"""What an engine is, how to get one by name, and how fast its voice speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salad import plugins
from salad.audio import Wave
from salad.errors import SaladError

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


# IEEE Recommended Practice for Speech Quality Measurements (1969): the "Harvard sentences", list 1.
HARVARD = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
)


def measure_rate(engine: Engine, voice: str, texts: list[str] | None = None) -> SpeakingRate:
    """Least-squares fit over spans of 3 to 20 words; by default cut from the Harvard sentences."""
    if texts is None:
        words = " ".join(HARVARD).split()
        texts = [" ".join(words[i : i + n]) for i, n in zip(range(0, 60, 5), (3, 5, 7, 9, 11, 13, 15, 17, 19, 6, 10, 14))]
    spoken = engine.synthesize(texts, voice)
    design = np.stack([np.ones(len(texts)), [len(t) for t in texts]], axis=1)
    (per_span, per_char), *_ = np.linalg.lstsq(design, np.array([s.seconds for s in spoken]), rcond=None)
    if per_char <= 0:
        raise SaladError(f"voice '{voice}' of engine '{engine.name}' does not speak longer for longer text", "try another voice")
    return SpeakingRate(float(per_span), float(per_char))
