"""Sentence embeddings of the pool: parts of neighbouring texts, batches sorted by length, float16, memory-mapped on disk."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad import assets
from salad.config import Source
from salad.errors import SaladError
from salad.pipeline.clean import clean, passages
from salad.pipeline.compute.parts import made_parts
from salad.pipeline.pool import open_source, part_files

if TYPE_CHECKING:
    from salad.pipeline.models import Models

BATCH = 32
WINDOW = 1024  # texts of a part: sorted by length together, so that a batch has little padding
FILE = "embeddings.npy"


def build_embeddings(out: Path, models: Models, pool: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """`embeddings.npy`: (N, d) float16 rows of unit length, in the order of the pool."""
    return _write(out, models, part_files(pool), progress)


def build_named(out: Path, models: Models, sources: list[Source], progress: Callable[[int], None]) -> dict[str, Any]:
    """`embeddings.npy` of texts that the user names and nobody chooses: (m, d), cut into passages as the pool is.

    None is refused: a short question of a test set counts too. They are held in memory.
    """
    low, high = models.config.pool.min_words, models.config.pool.max_words
    texts = [
        passage
        for source in sources
        for row in islice(open_source(source), source.limit)
        if isinstance(row[source.text_column], str)
        for passage in passages(clean(row[source.text_column]), low, high)
    ]
    if not texts:
        raise SaladError(f"no text in {', '.join(s.dataset for s in sources)}", "check the files and their text_column")
    pq.write_table(pa.table({"text": texts}), out / "_texts.parquet")
    return _write(out, models, [out / "_texts.parquet"], progress)


def _write(out: Path, models: Models, files: list[Path], progress: Callable[[int], None]) -> dict[str, Any]:
    counts = [pq.read_metadata(p).num_rows for p in files]
    parts = [
        (str(p.resolve()), start, min(start + WINDOW, n))
        for p, n in zip(files, counts, strict=True)
        for start in range(0, n, WINDOW)
    ]
    matrix: np.memmap[Any, np.dtype[np.float16]] | None = None
    at = 0

    def tick() -> None:
        progress(at)

    with models.compute as compute:
        for found in made_parts(compute, embed_rows, parts, out / "_parts", models.config.compute.embed, tick):
            if matrix is None:
                matrix = _reserved_memmap(out / FILE, (sum(counts), found.shape[1]))
            matrix[at : at + len(found)] = found
            at += len(found)
            tick()
    models.forget("embedders", "texts")
    if matrix is None:
        raise SaladError("there is no text to embed", "look at the pool")
    matrix.flush()
    return {"rows": at, "width": matrix.shape[1]}


def _reserved_memmap(path: Path, shape: tuple[int, int]) -> np.memmap[Any, np.dtype[np.float16]]:
    """A memory map whose disk space is taken at once: a full disk is an error here, not a signal later."""
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as f:
        os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
    return matrix


def embed_rows(models: Models, file: str, start: int, stop: int) -> np.ndarray:
    """The task: (n, d) float16 unit rows of some rows of a Parquet file's `text`."""
    column = models.kept("texts", (file, os.stat(file).st_mtime_ns), lambda: pq.read_table(file, columns=["text"])["text"])
    texts = column[start:stop].to_pylist()
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    with _embedder(models) as model:
        vectors = [_embed(models, model, [texts[i] for i in rows]) for rows in batches]
    found = np.empty((len(texts), vectors[0].shape[1]), np.float16)
    for rows, some in zip(batches, vectors, strict=True):
        found[rows] = some
    return found


@contextmanager
def _embedder(models: Models) -> Iterator[Any]:
    """A sentence-transformer that no other thread has: its tokenizer belongs to one at a time.

    One a core with one thread each: on two cores 488 texts a second against 351 of one model with two (docs/log.md).
    """
    name = models.config.models.embedder
    free: queue.SimpleQueue[Any] = models.kept("embedders", name, queue.SimpleQueue)
    try:
        model = free.get_nowait()
    except queue.Empty:
        with models.loading:
            from sentence_transformers import SentenceTransformer

            loader = _Loader(SentenceTransformer, {"dtype": models.dtype}, str(models.device))
            model = assets.load_pretrained(loader, str(assets.model_folder(name)))
    try:
        yield model
    finally:
        free.put(model)


def _embed(models: Models, model: Any, texts: list[str]) -> np.ndarray:
    models.go_on()
    found = model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
    vectors: np.ndarray = found.float().cpu().numpy()
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class _Loader:
    """SentenceTransformer behind the `from_pretrained` that `assets.load_pretrained` calls."""

    def __init__(self, cls: Any, model_kwargs: dict[str, Any], device: str = "cpu") -> None:
        self.cls, self.model_kwargs, self.device = cls, model_kwargs, device

    def from_pretrained(self, folder: str) -> Any:
        return self.cls(folder, device=self.device, model_kwargs=self.model_kwargs)


def load_embeddings(folder: Path) -> np.ndarray:
    """The (N, d) float16 matrix, memory-mapped."""
    matrix: np.ndarray = np.load(folder / FILE, mmap_mode="r", allow_pickle=False)
    return matrix
