"""What the sources of texts and of recordings share: files behind a name, and streams whose failures say where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from salad.errors import SaladError, told
from salad.network import failure_of

Row = TypeVar("Row")
BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text", ".csv": "csv"}  # of `datasets`


def names_files(dataset: str) -> bool:
    """Whether a source is given as files (a path, a glob or a URL of a known kind) and not by a hub name."""
    return Path(dataset).suffix.lower() in BUILDERS


def file_sizes(dataset: str) -> dict[str, int]:
    """Local files behind a source and their sizes: what depends on it depends on them. {} for a hub name or a URL."""
    if not names_files(dataset) or "://" in dataset:
        return {}
    return {str(path): path.stat().st_size for path in files_of(dataset)}


def files_of(pattern: str) -> list[Path]:
    """The files of a path or glob, relative or absolute; none for a hub name."""
    path = Path(pattern).expanduser()
    return sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())


def guarded(stream: Iterable[Row], what: str, advice: str) -> Iterator[Row]:
    """Rows of a stream; whatever it raises (csv, json, pyarrow, datasets, lhotse) is a SaladError: `what`, why, and advice."""
    rows = iter(stream)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except SaladError:
            raise
        except Exception as e:
            raise failure_of(e)(f"{what} ({told(e)})", advice) from e
        yield row
