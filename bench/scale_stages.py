"""What `bench/scale.py` walks: one stage of a large made-up run, in this process. Run by it, not by hand.

Real: every stage's own code, files and manifests, the windows and batches of embedding, the estimate for every text. Not
real, because it would take days: the texts (drawn words, plain spelling), the sentence encoder (each text is its topic's
direction plus noise by hash; it takes the place of `SentenceTransformer`), the voice (a tone of 0.06 s a character, 64 texts
of it), and the D of the probes (drawn by topic). Probes and held-out texts count as spoken without being spoken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 256
TOPICS = 256
NOISE = 0.9  # as in bench/vectors.py: two texts of a topic have a cosine of 0.55
WORDS = 8_192
FILE_TEXTS = 250_000
K, PER_CLUSTER = 128, 8
BUDGET = 36_000.0  # seconds of speech
RATE = 16_000
STRATEGIES = ("importance-diverse", "importance", "uniform")
STAGES = ("pool", "embeddings", "clusters", "orders", "scores", *STRATEGIES)


def write_texts(folder: Path, n: int) -> None:
    """n sentences of 12 to 20 words as Parquet files; the first word is the topic's, topics weigh as Zipf's with power ½."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    syllables = "ba den ki lor me nas ro sil ti ver wan ter sol min gar pel chi fur hu jo".split()
    words = np.array(sorted({"".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(WORDS)}), dtype=object)
    weight = np.arange(1, TOPICS + 1) ** -0.5
    for part, start in enumerate(range(0, n, FILE_TEXTS)):
        rng = np.random.default_rng((0, part))
        m = min(FILE_TEXTS, n - start)
        drawn, length = words[rng.integers(TOPICS, len(words), (m, 20))], rng.integers(12, 21, m)
        drawn[:, 0] = words[rng.choice(TOPICS, m, p=weight / weight.sum())]
        texts = [" ".join(row[:w]).capitalize() + "." for row, w in zip(drawn.tolist(), length.tolist(), strict=True)]
        pq.write_table(pa.table({"text": texts}), folder / f"texts-{part:04d}.parquet", compression="zstd")


def configuration(folder: Path, strategy: str) -> Any:
    from salad.config import Config

    return Config.model_validate(
        {
            "name": "scale",
            "runs_dir": str(folder / "runs"),
            "models": {"lm": "none", "encoder": "none", "embedder": str(folder / "embedder")},
            "pool": {
                "sources": [{"dataset": str(folder / "texts" / "*.parquet"), "domain": "made up"}],
                "near_duplicate": None,  # its index is in memory
            },
            "natural": {"domains": ["made up"], "seconds": BUDGET},
            "interleave": {"start": "speech"},  # texts of 12 words that start as text may have nothing to hear
            "cluster": {"k": K},
            "probe": {"per_cluster": PER_CLUSTER},
            "select": {"selector": strategy, "budget": BUDGET},
            "speech": {"voices": [{"engine": f"{Path(__file__).resolve()}:Tones", "voice": "tone"}], "workers": 0},
            "train": {"stage_one_steps": 1, "round_steps": 1, "decay_steps": 1},
        }
    )


class Tones:
    """An engine: 0.06 s a character."""

    name = "tones"

    def voices(self) -> list[Any]:
        from salad.tts.base import VoiceInfo

        return [VoiceInfo("tone", RATE)]

    def synthesize(self, texts: list[str], voice: str) -> list[Any]:
        from salad.tts.base import Speech

        return [Speech(np.sin(np.arange(int(0.06 * RATE * len(t)), dtype=np.float32) / 9), RATE) for t in texts]


class Hashed:
    """Stands in for `SentenceTransformer`: a unit vector about the direction of the text's first word."""

    def __init__(self, *_: Any, **__: Any) -> None:
        rng = np.random.default_rng(1)
        self.centres = _unit(rng.normal(size=(2 * TOPICS, WIDTH)))
        self.noise = rng.normal(size=(65_536, WIDTH)).astype(np.float32) * np.float32(NOISE / np.sqrt(2 * WIDTH))

    def get_embedding_dimension(self) -> int:
        return WIDTH

    def encode(self, texts: list[str], **_: Any) -> Any:
        import torch
        import xxhash

        topic = [xxhash.xxh3_64_intdigest(t.partition(" ")[0].encode()) % len(self.centres) for t in texts]
        own = np.array([xxhash.xxh3_64_intdigest(t.encode()) for t in texts], np.uint64).astype(np.int64)
        return torch.from_numpy(_unit(self.centres[topic] + self.noise[own & 0xFFFF] + self.noise[own >> 16 & 0xFFFF]))


def run_stage(folder: Path, stage: str) -> dict[str, Any]:
    """Build one artefact below `folder`; returns what it says of itself."""
    from salad.pipeline import score, select
    from salad.pipeline.stages import Run

    config = configuration(folder, stage if stage in STRATEGIES else STRATEGIES[0])
    run = Run(config)
    at = run.store.path
    if stage in ("pool", "embeddings", "clusters"):
        import sentence_transformers

        (folder / "embedder").mkdir(exist_ok=True)
        sentence_transformers.SentenceTransformer = Hashed
        manifest, _ = run.execute(next(s for s in run.stages if s.name == stage))
        return manifest.meta
    out = folder / "runs" / "scale" / stage
    out.mkdir()
    if stage == "orders":
        return _orders(config, at, out)
    aside = [folder / "runs/scale/orders" / name for name in ("probe", "heldout")]
    if stage == "scores":
        score._measured = lambda *_: _drawn_scores(aside[0])
        probes = [score.ProbeSet(aside[0], aside[0])]
        meta = score.build_scores(
            out, config, run.models, at("pool"), at("embeddings"), at("clusters"), probes, out, None, lambda _: None
        )
        return {name: meta[name] for name in ("probes", "effective_clusters")}
    inputs = select.Inputs(at("pool"), at("embeddings"), at("clusters"), [at("scores")], aside, [])
    return select.build_selection(out, config, 0, inputs, lambda _: None)


def _orders(config: Any, at: Any, out: Path) -> dict[str, Any]:
    """Probes, held-out texts and Stage I's texts, the first two noted as if they had been spoken."""
    from salad.pipeline import probe

    def spoken(name: str, rows: list[dict[str, Any]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (out / name / "data").mkdir(parents=True)
        columns = {c: [row[c] for row in rows] for c in ("id", "cluster", "est_seconds")}
        pq.write_table(pa.table(columns), out / name / "data" / "train-00000-of-00001.parquet")
        none = pa.schema([("id", pa.string()), ("cluster", pa.int32()), ("rejected", pa.string())]).empty_table()
        pq.write_table(none, out / name / "rejected.parquet")
        return out / name

    probes = spoken("probe", probe.probe_order(config, at("pool"), at("clusters")).rows)
    heldout = probe.heldout_order(config, at("pool"), at("clusters"), [probes]).rows
    natural = probe.natural_order(config, at("pool"), at("clusters"), [probes, spoken("heldout", heldout)]).rows
    return {"heldout": len(heldout), "natural": len(natural)}


def _drawn_scores(probes: Path) -> Any:
    """PROBE_SCORES of the probes: log D is normal, of mean by cluster."""
    import pyarrow as pa

    from salad.pipeline.schema import PROBE_SCORES
    from salad.pipeline.shards import read_columns

    facts = read_columns(probes, ["id", "cluster", "est_seconds"])
    rng = np.random.default_rng(2)
    d = np.exp(0.3 * rng.normal(size=K)[facts["cluster"].to_numpy()] + 0.4 * rng.normal(size=len(facts)))
    known = {"id": facts["id"], "cluster": facts["cluster"], "divergence": d, "misalignment": d, "seconds": facts["est_seconds"]}
    rest = {name: np.zeros(len(d)) for name in PROBE_SCORES.names if name not in known}
    rest |= {"words_per_second": np.full(len(d), 2.5), "quarantined": pa.nulls(len(d), pa.string())}
    return pa.table(known | rest).select(PROBE_SCORES.names).cast(PROBE_SCORES)


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    print(json.dumps(run_stage(Path(sys.argv[1]), sys.argv[2])))
