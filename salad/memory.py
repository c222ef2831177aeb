"""How much memory a piece of work takes at its most, this process and those that it started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EVERY = 1.0  # seconds between two looks


@dataclass
class Peak:
    """bytes: of resident memory, the sum over processes; pages that they share count in each."""

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Looks at the start, at the end and once a second between: what is taken for less than a second may be missed."""
    found, ended = Peak(), threading.Event()

    def look() -> None:
        found.bytes = max(found.bytes, resident())

    def watch() -> None:
        while not ended.wait(EVERY):
            look()

    look()
    watcher = threading.Thread(target=watch, name="peak memory", daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        look()


def resident() -> int:
    """Bytes that this process and its descendants hold now."""
    import psutil

    this = psutil.Process()
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total
