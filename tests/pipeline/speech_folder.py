"""Speech folders and runs made by our own writer, small and exact, for the tests of what leaves the project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salad import artifact, audio
from salad.pipeline import shards

RATE = 22_050  # seconds of its samples are no round numbers


def speech_rows(number: int, first: int = 0, rate: int = RATE, **changed: Any) -> list[dict[str, Any]]:
    """Rows whose two spans sound as noise of uneven lengths; every third was not checked by an ASR."""
    rows = []
    for i in range(first, first + number):
        rng = np.random.default_rng(i)
        text = f"Take {i} kg of flour & stir it gently. Then wait for an hour, and bake it well."
        ranges = [(0, text.index(". ") + 1), (text.index("and bake"), len(text))]
        ends = np.cumsum(rng.integers(300, 900, 2)).tolist()
        wave = rng.uniform(-0.5, 0.5, ends[-1]).astype(np.float32)
        row = {
            "id": f"{i:032x}", "text": text, "source": f"packaged:{('recipes', 'law')[i % 2]}",
            "domain": None if i % 5 else "kitchen", "cluster": i % 3, "rank": i, "probability": 0.25,
            "predicted_divergence": 1.5, "predicted_se": float("nan"),
            "est_seconds": 0.05, "selector": "uniform", "reason": "drawn", "round": 0, **changed,
        }  # fmt: skip
        facts = {"engine": "tones", "voice": f"v{i % 2}", "cer": None if i % 3 == 2 else 0.1 * (i % 3), "peak": 0.5}
        said = [f"take number {i} of flour and stir it gently", "and bake it well"]
        rows.append(shards.speech_row(row, ranges, said, audio.to_flac(wave, rate), rate, ends, **facts))
    return rows


def write_folder(folder: Path, rows: Sequence[dict[str, Any]], per_shard: int = 8, rejected: int = 2) -> Path:
    """A speech folder as the synthesis stage lays it out, without a manifest."""
    (folder / "data").mkdir(parents=True)
    groups = [list(rows[at : at + per_shard]) for at in range(0, len(rows), per_shard)]
    for i, group in enumerate(groups):
        shards.write_speech(group, folder / "data" / f"train-{i:05d}-of-{len(groups):05d}.parquet")
    names = ("id", "text", "source", "cluster", "rank", "est_seconds", "selector")
    turned_down = [{**{n: rows[i][n] for n in names}, "seconds": 0.5, "rejected": "silent"} for i in range(rejected)]
    shards.write_rejected(turned_down, folder / "rejected.parquet")
    return folder


def write_run(run: Path, rounds: int = 2, rows: int = 10) -> Path:
    """A run with that many published rounds of speech."""
    models = {"asr": "openai/whisper-tiny.en", "encoder": "openai/whisper-tiny.en"}
    config = {"models": models, "select": {"gamma": 5.0, "budget": 3.0}, "score": {"signal": "divergence"}, "cluster": {"k": 3}}
    run.mkdir()
    (run / "_run.json").write_text(json.dumps({"config": config}), encoding="utf-8")
    for r in range(rounds):
        (run / f"round-{r:03d}").mkdir()
        manifest = artifact.Manifest(f"round-{r:03d}/speech", "key", {}, {}, "test", 0, 0.0)

        def build(out: Path, r: int = r) -> dict[str, Any]:
            write_folder(out, speech_rows(rows, first=r * rows, round=r))
            return {"budget": 3.0}

        artifact.publish(run / f"round-{r:03d}" / "speech", manifest, build)
    return run
