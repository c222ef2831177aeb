"""Ctrl+C at steps of a hand-over between threads: `python -m tests.every_step WORK POINTS`, each point in a child of its own.

A step is an opcode of Python in the main thread, whatever module it is of. Prints JSON: how many steps there are, and of the
children that were stopped at some the status and where that was: 130 for KeyboardInterrupt, None for one that hung.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch

from salad.config import Needs, Voice
from salad.interrupts import put_off
from salad.pipeline.compute.local import Local
from salad.tts.takes import Job, Take
from salad.tts.workers import _Waiting

HANGS = 20.0  # seconds
SEED = 7


class FewModels:
    """As much of `Models` as the runner needs."""

    class config:
        class compute:
            workers = 2

    def __init__(self) -> None:
        self.stopped, self.each = threading.Event(), map


def task(models: FewModels, number: int) -> int:
    time.sleep(0.001)
    return number


def runner() -> None:
    """Four tasks in two threads."""
    with Local(FewModels()) as compute:  # type: ignore[arg-type]
        assert list(compute.map(task, ((i,) for i in range(4)), Needs(), lambda: None)) == [0, 1, 2, 3]


def ticket() -> None:
    """Takes that another thread settles."""
    jobs = [Job(str(i), Voice(engine="espeak", voice="en"), ("One.",), (0,)) for i in range(4)]
    waiting = _Waiting(jobs)

    def settle() -> None:
        for job in jobs:
            time.sleep(0.001)
            waiting.settle([Take(job.key, "no sound")])

    with put_off():
        threading.Thread(target=settle).start()
    assert waiting.takes().keys() == {job.key for job in jobs}


def traced(work: Callable[[], None], at: int, told: int) -> int:
    """Do the work, with SIGINT at a step; where that was goes to a pipe. Returns the steps that there were."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == at:
                sys.settrace(None)
                os.write(told, f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}".encode())
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return steps


def child(work: Callable[[], None], at: int) -> tuple[int | None, str]:
    """(exit status, None for one that hung; what it said), of a child that is stopped at a step."""
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        status = 1
        try:
            steps = traced(work, at, write)
            if not at:
                os.write(write, str(steps).encode())
            status = 0
        except KeyboardInterrupt:
            status = 130
        finally:
            threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter waits for at its end
            os._exit(status)
    os.close(write)
    try:
        end = time.monotonic() + HANGS
        while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.001)
        if ended == (0, 0):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        return (os.waitstatus_to_exitcode(ended[1]) if ended != (0, 0) else None), os.read(read, 10_000).decode()
    finally:
        os.close(read)


def main() -> None:
    torch.set_num_threads(1)
    work, points = globals()[sys.argv[1]], int(sys.argv[2])
    status, steps = child(work, 0)
    assert status == 0
    # Steps before the first wait are always there; how often a wait wakes up is not.
    at = np.random.default_rng(SEED).choice(int(steps), min(points, int(steps)), replace=False) + 1
    print(json.dumps({"steps": int(steps), "stopped": [child(work, int(step)) for step in at]}))


if __name__ == "__main__":
    main()
