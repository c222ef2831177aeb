"""Texts that measure and texts that may be chosen, apart from the first: documents are split before they are cut into passages.

A tenth of every domain's documents, by a hash of their text, is for the evaluation; the rest are for the pools, in an order
that is a hash too, so that the first thousand passages of a domain are of all its documents.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from salad import assets
from salad.seeds import derive

COVERED = "recipes"  # what Stage I hears
DOMAINS = (COVERED, "medicine", "law", "security", "encyclopedia")
SEED = 7


def split_texts(folder: Path) -> Path:
    """Write `evaluation/DOMAIN.parquet` and `pool/DOMAIN.parquet`, once; returns the folder."""
    for domain in DOMAINS:
        if all((folder / part / f"{domain}.parquet").exists() for part in ("evaluation", "pool")):
            continue
        texts = sorted(set(pq.read_table(assets.text_file(domain))["text"].to_pylist()), key=lambda t: derive(SEED, "order", t))
        aside = [derive(SEED, "evaluation", text) % 10 == 0 for text in texts]
        for part, wanted in (("evaluation", True), ("pool", False)):
            kept = [text for text, is_aside in zip(texts, aside, strict=True) if is_aside is wanted]
            write_whole(pa.table({"text": kept}), folder / part / f"{domain}.parquet")
    return folder


def write_whole(table: pa.Table, path: Path) -> None:
    """A reader sees the whole file or none; two writers of the same do no harm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial)
    partial.replace(path)


def pool_sources(folder: Path, covered: int, passages: int, heard: int) -> list[dict[str, object]]:
    """Sources of a pool of so many passages, `covered` per cent of them of the domain that Stage I hears.

    heard: passages of that domain on top, of which Stage I's speech will be made.
    """
    of_covered = passages * covered // 100
    of_others = (passages - of_covered) // (len(DOMAINS) - 1)
    limits = {domain: of_covered + heard if domain == COVERED else of_others for domain in DOMAINS}
    return [{"dataset": str(folder / "pool" / f"{d}.parquet"), "domain": d, "limit": n} for d, n in limits.items()]


def evaluation_sources(folder: Path, each: int) -> list[dict[str, object]]:
    """As many passages of every domain."""
    return [{"dataset": str(folder / "evaluation" / f"{d}.parquet"), "domain": d, "limit": each} for d in DOMAINS]
