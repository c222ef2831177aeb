"""The map page's data: texts of the pool in two dimensions, with those that were chosen, and what each cluster is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad.pipeline import summary
from salad.pipeline.embed import load_embeddings
from salad.pipeline.projection import place
from salad.pipeline.report import figures
from salad.pipeline.report.scripts import rounded
from salad.pipeline.rows import rows_of, take_rows
from salad.pipeline.shards import read_columns

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

CHOSEN = 3_000  # of the chosen texts on the map
LETTERS = 400  # of a text


def points(run: Run) -> dict[str, Any] | None:
    """Columns, a value a text: place, text, domain, cluster, predicted D (nats), the round that chose it (None: none)."""
    if not has_map(run):
        return None
    at = run.store.path
    table = pq.read_table(at("map") / "points.parquet")
    rows, places = table["row"].to_numpy(), np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1)
    chosen, rounds = _chosen(run)
    new = ~np.isin(chosen, rows)
    if new.any():
        x = load_embeddings(at("embeddings"))
        known = np.asarray(x[rows], np.float32)
        places = np.concatenate([places, place(np.asarray(x[chosen[new]], np.float32), known, places)])
        rows = np.concatenate([rows, chosen[new]])
    texts = take_rows(at("pool"), rows, ["id", "text", "domain"])
    by_row = dict(zip(chosen.tolist(), rounds.tolist(), strict=True))
    return {
        "x": [rounded(v) for v in places[:, 0].tolist()],
        "y": [rounded(v) for v in places[:, 1].tolist()],
        "id": texts["id"].to_pylist(),
        "text": [_cut(text) for text in texts["text"].to_pylist()],
        "domain": [d or "unknown" for d in texts["domain"].to_pylist()],
        "cluster": np.load(at("clusters") / "assignment.npy", allow_pickle=False)[rows].tolist(),
        "D": _predicted(run, rows),
        "round": [by_row.get(row) for row in rows.tolist()],
        "sample": len(table),
    }


def has_map(run: Run) -> bool:
    return summary.published(run, "map") and (run.store.path("map") / "points.parquet").is_file()


def _chosen(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Pool rows of texts that were chosen and spoken, evenly thinned to at most CHOSEN, and their rounds."""
    found = []
    for r in range(run.config.rounds):
        if summary.published(run, name := f"round-{r:03d}/speech"):
            ids = read_columns(run.store.path(name), ["id"])["id"]
            found.append((ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids, r))
    if not found or not sum(len(ids) for ids, _ in found):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = rows_of(run.store.path("pool"), pa.concat_arrays([ids for ids, _ in found]))
    rounds = np.repeat([r for _, r in found], [len(ids) for ids, _ in found])
    here = rows >= 0
    rows, rounds = rows[here], rounds[here]
    kept = np.linspace(0, len(rows) - 1, min(CHOSEN, len(rows))).round().astype(np.int64)
    return rows[kept], rounds[kept]


def _predicted(run: Run, rows: np.ndarray) -> list[float | None]:
    """What the last scored round expected of D of these texts, nats."""
    scored = figures.scored_rounds(run)
    if not scored:
        return [None] * len(rows)
    path = run.store.path(f"round-{scored[-1]:03d}/scores") / "predicted.npy"
    expected = np.load(path, mmap_mode="r", allow_pickle=False)[rows, 0]
    return [rounded(v) for v in np.asarray(expected, np.float64).tolist()]


def about(run: Run) -> dict[int, dict[str, Any]]:
    """Of each cluster, what the map stage found: `words` and `examples`; nothing where there is no map yet."""
    path: Path = run.store.path("map") / "clusters.parquet"
    if not has_map(run) or not path.is_file():
        return {}
    rows = pq.read_table(path).to_pylist()
    return {row["cluster"]: {"words": row["words"], "examples": [_cut(text) for text in row["examples"]]} for row in rows}


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else text[:LETTERS] + "…"
