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
ENGINES = {
    "coqui": "salad.tts.coqui:CoquiEngine",
    "espeak": "salad.tts.espeak:EspeakEngine",
    "hibari": "salad.tts.hibari:HibariEngine",
    "kokoro": "salad.tts.kokoro:KokoroEngine",
    "piper": "salad.tts.piper:PiperEngine",
}


@dataclass(frozen=True)
class WordTime:
    """When the word `text[char_start:char_end]` of a synthesised text is heard, in seconds."""

    char_start: int
    char_end: int
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """Sound of one text: float32 mono in [-1, 1]; `words` where the engine knows when it says what."""

    wave: Wave
    rate: int
    words: tuple[WordTime, ...] | None = None

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.rate


@dataclass(frozen=True)
class VoiceInfo:
    """A voice as `salad voices` lists it; rate: samples a second. local: nothing has to be fetched to hear it."""

    name: str
    rate: int
    language: str = "en"
    licence: str = "unknown"
    local: bool = True


class Engine(Protocol):
    """Text in, speech out. The same list of texts and voice always gives the same samples.

    Made without arguments, or with the model's name, folder or file where one engine has several (`voice.model` in a
    configuration). Making one and `voices()` are quick: they look for packages and files, and `synthesize` loads the model
    when first called. Each worker process has its own engine and one thread for it.
    """

    name: str

    def voices(self) -> list[VoiceInfo]: ...

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        """One Speech a text, in order. A text that the engine cannot read gives an empty wave and stops nobody else's."""
        ...


def open_engine(name: str, model: str | None = None) -> Engine:
    """The engine by name, `file.py:Class` or `package.module:Class`.

    SaladError for an unknown engine, a missing package (with how to install it) or a model that is not there.
    """
    kind = plugins.find("engine", name, ENGINES)
    try:
        engine: Engine = kind() if model is None else kind(model)
    except TypeError as e:
        raise SaladError(f"engine '{name}' cannot be made with model {model} ({e})", "leave the model out") from e
    return engine


def make_engine(name: str, voice: str, model: str | None = None) -> Engine:
    """`open_engine`, and a SaladError when it has no such voice."""
    from salad.errors import nearest

    engine = open_engine(name, model)
    voices = [v.name for v in engine.voices()]
    if voices and voice not in voices:  # none: they are known once the model was fetched
        of = f" with model {model}" if model else ""
        raise SaladError(f"engine '{name}'{of} has no voice '{voice}'{nearest(voice, voices)}", f"known: {', '.join(voices)}")
    return engine


@dataclass(frozen=True)
class SpeakingRate:
    """Seconds that a voice needs for a span: `per_span + per_char · characters`."""

    per_span: float
    per_char: float

    def seconds(self, chars: int) -> float:
        return max(self.per_span + self.per_char * chars, 0.1)


def fit_rate(seconds: np.ndarray, chars: np.ndarray, who: str) -> SpeakingRate:
    """Least-squares fit of the seconds that spans take on their characters; `who` speaks, for the error message.

    Give spans like those that will be spoken: long words take less time a character than short ones.
    """
    design = np.stack([np.ones(len(chars)), chars], axis=1)
    if np.ptp(chars) < FEWEST_CHARS:  # no slope can be told from spans of one length
        per_span, per_char = 0.0, float(seconds.sum() / chars.sum())
    else:
        (per_span, per_char), *_ = np.linalg.lstsq(design, seconds, rcond=None)
    if per_char < FASTEST:
        raise SaladError(f"{who} does not speak longer for longer text", "try another voice")
    return SpeakingRate(float(per_span), float(per_char))
