"""A set of digests that millions of texts fit into: two numbers in a flat table, not an object a text."""

from __future__ import annotations

from array import array
from struct import Struct

FULL = 0.6  # of the slots: beyond, the table is made twice as large
_pair = Struct("<QQ").unpack


class Digests:
    """An exact set of 16-byte digests whose bits are random: open addressing with linear probing (Knuth, volume 3, 6.4).

    27 to 53 bytes a digest, half as much again while it grows; Python's own set takes about 110. The digest of zeros
    marks an empty slot and is kept apart.
    """

    def __init__(self) -> None:
        self._slots, self._n, self._zeros = 1 << 10, 0, False
        self._table = array("Q", [0]) * (2 * self._slots)

    def __len__(self) -> int:
        return self._n + self._zeros

    def add(self, digest: bytes) -> bool:
        """Whether it is new; now it is known."""
        low, high = _pair(digest)
        if not low and not high:
            new, self._zeros = not self._zeros, True
            return new
        at = self._find(low, high)
        if self._table[at] or self._table[at + 1]:
            return False
        self._table[at], self._table[at + 1] = low, high
        self._n += 1
        if self._n > FULL * self._slots:
            self._grow()
        return True

    def _find(self, low: int, high: int) -> int:
        """Where it is in the table, or where it belongs."""
        table, last = self._table, 2 * self._slots - 1
        at = 2 * low & last
        while (table[at] != low or table[at + 1] != high) and (table[at] or table[at + 1]):
            at = at + 2 & last
        return at

    def _grow(self) -> None:
        old, self._slots = self._table, 2 * self._slots
        self._table = array("Q", [0]) * (2 * self._slots)
        for i in range(0, len(old), 2):
            low, high = old[i], old[i + 1]
            if low or high:
                at = self._find(low, high)
                self._table[at], self._table[at + 1] = low, high
