"""Tasks in processes beside this one, each with models of its own. One that dies is replaced and its task done again."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from salad.config import Config, Needs
from salad.errors import SaladError
from salad.interrupts import put_off
from salad.pipeline.compute import DEATHS, Runner, Task
from salad.pipeline.compute.task import Job, Outcome, job_of, unwrapped


class Processes(Runner):
    """`compute.workers` processes, by default one a core; they start with the first tasks and stay until `close`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.slots = config.compute.workers or len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(self.slots)  # each talks to one process at a time
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._alive: set[_Process] = set()
        self._lock, self._stopping = threading.Lock(), False

    def start(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> Future[Outcome]:
        return self._threads.submit(self._perform, job_of(self._config, function, arguments))

    def ready(self, handle: Future[Outcome], seconds: float) -> bool:
        return bool(wait([handle], seconds).done)

    def take(self, handle: Future[Outcome]) -> Any:
        return unwrapped(handle.result())

    def drop(self, handle: Future[Outcome]) -> bool:
        return handle.cancel()

    @put_off()
    def __exit__(self, *_: object) -> None:
        running = [h for h in self._waited_for.values() if not h.cancel() and not h.done()]
        if running:
            self._stop()
            wait(running)
            self._stopping = False
        self._waited_for.clear()

    @put_off()
    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stop()

    def _stop(self) -> None:
        """A task that runs cannot be ended without its process."""
        with self._lock:
            self._stopping = True
            for process in self._alive:
                process.end()

    def processes(self) -> list[int]:
        """Process numbers of the workers that are there now."""
        with self._lock:
            return [p.pid for p in self._alive]

    def _perform(self, job: Job) -> Outcome:
        why = ""
        for _ in range(DEATHS):
            process = self._open()
            try:
                outcome = process.perform(job)
            except (EOFError, OSError):
                why = self._bury(process)
                if self._stopping:
                    break
                continue
            self._idle.put(process)
            return outcome
        return "error", SaladError(
            f"{job.function.__name__}: {DEATHS} processes died at the same task: {why}",
            "signal 9 mostly means that memory ran out: fewer compute.workers",
        )

    def _bury(self, process: _Process) -> str:
        """Why it died."""
        with self._lock:
            self._alive.discard(process)
        return process.death()

    def _open(self) -> _Process:
        with suppress(queue.Empty):
            while True:
                process = self._idle.get_nowait()
                if process.lives():
                    return process
                self._bury(process)
        with self._lock:
            if self._stopping:
                raise SaladError("stopped")
            started = _Process()
            self._alive.add(started)
            return started


class _Process:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        importable = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "salad.pipeline.compute.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env={**os.environ, **importable},
            )  # fmt: skip
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def lives(self) -> bool:
        return self._process.poll() is None

    def perform(self, job: Job) -> Outcome:
        self._connection.send(job)
        outcome: Outcome = self._connection.recv()
        return outcome

    def death(self) -> str:
        status = self._process.wait()
        self._connection.close()
        return f"killed (signal {-status})" if status < 0 else f"ended with status {status}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
