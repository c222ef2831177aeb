"""`salad export`: finished speech in the formats of other programs, each a new folder with a dataset card.

A folder appears whole or not at all. Memory stays flat: rows stream from the shards, `corpus.BATCH` at a time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad.errors import SaladError, nearest
from salad.pipeline.export import hub, lhotse_cuts, nemo, webdataset_tars
from salad.pipeline.export.corpus import Corpus, find_corpus

FORMATS = {
    "hub": "Parquet with a card, for `datasets`, `hf upload`, DuckDB and pandas",
    "lhotse": "cuts.jsonl.gz and FLAC files; a supervision is a span",
    "nemo-manifest": "manifest.jsonl and FLAC files; a line is a span",
    "webdataset": "shard-NNNNNN.tar with KEY.flac, KEY.json and KEY.txt",
}
_WRITERS = {"hub": hub.write, "lhotse": lhotse_cuts.write, "nemo-manifest": nemo.write, "webdataset": webdataset_tars.write}
SHARD_ROWS = 1000  # about 100 MB of speech a file
LEFT_OUT = "left-out.jsonl"


@dataclass(frozen=True)
class Options:
    """What a writer may want to know beside the corpus."""

    shard_rows: int = SHARD_ROWS  # rows a Parquet file or tar
    licences: Mapping[str, str] | None = None  # of "engine/voice", an engine or a source of texts: see card.licence_of
    language: str = "en"
    progress: Callable[[float], None] = lambda rows: None


@dataclass(frozen=True)
class Exported:
    """What was written; `left_out` says which texts had no usable sound, and why."""

    folder: Path
    texts: int
    files: int
    bytes: int
    left_out: list[dict[str, Any]]


def export(source: Path | Corpus, to: str, out: Path, options: Options | None = None) -> Exported:
    """Write the speech of a folder, or of all rounds of a run, as the new folder `out`.

    to: a name of FORMATS. Raises SaladError for an unknown format, no speech, a damaged shard, or an `out` that exists.
    """
    if to not in FORMATS:
        raise SaladError(f"unknown format '{to}'{nearest(to, list(FORMATS))}", f"known: {', '.join(FORMATS)}")
    options = options or Options()
    if options.shard_rows < 1:
        raise SaladError(f"shards of {options.shard_rows} rows", "give 1 or more")
    corpus = source if isinstance(source, Corpus) else find_corpus(source)
    with new_folder(out) as partial:
        corpus.check()
        _WRITERS[to](corpus, partial, options)
        if corpus.left_out:
            if len(corpus.left_out) == corpus.rows:
                raise SaladError(f"{corpus.name}: no text has a usable sound", f"the first: {corpus.left_out[0]['reason']}")
            lines = (json.dumps(row) + "\n" for row in corpus.left_out)
            (partial / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
    written = [p.stat().st_size for p in out.rglob("*") if p.is_file()]
    return Exported(out, corpus.rows - len(corpus.left_out), len(written), sum(written), corpus.left_out)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden sibling to write to, which becomes `out` when all is done and is removed when anything fails."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SaladError(f"{out} exists and is not an empty folder", "name a new one, or remove it first")
    partial = out.with_name(f".{out.name}.exporting")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(parents=True)
        yield partial
        os.sync()  # one call for what may be thousands of small files
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as e:
        advice = "free some space" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that, or name another folder"
        raise SaladError(f"cannot write {out} ({e})", advice) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
