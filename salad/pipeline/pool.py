"""The text pool: stream any `datasets` source, clean, split, refuse with a reason, drop duplicates."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad import assets
from salad.artifact import artefact_files
from salad.config import Config, Source
from salad.errors import SaladError, told
from salad.network import failure_of
from salad.pipeline.clean import clean, passages, refusal, short_name
from salad.pipeline.models import Models
from salad.pipeline.schema import POOL
from salad.pipeline.script import measure_rates, write_script
from salad.pipeline.seen import Digests
from salad.pipeline.streams import BUILDERS, files_of, guarded
from salad.tts.base import SpeakingRate

PART_ROWS = 50_000


def build_pool(out: Path, models: Models, progress: Callable[[int], None]) -> dict[str, Any]:
    """Write `part-*.parquet` (schema POOL); returns counts, refusals by reason, and the voices' rates."""
    config, prices = models.config, _Prices(models)
    refused: Counter[str] = Counter()
    writer = _Parts(out, prices)
    seen = Digests()
    similar = _NearDuplicates(config.pool.near_duplicate)
    for source in config.pool.sources:
        kept = 0
        for row in _passages_of(source, config, refused):
            digest = hashlib.blake2b(row["text"].encode(), digest_size=16).digest()
            if not seen.add(digest):
                refused["duplicate"] += 1
                continue
            if similar.known(row["text"], digest):
                refused["near duplicate"] += 1
                continue
            row["id"] = digest.hex()
            row["script"] = write_script(row, config, config.speech.voices)
            if not row["script"].ranges:
                refused["nothing to be heard"] += 1
                continue
            writer.add(row)
            progress(writer.rows)
            kept += 1
            if source.limit and kept >= source.limit:
                break
    writer.close()
    if writer.rows == 0:
        raise SaladError(
            f"the pool is empty: every passage was refused ({_counts(refused) or 'the sources hold no text'})",
            "check pool.sources and pool.min_words",
        )
    return {
        "passages": writer.rows,
        "refused": dict(refused.most_common()),
        "rates": {voice: asdict(rate) for voice, rate in prices.rates.items()},
        "domains": writer.domains,
    }


def read_pool(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """The pool's rows in their order (the index that embeddings and clusters go by). A few of them: `rows.take_rows`."""
    return pa.concat_tables([pq.read_table(p, columns=columns) for p in part_files(folder)])


def part_files(folder: Path) -> list[Path]:
    return artefact_files(folder, "part-*.parquet")


def _passages_of(source: Source, config: Config, refused: Counter[str]) -> Iterator[dict[str, Any]]:
    low, high = config.pool.min_words, config.pool.max_words
    packaged = source.dataset.removeprefix("packaged:") if source.dataset.startswith("packaged:") else None
    for row in open_source(source):
        text = row[source.text_column]
        if not isinstance(text, str):
            refused["null" if text is None else "not text"] += 1
            continue
        domain = row[source.domain_column] if source.domain_column else source.domain or packaged
        for passage in passages(clean(text), low, high):
            reason = refusal(passage, low, high)
            if reason:
                refused[reason] += 1
                continue
            n = len(passage.split())
            yield {
                "text": passage,
                "source": source.dataset,
                "domain": None if domain is None else short_name(domain),
                "n_words": n,
            }


def open_source(source: Source) -> Iterable[dict[str, Any]]:
    """Stream a source's rows. SaladError for a missing file, an unknown name, or an absent column."""
    import datasets

    datasets.disable_progress_bars()
    name = source.dataset
    options: dict[str, Any] = {"streaming": True, "split": source.split}
    if name.startswith("packaged:"):
        name = str(assets.text_file(name.removeprefix("packaged:")))
    suffix = Path(name).suffix.lower()
    try:
        if suffix in BUILDERS:
            if "://" not in name and not files_of(name):
                raise FileNotFoundError(f"no file matches {name}")
            stream = datasets.load_dataset(BUILDERS[suffix], data_files={source.split: name}, **options)
        else:
            stream = datasets.load_dataset(name, source.subset, **options)
        columns = stream.column_names or list(next(iter(stream), {}))
    except SaladError:
        raise
    except Exception as e:
        raise failure_of(e, remote="://" in name)(
            f"pool source '{source.dataset}' cannot be opened ({told(e)})",
            "name a hub dataset, a .parquet/.jsonl/.txt/.csv file or glob, or packaged:NAME",
        ) from e
    for column in filter(None, (source.text_column, source.domain_column)):
        if columns and column not in columns:
            raise SaladError(f"pool source '{source.dataset}' has no column '{column}'", f"its columns: {', '.join(columns)}")
    return guarded(stream, f"pool source '{source.dataset}' cannot be read to its end", "mend or replace the file")


class _NearDuplicates:
    """MinHash LSH over word trigrams: `known` says whether a text is like an earlier one, and remembers it."""

    PERMUTATIONS = 64

    def __init__(self, threshold: float | None) -> None:
        self._index: Any = None
        if threshold:
            from datasketch import MinHashLSH

            self._index = MinHashLSH(threshold=threshold, num_perm=self.PERMUTATIONS)

    def known(self, text: str, key: bytes) -> bool:
        if self._index is None:
            return False
        from datasketch import MinHash

        words = re.findall(r"\w+", text.casefold())
        shingles = [" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))]
        sketch = MinHash(num_perm=self.PERMUTATIONS, seed=1)
        sketch.update_batch(shingles)
        if self._index.query(sketch):
            return True
        self._index.insert(key, sketch, check_duplication=False)
        return False


class _Prices:
    """`est_seconds` of rows: what their `script`s say at the rates of their voices, measured on the first part."""

    CALIBRATION_TEXTS = 64

    def __init__(self, models: Models) -> None:
        self.models = models
        self.rates: dict[str, SpeakingRate] = {}

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        config = self.models.config
        scripts = [row.pop("script") for row in rows]
        if not self.rates:
            some = scripts[:: max(1, len(rows) // self.CALIBRATION_TEXTS)]
            self.rates = measure_rates(some, config, self.models.speakers)
        for row, script in zip(rows, scripts, strict=True):
            rate = self.rates[script.job.voice.label]
            row["n_heard"] = sum(len(row["text"][a:b].split()) for a, b in script.ranges)
            row["est_seconds"] = sum(rate.seconds(len(said)) for said in script.said)


class _Parts:
    """Rows to Parquet files of `PART_ROWS` rows, one in memory at a time."""

    def __init__(self, out: Path, prices: _Prices) -> None:
        self.out, self.prices, self.rows, self._part = out, prices, 0, 0
        self._buffer: list[dict[str, Any]] = []
        self.domains: dict[str, int] = {}

    def add(self, row: dict[str, Any]) -> None:
        self._buffer.append(row)
        self.rows += 1
        name = row["domain"] or "unknown"
        self.domains[name] = self.domains.get(name, 0) + 1
        if len(self._buffer) == PART_ROWS:
            self.close()

    def close(self) -> None:
        if self._buffer:
            self.prices(self._buffer)
            table = pa.Table.from_pylist(self._buffer, POOL)
            pq.write_table(table, self.out / f"part-{self._part:05d}.parquet", compression="zstd")
            self._buffer, self._part = [], self._part + 1


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counter.most_common(5))
