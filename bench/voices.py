"""Every voice here, heard by an ASR that training never uses: rate, price, CER, licence.

.venv/bin/python bench/voices.py [--texts 60] [engine/voice …]

The texts are spans of the demo's five domains, in their spoken form, the same for every voice; each is said, trimmed and
levelled as in a shard. CER: PocketSphinx (US English, BSD), which no training and no selection uses; beside it Whisper
tiny.en, whose encoder the demo's student hears with. "shuffled" gives PocketSphinx the sounds of other texts: what a CER
that means nothing looks like.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from salad import assets
from salad.audio import Wave, from_bytes, resample
from salad.config import Quality, Voice
from salad.errors import SaladError
from salad.pipeline.clean import clean, passages
from salad.pipeline.models import quiet_libraries
from salad.tts.base import ENGINES, Engine, VoiceInfo, make_engine, open_engine
from salad.tts.quality import character_error_rate
from salad.tts.speakable import speakable
from salad.tts.takes import Job, record
from salad.voices import measured_price

RATE = 16_000
PSEUDO = ((2.0, 1.0), (-3.0, 1.0), (0.0, 1.15), (-2.0, 0.9))
OF_AN_ENGINE = 6  # voices, where none are named
console = Console(highlight=False, width=140)


@dataclass
class Heard:
    voice: Voice
    info: VoiceInfo
    price: float | None
    words_per_second: float
    sphinx: float
    shuffled: float
    whisper: float


def spans(n: int) -> list[str]:
    """Spoken forms of 5 to 15 words, a fifth from each domain."""
    found: list[str] = []
    for name in assets.TEXTS:
        texts = pq.read_table(assets.text_file(name), columns=["text"])["text"].to_pylist()
        pieces = (p for text in texts[:: max(1, len(texts) // 400)] for p in passages(clean(text), 12, 40))
        forms = (speakable(" ".join(p.split()[: 5 + len(p) % 11])) for p in pieces)
        good = (f.text for f in forms if not f.problem and len(f.text) > 25)
        found += [next(good) for _ in range(-(-n // len(assets.TEXTS)))]
    return found


def local_voices() -> list[tuple[Engine, Voice, VoiceInfo]]:
    found = []
    for name in ENGINES:
        try:
            engine = open_engine(name)
        except SaladError as e:
            console.print(f"[dim]{name}: {e}[/]", soft_wrap=True)
            continue
        here = [v for v in engine.voices() if v.local]
        some = here[:: max(1, len(here) // OF_AN_ENGINE)][:OF_AN_ENGINE]
        found += [(engine, Voice(engine=name, voice=v.name), v) for v in some]
    return found


def hear(engine: Engine, voice: Voice, info: VoiceInfo, said: list[str], whisper: object) -> Heard:
    jobs = [Job(str(i), voice, (text,), (0,)) for i, text in enumerate(said)]
    takes = [t for i in range(0, len(jobs), 8) for t in record(engine, jobs[i : i + 8], Quality().level)]
    waves = [np.zeros(RATE, np.float32) if t.fault else resample(*from_bytes(t.flac), RATE) for t in takes]
    seconds = sum(len(w) / RATE for w in waves)
    sphinx = sphinx_transcripts(waves)
    return Heard(
        voice,
        info,
        measured_price(engine, info) if voice.pitch == 0 and voice.tempo == 1 else None,
        sum(len(text.split()) for text in said) / seconds,
        character_error_rate(said, sphinx),
        character_error_rate(said, sphinx[1:] + sphinx[:1]),
        character_error_rate(said, whisper.transcribe(waves)),  # type: ignore[attr-defined]
    )


def sphinx_transcripts(waves: list[Wave]) -> list[str]:
    from pocketsphinx import Decoder

    decoder, quiet, heard = Decoder(samprate=RATE, loglevel="FATAL"), np.zeros(RATE // 4, np.float32), []
    for wave in waves:
        decoder.start_utt()
        sound = np.clip(np.concatenate([quiet, wave, quiet]), -1, 1) * 32767
        decoder.process_raw(sound.astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        heard.append(decoder.hyp().hypstr if decoder.hyp() else "")
    return heard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", nargs="*", help="engine/voice; default: some of every engine that is here")
    parser.add_argument("--texts", type=int, default=60)
    asked = parser.parse_args()
    quiet_libraries()
    import torch

    from salad.whisper import ShortWhisper

    whisper = ShortWhisper("openai/whisper-tiny.en", torch.float32)
    said = spans(asked.texts)
    if not asked.voices:
        voices = local_voices()
    else:
        named = [name.split("/", 1) for name in asked.voices]
        engines = [make_engine(engine, voice) for engine, voice in named]
        voices = [
            (e, Voice(engine=n[0], voice=n[1]), next(v for v in e.voices() if v.name == n[1]))
            for e, n in zip(engines, named, strict=True)
        ]
    engine, first, info = next(v for v in voices if v[1].engine == "hibari") if not asked.voices else voices[0]
    pseudo = [(engine, first.model_copy(update={"pitch": pitch, "tempo": tempo}), info) for pitch, tempo in PSEUDO]
    found = [hear(*v, said, whisper) for v in track([*voices, *pseudo], "listening", console=console, transient=True)]
    table = Table(title=f"{len(said)} spans, {statistics.mean(map(len, said)):.0f} characters each", title_justify="left")
    for i, column in enumerate(("engine", "voice", "Hz", "words / s", "s / s", "CER", "shuffled", "CER Whisper", "licence")):
        table.add_column(column, justify="left" if i in (0, 1, 8) else "right")
    for h in found:
        table.add_row(
            h.voice.engine, h.voice.label, f"{h.info.rate:,}", f"{h.words_per_second:.2f}",
            "–" if h.price is None else f"{h.price:.4f}", f"{h.sphinx:.3f}", f"{h.shuffled:.3f}", f"{h.whisper:.3f}",
            h.info.licence,
        )  # fmt: skip
    console.print(table)
    if meaningless := [f"{h.voice.engine}/{h.voice.label}" for h in found if h.shuffled < 2 * h.sphinx]:
        console.print(f"PocketSphinx cannot judge {', '.join(meaningless)}: it hears other texts nearly as well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
