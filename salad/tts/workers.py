"""Many processes that speak at once: fed in length order, watched, and nothing lost when one of them breaks.

Batches depend on the jobs alone, never on who is free first, so the sounds do not depend on how many workers there are.
A text whose worker is killed, hangs, runs out of memory, or whose sound is none, is tried once more alone in another
process; then it has its fault and the rest goes on. A worker that dies while its model loads had not begun: no try is lost.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Protocol

from salad.errors import SaladError
from salad.interrupts import put_off
from salad.tts.takes import Job, Take
from salad.tts.worker import Booth, attempt

BATCH = 8  # texts that an engine is given at a time
LOADING = 1800.0  # seconds that an engine may take to load, or to fetch, its model
FRUITLESS = 12  # workers that may die in a row without a single take between them
TICK = 0.2  # seconds between looks for Ctrl+C

Progress = Callable[[float], None]  # seconds of speech so far


class Ticket(Protocol):
    """Jobs that were handed in."""

    def takes(self, progress: Progress = ...) -> dict[str, Take]:
        """Wait for them all: a take for each job's key. SaladError when the engine cannot do it at all."""
        ...

    def drop(self) -> None:
        """They are not wanted any more."""
        ...


class Speakers(Protocol):
    """Whoever says jobs."""

    def submit(self, jobs: Sequence[Job]) -> Ticket: ...

    def close(self) -> None: ...


def open_speakers(count: int | None, time_limit: float, level: float) -> Speakers:
    """count: processes; None: one a core; 0: none, everything is said in this one. The rest: see `Workers`."""
    if count == 0:
        return Alone(level)
    return Workers(count or len(os.sched_getaffinity(0)), time_limit, level)


def batches(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs of one voice together, the longest first, `BATCH` at a time."""
    ordered = sorted(jobs, key=lambda j: (j.voice.engine, j.voice.model or "", j.voice.label, -j.chars, j.key))
    found = []
    for _, group in groupby(ordered, key=lambda j: j.voice.who):
        alike = list(group)
        found += [alike[i : i + BATCH] for i in range(0, len(alike), BATCH)]
    return found


def _seconds(takes: Iterable[Take]) -> float:
    return sum(t.ends[-1] / t.rate for t in takes if t.fault is None)


class Alone:
    """No worker: jobs are said here when their takes are asked for. A broken sound is tried once more."""

    def __init__(self, level: float) -> None:
        self._booth, self._level, self._lock = Booth(), level, threading.Lock()

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        return _Deferred(self, jobs)

    def say(self, jobs: Sequence[Job]) -> list[Take]:
        with self._lock:  # an engine is one thread's
            return self._say(jobs)

    def _say(self, jobs: Sequence[Job]) -> list[Take]:
        engine = self._booth.open(jobs[0].voice)
        found = attempt(engine, jobs, self._level)
        faults = {j.key: found for j in jobs} if isinstance(found, str) else {t.key: t.fault for t in found if t.fault}
        takes = {} if isinstance(found, str) else {t.key: t for t in found}
        for job in jobs:
            if job.key in faults:
                again = attempt(engine, [job], self._level)
                takes[job.key] = Take(job.key, again) if isinstance(again, str) else again[0]
        return list(takes.values())

    def close(self) -> None:
        pass


@dataclass
class _Deferred:
    speaker: Alone
    jobs: Sequence[Job]

    def takes(self, progress: Progress = lambda seconds: None) -> dict[str, Take]:
        said: dict[str, Take] = {}
        for batch in batches(self.jobs):
            said |= {t.key: t for t in self.speaker.say(batch)}
            progress(_seconds(said.values()))
        return said

    def drop(self) -> None:
        pass


class _Waiting:
    """A ticket of `Workers`: filled by the dispatcher, waited for by the caller."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.dropped = False
        self._said: dict[str, Take] = {}
        self._error: SaladError | None = None
        self._news = threading.Condition()

    def settle(self, takes: Iterable[Take]) -> None:
        with self._news:
            self._said |= {t.key: t for t in takes}
            self._news.notify_all()

    def fail(self, error: SaladError) -> None:
        with self._news:
            self._error = error
            self._news.notify_all()

    def takes(self, progress: Progress = lambda seconds: None) -> dict[str, Take]:
        done = False
        while not done:
            with put_off(), self._news:
                self._news.wait_for(lambda: self._error is not None or len(self._said) == len(self.jobs), TICK)
                if self._error is not None:
                    raise self._error
                done, seconds = len(self._said) == len(self.jobs), _seconds(self._said.values())
            progress(seconds)
        return self._said

    def drop(self) -> None:
        self.dropped = True


@dataclass
class _Batch:
    ticket: _Waiting
    jobs: list[Job]
    avoid: int | None = None  # serial number of the worker that failed at it; None: the first try


class _Worker:
    """A process and the socket to it."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.batch: _Batch | None = None
        self.began = False  # at the batch: the model is loaded
        self.deadline = 0.0
        self.engine: tuple[str, str | None] | None = None
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        theirs_too = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # what can be imported here, plug-ins included
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file in the folder one works in must not stand in for a module of Python
                [sys.executable, "-P", "-m", "salad.tts.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._stderr,
                env={**os.environ, **theirs_too, **one_thread},
            )  # fmt: skip
        self.connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, batch: _Batch, level: float) -> None:
        self.batch, self.began, self.deadline = batch, False, time.monotonic() + LOADING
        voice = batch.jobs[0].voice
        self.engine = (voice.engine, voice.model)
        with suppress(OSError):  # it is dead: seen when its end of the socket is read
            self.connection.send((batch.jobs, level))

    def death(self) -> str:
        """Why it is gone."""
        status = self._process.wait()
        if status < 0:
            return f"worker was killed (signal {-status})"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return " ".join([f"worker ended with status {status}", *last])[:300]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._stderr.close()


class Workers:
    """`count` processes, each with its own engines and one thread for them.

    time_limit: seconds for one text, from when the worker's model is loaded. level: dBFS of active speech.
    Processes start with the first jobs and stay, warm, until `close`.
    """

    def __init__(self, count: int, time_limit: float, level: float) -> None:
        self._count, self._time_limit, self._level = count, time_limit, level
        self._inbox: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._ear, self._bell = socket.socketpair()
        self._pending: deque[_Batch] = deque()
        self._workers: list[_Worker] = []
        self._serial = self._deaths = 0
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @put_off()
    def submit(self, jobs: Sequence[Job]) -> Ticket:
        ticket = _Waiting(jobs)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="speakers", daemon=True)
                self._thread.start()
        self._tell(ticket)
        return ticket

    @put_off()
    def close(self) -> None:
        if self._thread is not None:
            self._tell(None)
            self._thread.join()
            self._thread = None

    def processes(self) -> list[int]:
        """Process numbers of the workers that are there now."""
        return [worker.pid for worker in list(self._workers)]

    def _tell(self, ticket: _Waiting | None) -> None:
        self._inbox.put(ticket)
        self._bell.send(b"!")

    # -- the dispatcher's thread: all that follows ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._open_inbox():
                self._feed()
                self._hear()
        except Exception as e:  # a bug here must not leave anyone waiting for ever
            self._fail_all(SaladError(f"the pool of speaking processes broke ({type(e).__name__}: {e})"))
        finally:
            for worker in self._workers:
                worker.end()
            self._workers.clear()

    def _open_inbox(self) -> bool:
        """Take in new tickets; False once the pool is closed."""
        while not self._inbox.empty():
            ticket = self._inbox.get()
            if ticket is None:
                return False
            self._pending.extend(_Batch(ticket, jobs) for jobs in batches(ticket.jobs))
        return True

    def _feed(self) -> None:
        """A batch for every worker that has none."""
        self._pending = deque(b for b in self._pending if not b.ticket.dropped)
        while len(self._workers) < min(self._count, len(self._pending) + self._busy()):
            self._serial += 1
            self._workers.append(_Worker(self._serial))
        for worker in self._workers:
            if worker.batch is None and (batch := self._next_for(worker)):
                self._pending.remove(batch)
                worker.start(batch, self._level)
        if self._pending and not self._busy():  # only a worker that failed at it is left: put another in its place
            self._workers.pop().end()
            self._feed()

    def _busy(self) -> int:
        return sum(w.batch is not None for w in self._workers)

    def _next_for(self, worker: _Worker) -> _Batch | None:
        """The first batch that it may have, of an engine that it has loaded where there is one."""
        allowed = [b for b in self._pending if b.avoid != worker.serial]
        warm = (b for b in allowed if (b.jobs[0].voice.engine, b.jobs[0].voice.model) == worker.engine)
        return next(warm, allowed[0] if allowed else None)

    def _hear(self) -> None:
        """Wait for an answer, a death, a time limit or a new ticket, and settle it."""
        busy = {w.connection: w for w in self._workers if w.batch}
        first = min((w.deadline for w in busy.values()), default=None)
        timeout = None if first is None else max(0.0, first - time.monotonic())
        for ready in wait([self._ear, *busy], timeout):
            if ready is self._ear:
                self._ear.recv(4096)
            else:
                self._answer(busy[ready])  # type: ignore[index]
        for worker in [w for w in self._workers if w.batch and time.monotonic() > w.deadline]:
            self._lose(worker, f"no answer in {self._limit(worker):.0f} s")

    def _limit(self, worker: _Worker) -> float:
        return self._time_limit * len(worker.batch.jobs) if worker.batch else 0.0

    def _answer(self, worker: _Worker) -> None:
        try:
            kind, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker, worker.death())
            return
        if kind == "loaded":
            worker.began, worker.deadline = True, time.monotonic() + self._limit(worker)
            return
        batch, worker.batch = worker.batch, None
        assert batch is not None
        if kind == "error":
            self._forget(batch.ticket, rest[0])
        elif kind == "broken":
            self._retry(batch, batch.jobs, rest[0], worker.serial)
        else:
            self._settle(batch, rest[0], worker.serial)

    def _settle(self, batch: _Batch, takes: list[Take], serial: int) -> None:
        self._deaths = 0
        faults = {t.key: t.fault for t in takes if t.fault}
        batch.ticket.settle(t for t in takes if not t.fault)
        for job in batch.jobs:
            if fault := faults.get(job.key):
                self._retry(batch, [job], fault, serial)

    def _retry(self, batch: _Batch, jobs: list[Job], why: str, serial: int) -> None:
        """Each of the jobs once more, alone and elsewhere; with its fault if this was that."""
        if batch.avoid is not None:
            batch.ticket.settle(Take(job.key, why) for job in jobs)
        else:
            self._pending.extendleft(_Batch(batch.ticket, [job], serial) for job in reversed(jobs))

    def _lose(self, worker: _Worker, why: str) -> None:
        """A worker is dead or has to die."""
        batch = worker.batch
        worker.end()
        self._workers.remove(worker)
        self._deaths += 1
        assert batch is not None
        if self._deaths >= FRUITLESS:
            self._forget(batch.ticket, SaladError(f"{FRUITLESS} processes that spoke broke one after the other: {why}"))
        elif not worker.began:
            self._pending.appendleft(batch)
        else:
            self._retry(batch, batch.jobs, why, worker.serial)

    def _forget(self, ticket: _Waiting, error: SaladError) -> None:
        ticket.dropped = True
        ticket.fail(error)

    def _fail_all(self, error: SaladError) -> None:
        tickets = {id(b.ticket): b.ticket for b in [*self._pending, *(w.batch for w in self._workers if w.batch)]}
        while not self._inbox.empty():
            if ticket := self._inbox.get():
                tickets[id(ticket)] = ticket
        for ticket in tickets.values():
            self._forget(ticket, error)
