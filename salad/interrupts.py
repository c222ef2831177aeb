"""Ctrl+C and SIGTERM: where their exception must not come, and that the process ends whatever becomes of it.

Python raises in the main thread, between any two of its steps. In the middle of a hand-over between threads that leaves a lock
taken, or a thread waiting, for ever: `put_off`. A library's own locks, a destructor or callback that swallows the exception and
a long call into C, which Python cannot interrupt, are out of our reach: `end_within`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE = 6.0  # seconds for a process that was told to stop to end by itself


@contextmanager
def put_off() -> Iterator[None]:
    """Both wait until the block is done, so it should be short: the exception comes at its end. Other threads never get it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _put_off(signal.SIGINT), _put_off(signal.SIGTERM):
        yield


@contextmanager
def _put_off(number: signal.Signals) -> Iterator[None]:
    handler = signal.getsignal(number)
    if not callable(handler):  # nothing is raised
        yield
        return
    came = False

    def remember(*_: object) -> None:
        nonlocal came
        came = True

    try:
        signal.signal(number, remember)
        yield
    finally:
        signal.signal(number, handler)
        if came:
            handler(number, None)


def end_within(seconds: float = GRACE, last_words: str = "") -> None:
    """From now on SIGINT and SIGTERM end this process so soon, whatever its main thread is at. Call it in the main thread.

    What is published is whole at any moment, and processes that work for this one see that it is gone and end too.
    last_words: to standard error, where it comes to that.
    """
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.detach(), warn_on_full_buffer=False)  # written to at once, by C
    os.register_at_fork(after_in_child=let_be)  # what a child is told is not for this process
    threading.Thread(target=_watch, args=(told, seconds, last_words.encode()), name="end in time", daemon=True).start()


def let_be() -> None:
    """No more of `end_within`: how this process ends is somebody else's to see to."""
    signal.set_wakeup_fd(-1)


def _watch(told: socket.socket, seconds: float, last_words: bytes) -> None:
    number = 0
    while number not in (signal.SIGINT, signal.SIGTERM):
        number = told.recv(1)[0]
    time.sleep(seconds)
    with suppress(OSError):  # nobody reads it
        os.write(2, last_words)
    os._exit(128 + number)
