"""A selection holds about a hundred bytes a text, however long the texts are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salad.pipeline.schema import CLUSTER_SCORES, POOL

N, K, D = 600_000, 8, 16
LETTERS = 400  # of a text: all texts are 240 MB
LIMIT = 350e6  # bytes beyond those for 5,000 texts: about 190e6, of which 110e6 are row groups; the pool read whole takes 690e6

CHILD = """
import sys
from pathlib import Path
from salad.pipeline.select import Inputs, build_selection
from tests.pipeline.test_memory import configuration

def choose(name):
    folder = Path(sys.argv[1]) / name
    (folder / "out").mkdir()
    inputs = Inputs(folder / "pool", folder / "embeddings", folder / "clusters", [folder / "scores"], [], [])
    assert build_selection(folder / "out", configuration(), 0, inputs, lambda n: None)["texts"] > 20
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024  # not ru_maxrss, which begins with the parent's

before = choose("small")
print(choose("large") - before)
"""


def configuration():  # type: ignore[no-untyped-def]
    from salad.config import Config

    models = {"lm": "none", "encoder": "none", "embedder": "none"}
    steps = {"stage_one_steps": 1, "round_steps": 1, "decay_steps": 1}
    return Config.model_validate(
        {"name": "x", "models": models, "pool": {"sources": [{"dataset": "x"}]}, "natural": {"domains": ["x"]},
         "cluster": {"k": K}, "select": {"budget": 200}, "train": steps}
    )  # fmt: skip


def write_run(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("pool", "embeddings", "clusters", "scores"):
        (folder / name).mkdir(parents=True)
    for part, start in enumerate(range(0, n, 50_000)):
        m = min(50_000, n - start)
        texts = {"id": [f"{i:032x}" for i in range(start, start + m)], "text": [f"{i} " + "a" * LETTERS for i in range(m)]}
        numbers = {"source": ["s"] * m, "domain": ["d"] * m, "n_words": [12] * m, "n_heard": [6] * m}
        rows = pa.table(texts | numbers | {"est_seconds": rng.uniform(2, 8, m)}).cast(POOL)
        pq.write_table(rows, folder / "pool" / f"part-{part:05d}.parquet")
    x = rng.normal(size=(n, D))
    np.save(folder / "embeddings" / "embeddings.npy", (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16))
    np.save(folder / "clusters" / "assignment.npy", rng.integers(0, K, n).astype(np.int32))
    np.save(folder / "clusters" / "centroids.npy", np.zeros((K, D), np.float32))
    np.save(folder / "scores" / "predicted.npy", rng.uniform(0.5, 2, (n, 3)).astype(np.float32))
    facts = {name: np.ones(K) / K for name in ("p_web", "p_target", "divergence_shrunk", "log_sd")}
    none = {name: pa.nulls(K, CLUSTER_SCORES.field(name).type) for name in CLUSTER_SCORES.names if name not in facts}
    table = pa.table(facts | none).select(CLUSTER_SCORES.names).cast(CLUSTER_SCORES)
    pq.write_table(table, folder / "scores" / "clusters.parquet")


@pytest.mark.slow
def test_a_selection_from_many_long_texts_takes_little_memory(tmp_path: Path) -> None:
    for name, n in (("small", 5_000), ("large", N)):
        write_run(tmp_path / name, n)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= LIMIT, f"{int(done.stdout) / 1e6:.0f} MB"
