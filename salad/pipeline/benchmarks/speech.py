"""What is heard of a benchmark's prompts, once for all students: said by the held-out voice, or taken from the dataset.

The result is a folder of speech shards like all others (docs/shards.md), so `salad inspect` opens it.
"""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from salad.audio import HEARD_RATE, Wave, from_bytes, resample, to_flac
from salad.config import Config, Voice
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.benchmarks.items import Row
from salad.pipeline.card import card, shards_front
from salad.pipeline.export.facts import speech_facts
from salad.pipeline.ledger import Order
from salad.pipeline.models import Models
from salad.pipeline.script import Script
from salad.pipeline.synthesize import Session, build_speech
from salad.tts import sound
from salad.tts.speakable import speakable
from salad.tts.takes import Job

WORDS_PER_SECOND = 2.5  # of speech, about: for the progress bar, and to cut sound that comes with a dataset
SEARCHED = 0.5  # seconds either way, in which a cut looks for a quiet moment


def voice_of(config: Config) -> Voice:
    """Who speaks what is evaluated: nobody whom training hears, where there is such a voice."""
    return config.speech.heldout_voice or config.speech.voices[0]


def build_prompts(out: Path, config: Config, models: Models, items: Path, progress: Any) -> dict[str, Any]:
    """Speech shards of `items.parquet`: the words that are heard, cut in spans of at most `interleave.speech_words[1]`.

    A prompt without usable sound goes to rejected.parquet with its reason. Transcripts (`heard`) where there is an ASR.
    """
    rows = pq.read_table(items / "items.parquet").to_pylist()
    if any(row["audio"] for row in rows):
        return _recorded(out, config, models, rows, progress)
    order = Order([_row(row) for row in rows])
    return build_speech(out, f"benchmark {items.parent.name}", order, _Prompts(models, [voice_of(config)], rows), progress)


def _row(item: Row) -> Row:
    """Of the speech schema, as far as an item is one."""
    heard = sum(len(item["text"][a:b].split()) for a, b in ranges(item))
    known = {"id": item["id"], "text": item["text"], "domain": item["domain"], "selector": "benchmark", "reason": item["role"]}
    return {**known, "cluster": None, "est_seconds": heard / WORDS_PER_SECOND}


def ranges(item: Row) -> list[tuple[int, int]]:
    """First and last character of each stretch that is heard."""
    return list(zip(item["spoken"][::2], item["spoken"][1::2], strict=True))


def pieces(text: str, start: int, end: int, most: int) -> list[tuple[int, int]]:
    """text[start:end] in adjacent ranges of at most `most` words, as even as can be; white space goes with the word after."""
    ends = [start + m.end() for m in re.finditer(r"\S+", text[start:end])]
    n = max(1, -(-len(ends) // most))
    last = [ends[(i + 1) * len(ends) // n - 1] for i in range(n)] if ends else [end]
    last[-1] = end
    return list(zip([start, *last[:-1]], last, strict=True))


class _Prompts(Session):
    """Says all that is heard of a prompt, in place of an interleaving."""

    def __init__(self, models: Models, voices: list[Voice], items: list[Row]) -> None:
        super().__init__(models, voices, judged_by_cer=False)
        self._items = {item["id"]: item for item in items}

    def script(self, row: Row) -> Script:
        most, text = self.config.interleave.speech_words[1], row["text"]
        spans = [piece for a, b in ranges(self._items[row["id"]]) for piece in pieces(text, a, b, most)]
        forms = [speakable(text[a:b].strip()) for a, b in spans]
        problem = next((f.problem for f in forms if f.problem), None)
        said = tuple(f.text for f in forms)
        job = Job(row["id"], self.voices[0], said, tuple(range(len(said))), listen=self.models.listens)
        return Script(spans, list(said), job, problem)


def _recorded(out: Path, config: Config, models: Models, rows: list[Row], progress: Any) -> dict[str, Any]:
    """Shards of prompts that bring their sound, cut at quiet moments into spans like those that training hears."""
    longest = config.interleave.speech_words[1] / WORDS_PER_SECOND
    (out / "data").mkdir(exist_ok=True)
    kept: list[Row] = []
    turned_down: list[Row] = []
    for row in rows:
        base = {**_row(row), "engine": "recording", "voice": "dataset"}
        try:
            waves = [resample(w, rate, HEARD_RATE) for wave, rate in [from_bytes(row["audio"])] for w in cut(wave, rate, longest)]
        except (RuntimeError, TypeError, ValueError):  # libsndfile's errors are RuntimeErrors
            waves = []
        if not waves or not all(len(w) and np.isfinite(w).all() for w in waves):
            turned_down.append({**base, "rejected": "cannot be decoded" if not waves else "no sound"})
            continue
        waves, gain = sound.level(waves, HEARD_RATE, config.speech.quality.level)
        ((start, end),) = ranges(row)
        spans = shares(row["text"], start, end, [len(w) for w in waves])
        heard = models.transcribe({row["id"]: waves})[row["id"]] if models.asr else None
        said = [row["text"][a:b].strip() for a, b in spans]
        facts = {"gain": gain, "heard": None if heard is None else " | ".join(heard)}
        flac = to_flac(np.concatenate(waves), HEARD_RATE)
        kept.append(shards.speech_row(base, spans, said, flac, HEARD_RATE, list(accumulate(map(len, waves))), **facts))
        progress(sum(k["seconds"] for k in kept))
    if not kept:
        raise SaladError(f"none of the {len(rows)} sounds of the benchmark can be decoded", "look at the dataset's audio column")
    shards.write_speech(kept, out / "data" / "train-00000-of-00001.parquet")
    shards.write_rejected(turned_down, out / "rejected.parquet")
    name, files = "recorded benchmark", shards.shard_files(out)
    told = speech_facts(name, files, [out / "rejected.parquet"], judge=config.models.asr)
    (out / "README.md").write_text(card(told, front=shards_front(files)), encoding="utf-8")
    return {"rows": len(kept), "seconds": round(sum(k["seconds"] for k in kept), 3), "rejected": _counts(turned_down)}


def cut(wave: Wave, rate: int, longest: float) -> list[Wave]:
    """Parts of about even length, none much longer than `longest` seconds, cut where it is quiet."""
    seconds = len(wave) / rate
    n = max(1, int(np.ceil(seconds / longest)))
    edges = [sound.quietest(wave, rate, t - SEARCHED, t + SEARCHED) for t in (seconds * i / n for i in range(1, n))]
    at = [0, *(round(t * rate) for t in edges), len(wave)]
    return [wave[a:b] for a, b in pairwise(at)]


def shares(text: str, start: int, end: int, lengths: list[int]) -> list[tuple[int, int]]:
    """text[start:end] in adjacent ranges in proportion to `lengths`: which words are in which sound is not known."""
    ends = [start + round((end - start) * done / sum(lengths)) for done in accumulate(lengths)]
    return list(zip([start, *ends[:-1]], ends, strict=True))


def _counts(rows: list[Row]) -> dict[str, int]:
    reasons = [row["rejected"] for row in rows]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
