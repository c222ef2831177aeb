"""Spans said by themselves, or cut out of whole texts: what an ASR understands, and what it costs.

.venv/bin/python bench/cuts.py [--texts 60] [engine/voice …]

The same texts and the same spans both ways (`speech.cut: spans | texts`), by voices whose engines say when words are heard.
CER by PocketSphinx, which training never uses, and by Whisper tiny.en. "price": seconds of computing for a second that is
heard (a whole text is said for its heard part). "kept": passes `speech.quality`. "step": the largest jump from one sample to
the next where two spans meet, in thousandths of full scale, without and with the fades.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from synthesize import config_with, texts
from voices import RATE, sphinx_transcripts

from salad.audio import from_bytes, resample
from salad.errors import SaladError
from salad.pipeline.models import quiet_libraries
from salad.pipeline.script import write_script
from salad.tts import sound
from salad.tts.base import make_engine
from salad.tts.quality import character_error_rate, fault
from salad.tts.takes import record

VOICES = ("hibari/heart", "piper/en_US-joe-medium", "kokoro/af_heart")
console = Console(highlight=False, width=130)


def measure(voice: str, cut: str, n: int, whisper: object) -> list[str]:
    config = config_with(voice, asr=False)
    config = config.model_copy(update={"speech": config.speech.model_copy(update={"cut": cut})})
    (named,) = config.speech.voices
    engine = make_engine(named.engine, named.voice, named.model)
    scripts = [s for s in (write_script(row, config, [named]) for row in texts(n)) if not s.problem]
    engine.synthesize(scripts[0].said, named.voice)
    started = time.perf_counter()
    takes = [t for i in range(0, len(scripts), 8) for t in record(engine, [s.job for s in scripts[i : i + 8]], -26.0)]
    took = time.perf_counter() - started
    said, waves, kept, seconds, words, steps, hard = [], [], 0, 0.0, 0, [], []
    for script, take in zip(scripts, takes, strict=True):
        if take.fault or take.measures is None:
            continue
        wave, rate = from_bytes(take.flac)
        said += script.said
        spans = np.split(wave, take.ends[:-1])
        waves += [resample(s, rate, RATE) for s in spans]
        n_words = sum(len(s.split()) for s in script.said)
        kept += fault(take.measures, n_words, None, config.speech.quality) is None
        words, seconds = words + n_words, seconds + take.measures.seconds
        steps += [abs(float(wave[e] - wave[e - 1])) for e in take.ends[:-1]]
    fade, sound.fade = sound.fade, lambda wave, rate, seconds=0.0: wave  # type: ignore[assignment]
    for take in (t for i in range(0, min(32, n), 8) for t in record(engine, [s.job for s in scripts[i : i + 8]], -26.0)):
        if not take.fault:
            wave, _ = from_bytes(take.flac)
            hard += [abs(float(wave[e] - wave[e - 1])) for e in take.ends[:-1]]
    sound.fade = fade
    return [
        voice, cut, f"{character_error_rate(said, sphinx_transcripts(waves)):.3f}",
        f"{character_error_rate(said, whisper.transcribe(waves)):.3f}",  # type: ignore[attr-defined]
        f"{words / seconds:.2f}", f"{took / seconds:.4f}", f"{kept / len(scripts):.0%}",
        f"{1000 * max(hard, default=0):.1f}", f"{1000 * max(steps, default=0):.1f}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", nargs="*", default=VOICES, help="engine/voice")
    parser.add_argument("--texts", type=int, default=24)
    asked = parser.parse_args()
    quiet_libraries()
    import torch

    from salad.whisper import ShortWhisper

    whisper = ShortWhisper("openai/whisper-tiny.en", torch.float32)
    table = Table(title=f"{asked.texts} texts", title_justify="left")
    for i, column in enumerate(("voice", "cut", "CER", "CER Whisper", "words / s", "price", "kept", "step hard", "faded")):
        table.add_column(column, justify="left" if i < 2 else "right")
    for voice in track(asked.voices, "speaking", console=console, transient=True):
        for cut in ("spans", "texts"):
            try:
                row = measure(voice, cut, asked.texts, whisper)
                console.print(f"[dim]{' · '.join(row)}[/]")
                table.add_row(*row)
            except SaladError as e:
                console.print(f"[dim]{voice}, {cut}: {e}[/]", soft_wrap=True)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
