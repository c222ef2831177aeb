"""What the tests of faults share: an undisturbed run, processes that can be killed, and what must be so after a fault."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from salad.artifact import MANIFEST
from salad.config import load_config
from salad.pipeline.shards import read_utterances, shard_files
from salad.pipeline.stages import Run
from tests.fakes import write_config
from tests.faults import engine
from tests.faults.attempt import PRELOADED, START, Moment, live

SEED = 7
HANGS = 120.0  # seconds
OF_A_RUN = {"report": {"machine.html", "config.yaml"}}  # they show how long stages took, and with how many processes

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOADED)


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process with everything imported already."""
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Its exit code; below zero: the signal that ended it."""
    process.join(HANGS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


@dataclass
class Calm:
    """A configuration and an undisturbed run of it."""

    config: Path
    run: Run
    said: dict[str, Counter[str]]  # by stage
    changes: dict[str, int]  # by stage
    largest: int  # texts that the engine is given for one shard
    seconds: float

    @property
    def stages(self) -> list[str]:
        return [stage.name for stage in self.run.stages]

    def other(self, runs: Path, **changes: Any) -> Run:
        """The same run in another folder."""
        return Run(load_config(self.config, {"runs_dir": str(runs), **changes}))

    def check(self, run: Run) -> None:
        """A run that was disturbed: nothing half-done, every checksum, every shard to its end, and the same bytes."""
        calm = self.run.store
        for ours, theirs in zip(self.run.stages, run.stages, strict=True):
            name = ours.name
            found = run.done(theirs)
            assert found is not None, f"{name} is not valid"
            expected = calm.manifest(name)
            assert found.key == expected.key
            own = OF_A_RUN.get(name, set())
            assert found.files.keys() == expected.files.keys()
            assert [f for f in found.files if f not in own and found.files[f] != expected.files[f]] == [], name
            assert (name == "report") or found.meta == expected.meta
            for shard in shard_files(run.store.path(name)):
                assert pq.read_table(shard).num_rows > 0
            if "selection" in name:
                chosen = [store.path(name) / "selection.parquet" for store in (calm, run.store)]
                assert chosen[0].read_bytes() == chosen[1].read_bytes()
        for name in ("natural", "round-000/speech"):
            assert all(wave.size for u in read_utterances(run.store.path(name)) for wave in u.waves)
        assert [p for p in run.store.root.rglob("*") if p.name.endswith((".partial", ".tmp"))] == []


def undisturbed(folder: Path, models: dict[str, str], **changes: Any) -> Calm:
    folder.mkdir(exist_ok=True)
    speech = {"voices": [{"engine": engine.HERE, "voice": "tone"}], "shard_rows": 6, "workers": 0}
    config = write_config(folder, models, **{"control": False, "speech": speech, **changes})
    log = folder / "calm.log"
    started = time.perf_counter()
    assert ended(start(live, str(config), {}, str(log))) == 0
    account = Account(load_config(config).run_dir)
    account.add(log, died=False)
    calm = Run(load_config(config))
    return Calm(config, calm, account.finished, account.changes, account.largest, time.perf_counter() - started)


@dataclass
class Account:
    """What was said in the attempts at a run, by their logs: in shards that were finished, and for nothing."""

    root: Path
    finished: dict[str, Counter[str]] = field(default_factory=dict)
    lost: list[tuple[str, Counter[str]]] = field(default_factory=list)  # (stage, texts), one a death
    builds: Counter[str] = field(default_factory=Counter)
    changes: dict[str, int] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)  # by stage
    largest: int = 0
    where: str = ""  # the stage at which the last attempt ended

    def add(self, log: Path, died: bool) -> None:
        """Read the log of an attempt. died: it did not come to its end."""
        flight: Counter[str] = Counter()
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        shard = None
        for line in lines:
            kind, _, what = line.partition(" ")
            shard = Path(what) if kind == "shard" else None
            if kind == "stage":
                self.where = what
            elif kind == "build":
                self.builds[what] += 1
            elif kind == "said":
                flight[what] += 1
            elif kind == "end":
                self.changes[self.where] = int(what.rpartition(" ")[2])
            if kind == "shard":
                self.largest = max(self.largest, flight.total())
            if kind == "end" or (kind == "shard" and line is not lines[-1]):
                self._book(flight)
        if flight and (self._published(self.where) or (shard and shard.exists())):
            self._book(flight)
        self.deaths[self.where] += died
        if flight:
            assert died
            self.lost.append((self.where, flight))

    def _book(self, flight: Counter[str]) -> None:
        self.finished.setdefault(self.where, Counter()).update(flight)
        flight.clear()

    def _published(self, stage: str) -> bool:
        final = self.root / stage
        return any((folder / MANIFEST).exists() for folder in (final, final.with_name(f".{final.name}.partial")))

    def check(self, calm: Calm) -> None:
        """What shards hold was said; what was said for nothing is the two shards in flight at each death, at most.

        Shards ahead are spoken while one is written, so the log cannot tell one from the other. Before there are shards, the pool
        stage listens to how fast the voice is: these texts count as one shard.
        """
        said = self.all_said()
        assert not said.keys() - calm.said.keys()
        for stage, texts in calm.said.items():
            assert not texts - said[stage], "something in a shard was never said"
            in_flight = texts.total() if stage == "pool" else 2 * calm.largest
            assert (said[stage] - texts).total() <= in_flight * self.deaths[stage], stage

    def all_said(self) -> dict[str, Counter[str]]:
        said = {stage: Counter(texts) for stage, texts in self.finished.items()}
        for stage, texts in self.lost:
            said.setdefault(stage, Counter()).update(texts)
        return said


def alive(marker: str) -> list[int]:
    """Processes that were started with this text in their environment, and live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in environment and state != "Z":
                found.append(int(entry.name))
    return found


def moments(calm: Calm, stages: list[str], numbers: Any) -> list[Moment]:
    """A random change of each of these stages, in the order of the run."""
    order = {name: i for i, name in enumerate([START, *calm.stages])}
    return [Moment(s, int(numbers.integers(1, calm.changes[s] + 1))) for s in sorted(stages, key=order.__getitem__)]
