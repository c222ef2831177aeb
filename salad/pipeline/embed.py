"""Sentence embeddings of the pool: batches sorted by length, float16, memory-mapped on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from salad import assets
from salad.config import Config
from salad.devices import pick_dtype

BATCH = 128
WINDOW = 64 * BATCH  # texts sorted by length together, so that a batch has little padding
FILE = "embeddings.npy"


def build_embeddings(out: Path, config: Config, pool: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """`embeddings.npy`: (N, d) float16 rows of unit length, in the order of the pool."""
    from sentence_transformers import SentenceTransformer

    folder = assets.model_folder(config.models.embedder)
    dtype = pick_dtype(config.train.dtype)
    model = assets.load_pretrained(_Loader(SentenceTransformer, {"dtype": dtype}), str(folder))
    width = model.get_embedding_dimension()
    parts = sorted(pool.glob("part-*.parquet"))
    rows = sum(pq.read_metadata(p).num_rows for p in parts)
    matrix = np.lib.format.open_memmap(out / FILE, mode="w+", dtype=np.float16, shape=(rows, width))
    at = 0
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(WINDOW, columns=["text"]):
            texts = batch.column(0).to_pylist()
            vectors = model.encode(texts, batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True).float().numpy()
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            matrix[at : at + len(texts)] = vectors
            at += len(texts)
            progress(at)
    matrix.flush()
    return {"rows": rows, "width": width}


class _Loader:
    """SentenceTransformer behind the `from_pretrained` that `assets.load_pretrained` calls."""

    def __init__(self, cls: Any, model_kwargs: dict[str, Any]) -> None:
        self.cls, self.model_kwargs = cls, model_kwargs

    def from_pretrained(self, folder: str) -> Any:
        return self.cls(folder, device="cpu", model_kwargs=self.model_kwargs)


def load_embeddings(folder: Path) -> np.ndarray:
    """The (N, d) float16 matrix, memory-mapped."""
    matrix: np.ndarray = np.load(folder / FILE, mmap_mode="r", allow_pickle=False)
    return matrix
