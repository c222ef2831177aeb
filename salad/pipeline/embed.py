"""Sentence embeddings of the pool: batches sorted by length, float16, memory-mapped on disk."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from salad import assets
from salad.artifact import artefact_files
from salad.config import Config, Source
from salad.errors import SaladError
from salad.pipeline.clean import clean, passages
from salad.pipeline.pool import open_source

if TYPE_CHECKING:
    import torch

BATCH = 32
WINDOW = 8192  # texts sorted by length together, so that a batch has little padding
FILE = "embeddings.npy"


def build_embeddings(out: Path, config: Config, pool: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """`embeddings.npy`: (N, d) float16 rows of unit length, in the order of the pool."""
    parts = artefact_files(pool, "part-*.parquet")
    rows = sum(pq.read_metadata(p).num_rows for p in parts)
    windows = (b.column(0).to_pylist() for p in parts for b in pq.ParquetFile(p).iter_batches(WINDOW, columns=["text"]))
    return _write(out / FILE, config, rows, windows, progress)


def build_named(out: Path, config: Config, sources: list[Source], progress: Callable[[int], None]) -> dict[str, Any]:
    """`embeddings.npy` of texts that the user names and nobody chooses: (m, d), cut into passages as the pool is.

    None is refused: a short question of a test set counts too. They are held in memory.
    """
    low, high = config.pool.min_words, config.pool.max_words
    texts = [
        passage
        for source in sources
        for row in islice(open_source(source), source.limit)
        if isinstance(row[source.text_column], str)
        for passage in passages(clean(row[source.text_column]), low, high)
    ]
    if not texts:
        raise SaladError(f"no text in {', '.join(s.dataset for s in sources)}", "check the files and their text_column")
    windows = (texts[i : i + WINDOW] for i in range(0, len(texts), WINDOW))
    return _write(out / FILE, config, len(texts), windows, progress)


def _write(
    path: Path, config: Config, rows: int, windows: Iterable[list[str]], progress: Callable[[int], None]
) -> dict[str, Any]:
    from salad.devices import pick_dtype

    embed = _Embedder(config.models.embedder, pick_dtype(config.train.dtype))
    matrix = _reserved_memmap(path, (rows, embed.width))
    at = 0
    with embed:
        for texts in windows:
            order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            vectors = embed.map([[texts[i] for i in rows_] for rows_ in batches])
            for n, (rows_, found) in enumerate(zip(batches, vectors, strict=True), 1):
                matrix[[at + i for i in rows_]] = found
                progress(at + min(n * BATCH, len(texts)))
            at += len(texts)
    matrix.flush()
    return {"rows": rows, "width": embed.width}


def _reserved_memmap(path: Path, shape: tuple[int, int]) -> np.memmap[Any, np.dtype[np.float16]]:
    """A memory map whose disk space is taken at once: a full disk is an error here, not a signal later."""
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as f:
        os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
    return matrix


class _Embedder:
    """A sentence-transformer a core, one thread each: small matrices gain little from shared ones.

    On two cores 488 texts a second against 351 for one model with two threads (docs/log.md).
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        folder = assets.model_folder(name)
        loader = _Loader(SentenceTransformer, {"dtype": dtype})
        self.threads = torch.get_num_threads()
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(max(1, min(self.threads, 8))):
            model = assets.load_pretrained(loader, str(folder))
            self.width: int = model.get_embedding_dimension()
            self._free.put(model)
        self._workers = ThreadPoolExecutor(self._free.qsize())

    def __enter__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self._workers.shutdown(cancel_futures=True)

    def map(self, batches: list[list[str]]) -> Iterator[np.ndarray]:
        """(n, width) float32 unit rows for each batch, in order."""
        return self._workers.map(self._embed, batches)

    def _embed(self, texts: list[str]) -> np.ndarray:
        model = self._free.get()
        try:
            found = model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
        finally:
            self._free.put(model)
        vectors: np.ndarray = found.float().numpy()
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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
