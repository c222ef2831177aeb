"""Rows of what was measured, one JSON object a line: tables and plots are made of these alone.

Those that the pages of the repository show are in evidence/results.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).with_name("results")


class Results:
    """A folder of them, a file a kind."""

    def __init__(self, folder: Path = PUBLISHED) -> None:
        self.folder = folder

    def add(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row, whole, whatever another process does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{kind}.jsonl").open("a", encoding="utf-8") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.write(json.dumps(row) + "\n")

    def rows(self, kind: str) -> Iterator[dict[str, Any]]:
        """In the order they were measured; none where there is no file."""
        path = self.folder / f"{kind}.jsonl"
        if path.exists():
            yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
