"""Randomness by name: every draw comes from (seed, what it is for), never from a shared stream.

So a stage gives the same result alone, after a resume, or beside other stages.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive(seed: int, *scope: object) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(13, "probe", cluster)`."""
    text = "\x1f".join([str(seed), *map(str, scope)])
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 1


def happens(share: float, seed: int, *scope: object) -> bool:
    """True for that share of all scopes, always for the same ones."""
    return share >= 1 or derive(seed, *scope) < share * 2**63


def generator(seed: int, *scope: object) -> np.random.Generator:
    """A numpy generator of its own for one purpose."""
    import numpy as np

    return np.random.default_rng(derive(seed, *scope))
