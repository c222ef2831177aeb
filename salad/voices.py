"""`salad voices`: every voice that can be named here, and how fast it speaks on one core of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator

from salad.errors import SaladError
from salad.plugins import registered
from salad.tts.base import ENGINES, Engine, VoiceInfo, open_engine

SENTENCE = "It was a bright cold day in April, and somewhere down the road a clock was striking one."
SHOWN = 8  # voices of an engine when all engines are listed
COLUMNS = "{:<9} {:<16} {:<15} {:>7}  {:>8}  {}"


def show(engine: str | None, model: str | None) -> None:
    """Print the voices of all engines, or all voices of one. SaladError where the one that was asked for cannot be had."""
    from salad.console import console

    console.print(f"[bold]{COLUMNS.format('engine', 'voice', 'language', 'Hz', 's / s', 'licence')}[/]")
    for name in [engine] if engine else list(registered("engine", ENGINES)):
        try:
            for line in _lines(name, model, SHOWN if engine is None else None):
                console.print(line, markup=False, soft_wrap=True)
        except SaladError as e:
            if engine:
                raise
            console.print(f"{name:<9} [dim]–[/] ", end="")
            console.print(str(e), markup=False, soft_wrap=True, style="dim")
    console.print(
        "\ns / s: seconds of one core for a second of speech, measured now. Name voices in a configuration as "
        "speech.voices: \\[{engine: hibari, voice: heart}].",
        soft_wrap=True,
    )


def _lines(name: str, model: str | None, most: int | None) -> Iterator[str]:
    engine = open_engine(name, model)
    voices = engine.voices()
    if not voices:
        yield f"{name:<9} its voices are known once its model is fetched: at first use"
    for voice in voices[:most]:
        price = measured_price(engine, voice) if most is None or voice == voices[0] else None
        shown = "–" if price is None else f"{price:.4f}"
        yield COLUMNS.format(name, voice.name, voice.language, f"{voice.rate:,}", shown, voice.licence)
    if most and len(voices) > most:
        yield f"{'':<9} … and {len(voices) - most} more: salad voices {name}"


def measured_price(engine: Engine, voice: VoiceInfo) -> float | None:
    """Seconds of computing for a second of speech; None where the voice would have to be fetched first."""
    if not voice.local:
        return None
    engine.synthesize(["Good morning."], voice.name)  # loads the model
    started = time.perf_counter()
    (speech,) = engine.synthesize([SENTENCE], voice.name)
    took = time.perf_counter() - started
    return took / speech.seconds if speech.seconds else None
