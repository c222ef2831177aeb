"""Faults planted among clusters, spoken by the real voice and heard by the real ASR: are these, and only these, flagged?

.venv/bin/python bench/flags.py           # about a minute on two cores; needs the asset packages
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from salad import assets
from salad.config import load_config
from salad.pipeline import shards
from salad.pipeline.clean import clean, passages, refusal
from salad.pipeline.flags import cluster_cer, flag_clusters
from salad.pipeline.ledger import Order
from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.synthesize import Session, build_speech
from salad.seeds import generator
from salad.tts.base import Speech
from salad.tts.hibari import HibariEngine

CONFIG = Path(__file__).parents[1] / "configs/demo.yaml"
PROBES = 8
CHUNK = 0.08  # seconds, about a phoneme
NOISE = 10 ** (10 / 20)  # of the speech's level: 10 dB above it
WORDS = (12, 40)  # of a passage


class Garbled(HibariEngine):
    """Every sound in pieces of 80 ms, shuffled."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [Speech(self._shuffled(s, text), s.rate) for text, s in zip(texts, super().synthesize(texts, voice), strict=True)]

    @staticmethod
    def _shuffled(speech: Speech, text: str) -> np.ndarray:
        pieces = np.array_split(speech.wave, max(1, round(speech.seconds / CHUNK)))
        return np.concatenate([pieces[i] for i in generator(0, "garbled", text).permutation(len(pieces))])


class Noisy(HibariEngine):
    """White noise 10 dB above the voice."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [Speech(self._drowned(s, text), s.rate) for text, s in zip(texts, super().synthesize(texts, voice), strict=True)]

    @staticmethod
    def _drowned(speech: Speech, text: str) -> np.ndarray:
        level = NOISE * np.sqrt(np.mean(speech.wave**2))
        noisy = speech.wave + level * generator(0, "noisy", text).normal(size=len(speech.wave))
        return (0.5 * noisy / np.abs(noisy).max()).astype(np.float32)


class Halved(HibariEngine):
    """Every other word is left out."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return super().synthesize([" ".join(text.split()[::2]) for text in texts], voice)


@dataclass(frozen=True)
class Plant:
    """A cluster: its texts, each with the name of the engine that speaks it, and the flag it deserves."""

    kind: str
    probes: list[tuple[str, str]]
    flag: str


@dataclass(frozen=True)
class Found:
    """What came of a plant. mean_cer: of all its probes; cer: without the worst, which is what counts; NaN: no sound is left."""

    plant: Plant
    n_probe: int
    mean_cer: float
    cer: float
    words_per_second: float
    flag: str


def plants() -> list[Plant]:
    """The covered domain five times, three unseen ones, texts that cannot be spoken, and voices that cannot speak."""
    recipes, healthy = passages_of("recipes"), "hibari"
    garbled, noisy, halved = (f"{__file__}:{engine.__name__}" for engine in (Garbled, Noisy, Halved))

    def spoken(texts: Iterator[str], engine: str = healthy, n: int = PROBES) -> list[tuple[str, str]]:
        return [(next(texts), engine) for _ in range(n)]

    return [
        *(Plant(f"recipes {i}", spoken(recipes), "") for i in range(1, 5)),
        Plant("recipes, 1 garbled", [*spoken(recipes, n=PROBES - 1), *spoken(recipes, garbled, n=1)], ""),
        *(Plant(f"{name}, unseen", spoken(passages_of(name)), "") for name in ("law", "medicine", "security")),
        Plant("table of numbers", spoken(tables()), "unspeakable"),
        Plant("code", spoken(code()), ""),
        Plant("base64", spoken(base64_lines()), "cer"),
        Plant("recipes, garbled", spoken(recipes, garbled), "cer"),
        Plant("recipes, noisy", spoken(recipes, noisy), "cer"),
        Plant("recipes, halved", spoken(recipes, halved), "cer"),
    ]


def passages_of(name: str) -> Iterator[str]:
    """A packaged collection as the pool would have it, the first passage of each document, in random order."""
    documents = pq.read_table(assets.text_file(name), columns=["text"])["text"].to_pylist()
    for i in generator(0, "flags", name).permutation(len(documents)):
        speakable = (p for p in passages(clean(documents[i]), *WORDS) if refusal(p, *WORDS) is None)
        if (first := next(speakable, None)) is not None:
            yield first


def code() -> Iterator[str]:
    """C of a kind: refused before it is spoken, but for a probe whose span has little of it, which is heard right."""
    for i in range(PROBES):
        a, b, c = (hashlib.md5(f"{i} {name}".encode()).hexdigest()[:4] for name in "abc")
        yield (
            f"for (int i_{a} = 0; i_{a} < {i + 3}; ++i_{a}) {{ buf[{b}][i_{a}] ^= *(p_{c} + {i}) & 0x{a.upper()}; "
            f"if (!p_{c}->nxt) goto err_{b}; }} return -E{c.upper()};"
        )


def base64_lines() -> Iterator[str]:
    """Hashes in base64, eight letters a word: words to any rule, but nobody understands them."""
    for i in range(PROBES):
        raw = b"".join(hashlib.sha256(f"{i} {j}".encode()).digest() for j in range(4))
        letters = base64.b64encode(raw).decode()
        yield " ".join(letters[at : at + 8] for at in range(0, 160, 8))


def tables() -> Iterator[str]:
    """Rows of names and decimals between bars: refused before they are spoken."""
    for i in range(PROBES):
        rng = generator(0, "table", i)
        cells = (f"{rng.normal():.4f}" if j % 3 else f"{'QRSTVX'[j % 6]}{rng.integers(999)}" for j in range(22))
        yield f"| {' | '.join(cells)} |"


def measure(folder: Path, planted: list[Plant]) -> list[Found]:
    """Speak and check each probe as `salad run` does, one speech folder an engine, and flag the clusters."""
    quiet_libraries()
    config = load_config(CONFIG)
    asr = Models(config).asr
    rows: dict[str, list[dict[str, object]]] = {}
    for cluster, plant in enumerate(planted):
        for text, engine in plant.probes:
            text_id = hashlib.blake2b(f"{cluster} {text}".encode(), digest_size=16).hexdigest()
            rows.setdefault(engine, []).append({"id": text_id, "text": text, "cluster": cluster, "est_seconds": 5.0})
    found = []
    for number, (engine, of_engine) in enumerate(rows.items()):
        spoken_by = load_config(CONFIG, {"speech.voices": [{"engine": engine}]})
        models = Models(spoken_by)
        models.asr = asr
        out = folder / str(number)
        out.mkdir()
        session = Session(models, spoken_by.speech.voices, judged_by_cer=False)
        build_speech(out, engine, Order(of_engine), session, lambda *_: None)
        models.close()
        found.append(shards.read_columns(out, ["cluster", "cer", "words_per_second"]).to_pydict())
    cluster, cer, speed = (np.concatenate([f[name] for f in found]) for name in ("cluster", "cer", "words_per_second"))
    counted = cluster_cer(cer, cluster, len(planted))
    flags = flag_clusters(cer, cluster, len(planted), config.score.flags, tried=range(len(planted)))
    results = []
    for c, plant in enumerate(planted):
        here = cluster == c
        mean, pace = (float(x[here].mean()) if here.any() else float("nan") for x in (cer, speed))
        results.append(Found(plant, int(here.sum()), mean, float(counted[c]), pace, flags[c]))
    return results


def main() -> int:
    """Print the table; 0 when every flag is the one that was planted."""
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), plants())
    table = Table(caption="CER: mean of all probes, and without the worst, which counts", caption_justify="left")
    for column in ("cluster", "probes", "CER", "counts", "words/s", "flag", "planted"):
        table.add_column(column, justify="left" if column in ("cluster", "flag", "planted") else "right")
    for f in found:
        numbers = ("–" if np.isnan(x) else f"{x:.3f}" for x in (f.mean_cer, f.cer))
        pace = "–" if np.isnan(f.words_per_second) else f"{f.words_per_second:.2f}"
        table.add_row(f.plant.kind, str(f.n_probe), *numbers, pace, f.flag, f.plant.flag)
    Console(highlight=False).print(table)
    return int(any(f.flag != f.plant.flag for f in found))


if __name__ == "__main__":
    sys.exit(main())
