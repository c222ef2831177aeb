"""Finished shards against the bare engine: seconds of speech a second, on the same cores, for the same texts.

.venv/bin/python bench/synthesize.py [--voice hibari/heart] [--texts 1280] [--memory 10000]

bare: one process a core, each with its own engine and one thread, calls `synthesize` on its share of the very same spans, the
longest first, and throws the sounds away. shards: `build_speech`, from texts to published Parquet shards: spoken forms, voice
plan, processes, trimming, levels, checks, FLAC, checksums, fsync. Both start warm; they take turns, and the median of the
ratios of neighbours is taken. With the ASR (Whisper tiny.en, on the same cores) the same is stated and has no limit.

memory: that many samples through `build_speech`, and what its processes hold (VmRSS) after a tenth of them and at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from salad import assets
from salad.config import Config, load_config
from salad.pipeline.clean import clean, passages
from salad.pipeline.ledger import Order
from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.script import write_script
from salad.pipeline.synthesize import Session, build_speech
from salad.tts.base import make_engine
from salad.tts.workers import Workers

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
SHARE, GROWTH, TURNS = 0.90, 1.10, 5  # the limits, and how often both sides take turns
BATCH = 8
CORES = len(os.sched_getaffinity(0))
console = Console(highlight=False, width=120)


def texts(n: int) -> list[dict[str, Any]]:
    """Rows of packaged texts as an order has them."""
    found = []
    for number, name in enumerate(("recipes", "medicine", "law", "encyclopedia")):
        column = pq.read_table(assets.text_file(name), columns=["text"])["text"]
        pieces = (p for text in column for p in passages(clean(text.as_py()), 12, 40) if 12 <= len(p.split()) <= 40)
        for _ in range(-(-n // 4)):
            row = {"id": f"{len(found):032x}", "text": next(pieces), "source": name, "cluster": number, "est_seconds": 4.0}
            found.append(row)
    random.Random(0).shuffle(found)  # so that every tenth of them is like every other
    return found[:n]


def config_with(voice: str, asr: bool) -> Config:
    engine, _, name = voice.partition("/")
    data = load_config(CONFIG).model_dump(mode="json")
    data["speech"]["voices"] = [{"engine": engine, "voice": name}]
    data["models"]["asr"] = data["models"]["asr"] if asr else None
    return Config.model_validate(data)


def speak_bare(voice: str, said: list[str], start: Barrier, end: Barrier, turns: int) -> None:
    engine, _, name = voice.partition("/")
    made = make_engine(engine, name)
    made.synthesize(said[:2], name)
    for _ in range(turns):
        start.wait()
        for i in range(0, len(said), BATCH):
            made.synthesize(said[i : i + BATCH], name)
        end.wait()


class Bare:
    """The bare engine on every core, at the ready."""

    def __init__(self, voice: str, said: list[str], turns: int) -> None:
        context = get_context("spawn")
        self.start, self.end = context.Barrier(CORES + 1), context.Barrier(CORES + 1)
        ordered = sorted(said, key=len, reverse=True)
        shares = [ordered[i::CORES] for i in range(CORES)]
        self.processes = [context.Process(target=speak_bare, args=(voice, s, self.start, self.end, turns)) for s in shares]
        for process in self.processes:
            process.start()

    def turn(self) -> float:
        self.start.wait()
        started = time.perf_counter()
        self.end.wait()
        return time.perf_counter() - started


def shards_turn(rows: list[dict[str, Any]], config: Config, models: Models) -> tuple[float, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as out:
        session = Session(models, config.speech.voices, judged_by_cer=False)
        started = time.perf_counter()
        meta = build_speech(Path(out), "bench", Order(rows), session, lambda *_: None)
        return time.perf_counter() - started, meta


def throughput(voice: str, n: int, asr: bool) -> list[str]:
    """A row of the table: bare and finished seconds of speech a second, and the median ratio."""
    rows, config = texts(n), config_with(voice, asr)
    models = Models(config)
    said = [s for row in rows for s in write_script(row, config, config.speech.voices).said]
    warm = shards_turn(rows[:32], config, models)  # engines and ASR are loaded
    del warm
    turns = 2 if asr else TURNS
    bare = Bare(voice, said, turns)
    pairs, meta = [], {}
    for _ in range(turns):
        alone = bare.turn()
        ours, meta = shards_turn(rows, config, models)
        pairs.append((alone, ours))
        console.print(f"[dim]{meta['seconds']:.0f} s of speech: bare {alone:.2f} s, shards {ours:.2f} s[/]")
    models.close()
    seconds = meta["seconds"]
    alone, ours = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    share = statistics.median(a / b for a, b in pairs)
    spread = f"{min(a / b for a, b in pairs):.0%} to {max(a / b for a, b in pairs):.0%}"
    kept = "–" if asr else "yes" if share >= SHARE else "NO"
    name = f"{voice}, ASR on every sample" if asr else voice
    return [name, f"{seconds:,.0f}", f"{seconds / alone:.0f}", f"{seconds / ours:.0f}", f"{share:.0%} ({spread})", kept]


def resident(pid: int | str) -> float:
    """MiB that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def memory(voice: str, n: int) -> tuple[list[str], bool]:
    """A row of the second table, and whether memory stayed flat."""
    config = config_with(voice, asr=False)
    models = Models(config)
    seen: list[tuple[float, float]] = []

    def progress(seconds: float, total: float) -> None:
        pool = models.speakers
        assert isinstance(pool, Workers)
        workers = [resident(pid) for pid in pool.processes()]
        if len(workers) == CORES:
            seen.append((resident("self"), max(workers)))

    rows = texts(n)
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        session = Session(models, config.speech.voices)
        meta = build_speech(Path(out), "bench", Order(rows), session, progress)
        seconds = time.perf_counter() - started
    models.close()
    early = [max(s[i] for s in seen[: len(seen) // 10]) for i in (0, 1)]
    late = [max(s[i] for s in seen[-len(seen) // 10 :]) for i in (0, 1)]
    flat = all(after <= GROWTH * before for before, after in zip(early, late, strict=True))
    shown = [f"{before:.0f} → {after:.0f}" for before, after in zip(early, late, strict=True)]
    return [f"{n:,}", f"{meta['seconds']:,.0f}", f"{seconds:.0f}", *shown, "yes" if flat else "NO"], flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", default="hibari/heart", help="engine/voice")
    parser.add_argument("--texts", type=int, default=1280, help="a quarter of them with the ASR")
    parser.add_argument("--memory", type=int, default=10_000, help="samples; 0: not measured")
    parser.add_argument("--only-memory", action="store_true", help="leave the throughput out")
    asked = parser.parse_args()
    quiet_libraries()
    table = Table(title=f"Throughput on {CORES} cores, seconds of speech a second", title_justify="left")
    for column in ("voice", "speech s", "bare", "shards", "shards / bare", f"≥ {SHARE:.0%}"):
        table.add_column(column, justify="left" if column == "voice" else "right")
    good = True
    if not asked.only_memory:
        found = [throughput(asked.voice, asked.texts // (4 if asr else 1), asr) for asr in (False, True)]
        for row in found:
            table.add_row(*row)
        console.print(table)
        good = found[0][-1] == "yes"
    if asked.memory:
        row, flat = memory(asked.voice, asked.memory)
        table = Table(title="Memory, MiB resident: after a tenth of the samples → at the end", title_justify="left")
        for column in ("samples", "speech s", "wall s", "main process", "largest worker", f"≤ {GROWTH:.0%}"):
            table.add_column(column, justify="right")
        table.add_row(*row)
        console.print(table)
        good = good and flat
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
