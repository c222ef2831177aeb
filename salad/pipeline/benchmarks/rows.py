"""The rows behind a benchmark: of a `datasets` source, or of a run's own held-out texts, each cut in two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.errors import SaladError, told
from salad.network import failure_of
from salad.pipeline import shards
from salad.pipeline.benchmarks.spec import Benchmark
from salad.pipeline.streams import file_sizes, names_files
from salad.seeds import generator

CHOICES = 4  # of `continuation`
_KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class Source:
    """Rows in a seeded order, each with the name it goes by."""

    name: str  # for messages
    columns: list[str]
    rows: Any  # indexable
    order: np.ndarray
    ids: list[str] | None = None  # of all rows; None: their numbers

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in self.order:
            yield self.ids[i] if self.ids else f"row-{i}", self.rows[int(i)]


def open_rows(benchmark: Benchmark, split: str, seed: int) -> Source:
    """A split of a benchmark's dataset, the order by `seed`. SaladError where it cannot be opened, or is empty."""
    import datasets

    datasets.disable_progress_bars()
    name = f"benchmark {benchmark.name}: dataset '{benchmark.dataset}'"
    kind = _KINDS.get(Path(benchmark.dataset).suffix.lower()) if names_files(benchmark.dataset) else None
    try:
        if kind:
            if "://" not in benchmark.dataset and not file_sizes(benchmark.dataset):
                raise FileNotFoundError(f"no file matches {benchmark.dataset}")
            found = datasets.load_dataset(kind, data_files={split: benchmark.dataset}, split=split)
        else:
            found = datasets.load_dataset(
                benchmark.dataset, benchmark.subset, split=split, revision=benchmark.revision, trust_remote_code=False
            )
        if benchmark.audio in found.column_names:
            found = found.cast_column(benchmark.audio, datasets.Audio(decode=False))
    except Exception as e:
        raise failure_of(e, remote="://" in benchmark.dataset)(
            f"{name}, split '{split}', cannot be opened ({told(e)})",
            "benchmarks by hub name need a network or the hub's cache; `continuation` needs neither",
        ) from e
    if not len(found):
        raise SaladError(f"{name}, split '{split}', has no rows", "name another split")
    order = generator(seed, "benchmark", benchmark.name, split).permutation(len(found))
    return Source(f"{name}, split '{split}'", list(found.column_names), found, order)


def continuation_rows(heldout: Path, seed: int) -> Source:
    """`first`, `second`, `options`, `answer` and `domain` of each held-out text that can be asked about.

    A text is cut in the middle between two words; its true second half stands among those of three other texts of its
    domain, all different. The draw depends on the seed and the text's id alone.
    """
    texts = shards.read_columns(heldout, ["id", "text", "domain"]).to_pylist()
    halves = {row["id"]: halved(row["text"]) for row in texts}
    by_domain: dict[str | None, list[str]] = {}
    for row in texts:
        by_domain.setdefault(row["domain"], []).append(row["id"])
    rows, ids = [], []
    for row in texts:
        first, second = halves[row["id"]]
        rng = generator(seed, "continuation", row["id"])
        others: dict[str, str] = {}
        for i in rng.permutation(sorted(by_domain[row["domain"]])):
            other = halves[i][1]
            if i != row["id"] and _plain(other) not in {_plain(second), ""}:
                others.setdefault(_plain(other), other)
        if not first or not second or len(others) < CHOICES - 1:
            continue
        options = list(others.values())[: CHOICES - 1]
        answer = int(rng.integers(CHOICES))
        options.insert(answer, second)
        rows.append({"first": first, "second": second, "options": options, "answer": answer, "domain": row["domain"]})
        ids.append(row["id"])
    if not rows:
        raise SaladError(
            f"none of the {len(texts)} held-out texts has {CHOICES - 1} others of its domain to be told from",
            "raise probe.heldout",
        )
    order = generator(seed, "benchmark", "continuation").permutation(len(rows))
    return Source(f"held-out texts of {heldout}", list(rows[0]), rows, order, ids)


def halved(text: str) -> tuple[str, str]:
    """A text cut in the middle of its words: ("", text) where it has fewer than two."""
    starts = [m.start() for m in re.finditer(r"\S+", text)]
    at = starts[len(starts) // 2] if len(starts) > 1 else 0
    return text[:at].strip(), text[at:].strip()


def _plain(text: str) -> str:
    """What makes two halves the same: their words."""
    return " ".join(re.findall(r"\w+", text.casefold()))
