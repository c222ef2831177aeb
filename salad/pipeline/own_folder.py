"""A folder that a command writes anew each time: it replaces what it wrote before, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from salad.artifact import read_manifest
from salad.errors import SaladError


def check_out(out: Path, stage: str) -> None:
    """SaladError unless the folder is new, empty, or an earlier one of this stage."""
    if out.exists() and not out.is_dir():
        raise SaladError(f"--out {out} is a file", "name a folder")
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise SaladError(f"--out {out} cannot be written", "name a folder that you may write to")
    if out.is_dir() and any(out.iterdir()):
        manifest = read_manifest(out)
        if manifest is None or manifest.stage != stage:
            raise SaladError(f"--out {out} is not empty and no {stage}: it would be replaced", "name another folder")
