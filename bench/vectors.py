"""The benches' texts without texts: clustered unit vectors, written once to a memory-mapped float16 file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

CENTRES = 256
NOISE = 0.9  # length of a point's offset from its centre, itself of length 1: two of a cluster have a cosine of 0.55
CHUNK = 65_536


def clustered(n: int, d: int = 384, seed: int = 0, folder: Path | None = None) -> np.ndarray:
    """(n, d) float16, read-only, on disk: unit vectors about `CENTRES` centres of unequal weight (Zipf with power ½)."""
    folder = folder or Path(tempfile.gettempdir()) / "salad-bench"
    path = folder / f"vectors-{n}-{d}-{seed}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        centres = _unit(rng.normal(size=(CENTRES, d)))
        weight = np.arange(1, CENTRES + 1) ** -0.5
        part = path.with_suffix(".part")
        out = np.lib.format.open_memmap(part, "w+", np.float16, (n, d))
        for i in range(0, n, CHUNK):
            m = min(CHUNK, n - i)
            at = rng.choice(CENTRES, m, p=weight / weight.sum())
            noise = rng.standard_normal((m, d), dtype=np.float32) * np.float32(NOISE / np.sqrt(d))
            out[i : i + m] = _unit(centres[at] + noise)
        out.flush()
        del out
        part.rename(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
