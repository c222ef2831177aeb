"""Several processes side by side, each with one thread: faster than one process with as many, and every row then depends on
the processor alone, not on how many of its cores were at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def side_by_side(command: Sequence[str], jobs: int) -> list[int]:
    """The same command so many times; what each prints, with its number before it. Their exit codes.

    Ctrl+C reaches them as well (they are of our process group): they are waited for, and KeyboardInterrupt goes on.
    """
    env = os.environ | ONE_THREAD
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        for _ in range(jobs)
    ]
    relays = [threading.Thread(target=relay, args=(one, i), name=f"relay {i}") for i, one in enumerate(started, 1)]
    for thread in relays:
        thread.start()
    try:
        return [one.wait() for one in started]
    except BaseException:
        for one in started:
            one.send_signal(signal.SIGINT)
        for one in started:
            one.wait()
        raise
    finally:
        for thread in relays:
            thread.join()


def relay(process: subprocess.Popen[str], number: int) -> None:
    """Its lines, until it ends."""
    assert process.stdout
    for line in process.stdout:
        print(f"{number}| {line}", end="", flush=True)
