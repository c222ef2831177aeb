"""Sounds as files of their own: 1,000 a folder, so that no folder grows slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salad.pipeline.export.corpus import Sample


def write_flac(sample: Sample, out: Path) -> str:
    """Write `audio/NNNNN/NAME.flac`; returns that path, relative to `out`."""
    path = Path("audio", sample.name[:5], f"{sample.name}.flac")
    (out / path.parent).mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes(sample.flac)
    return path.as_posix()
