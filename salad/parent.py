"""Processes and their parents: one that never outlives the one that started it, and whether one is still there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

ORPHANED = 1.0  # seconds between looks at whether the parent is still there


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """From now on this process ends once its parent is gone. end: how."""
    threading.Thread(target=_watch, args=(os.getppid(), end), name="end with parent", daemon=True).start()


def _watch(parent: int, end: Callable[[], object]) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHANED)
    end()


def lives(process: int) -> bool:
    """Whether there is a process of that number on this machine, whoever it belongs to."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
