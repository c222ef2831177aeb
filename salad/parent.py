"""Processes that never outlive the one that started them, however that ends."""

from __future__ import annotations

import os
import threading
import time

ORPHANED = 1.0  # seconds between looks at whether the parent is still there


def end_with_parent() -> None:
    """From now on this process ends once its parent is gone."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHANED)
    os._exit(1)
