"""A Dask scheduler and its workers started by hand, as on a cluster; and whole runs that no runner changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from salad.config import Needs, load_config
from salad.pipeline.models import Models
from salad.pipeline.stages import Run
from tests import compute_tasks as tasks
from tests.fakes import write_config, write_texts

pytestmark = pytest.mark.slow
COMPARED = (
    "embeddings", "probe", "natural", "probe-1/scores", "probe-1/speech", "round-000/scores", "round-000/selection",
    "round-000/speech",
)  # fmt: skip


class Cluster:
    """A scheduler and workers, each a process of its own on loopback, in a folder that is not the test's."""

    def __init__(self, folder: Path, offers: list[str]) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
        self._folder = folder
        self.scheduler = self._start("scheduler", "--host", self.address, "--no-dashboard", "--no-show")
        self._wait_for_scheduler()
        self.workers = [self.add(offered) for offered in offers]

    def add(self, offered: str) -> subprocess.Popen[bytes]:
        options = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "60", "--host", "127.0.0.1"]
        return self._start("worker", self.address, *options, *(["--resources", offered] if offered else []))

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, *options]
        importable = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        log = (self._folder / f"{what}.log").open("ab")
        return subprocess.Popen(command, cwd=self._folder, env={**os.environ, "PYTHONPATH": importable}, stdout=log, stderr=log)

    def _wait_for_scheduler(self) -> None:
        host, port = self.address.removeprefix("tcp://").split(":")
        for _ in range(900):
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError(f"no scheduler at {self.address}")

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def cluster_of(folder: Path, *offers: str) -> Iterator[Cluster]:
    cluster = Cluster(folder, list(offers))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file for all runs: its name is in their rows."""
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl", per_domain=60)


def run_with(folder: Path, texts: Path, fake_models: dict[str, str], compute: dict[str, Any], **changes: Any) -> Run:
    """One round of the fake run."""
    folder.mkdir()
    path = write_config(folder, fake_models, rounds=1, control=False, compute=compute, **changes)
    path.write_text(path.read_text().replace(str(folder / "texts.jsonl"), str(texts)))
    return Run(load_config(path))


def execute(run: Run) -> dict[str, bytes]:
    """Up to the speech of round 0; what was published of the compared artefacts."""
    for stage in run.stages[: [s.name for s in run.stages].index("round-000/speech") + 1]:
        run.execute(stage)
    run.models.close()
    folders = [run.store.path(name) for name in COMPARED]
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "_manifest.json"]
    return {str(p.relative_to(run.store.root)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def of_local(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str], texts: Path) -> dict[str, bytes]:
    found = execute(run_with(tmp_path_factory.mktemp("base") / "local", texts, fake_models, {"runner": "local"}))
    assert len(found) > 30
    return found


@pytest.mark.parametrize("runner", ["processes", "dask", "ray"])
def test_a_whole_run_has_the_same_bytes(
    tmp_path: Path, fake_models: dict[str, str], texts: Path, of_local: dict[str, bytes], runner: str
) -> None:
    same_bytes(of_local, execute(run_with(tmp_path / runner, texts, fake_models, {"runner": runner, "workers": 2})))


def same_bytes(expected: dict[str, bytes], found: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_cluster_whose_worker_is_killed_in_mid_run(
    tmp_path: Path, fake_models: dict[str, str], texts: Path, of_local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while it speaks a shard. The cluster lives on when the run is through."""
    (tmp_path / "cluster").mkdir()
    monkeypatch.chdir(tmp_path)
    with cluster_of(tmp_path / "cluster", "", "") as cluster:
        compute = {"runner": "dask", "address": cluster.address}
        run = run_with(tmp_path / "dask", texts, fake_models, compute)
        killed = threading.Event()

        def kill() -> None:
            spoken = run.store.root / ".natural.partial" / "_spoken"
            while not (spoken.is_dir() and list(spoken.glob("*.json"))) and not run.store.path("natural").exists():
                time.sleep(0.001)
            cluster.workers[0].send_signal(signal.SIGKILL)
            if not run.store.path("natural").exists():
                killed.set()

        killer = threading.Thread(target=kill)
        killer.start()
        found = execute(run)
        killer.join()
        assert killed.is_set(), "too late to tell anything"
        assert cluster.workers[0].wait() == -signal.SIGKILL
        assert cluster.scheduler.poll() is None
        assert cluster.workers[1].poll() is None
    same_bytes(of_local, found)


def test_tasks_go_where_what_they_need_is_offered(tmp_path: Path, fake_models: dict[str, str]) -> None:
    with cluster_of(tmp_path, "GPU=1 memory=4e9", "") as cluster:
        models = Models(load_config(write_config(tmp_path, fake_models, compute={"runner": "dask", "address": cluster.address})))
        until = time.monotonic() + 60
        with models.compute as runner:
            while runner.slots < 2 and time.monotonic() < until:
                time.sleep(0.2)
            needs = Needs.model_validate({"gpus": 1, "memory": "2 GB"})
            found = list(runner.map(tasks.squared, [(x,) for x in range(12)], needs, lambda: None))
            anywhere = list(runner.map(tasks.squared, [(x,) for x in range(12)], Needs(), lambda: None))
        assert {f["pid"] for f in found} == {cluster.workers[0].pid}
        assert {f["pid"] for f in anywhere} == {w.pid for w in cluster.workers}
        models.close()
        assert cluster.scheduler.poll() is None


def test_an_engine_that_crashes_costs_a_text_and_no_worker(tmp_path: Path, fake_models: dict[str, str]) -> None:
    """The voice is a file named as seen from where `salad` runs, and kills the process that it speaks in."""
    engine = {"engine": f"{Path(__file__).parents[1] / 'faulty.py'}:FaultyEngine", "voice": "tone"}
    said = tmp_path / "said.jsonl"
    line = '{"text": "A %s word stands in this text number %d for all to hear.", "topic": "t"}\n'
    said.write_text("".join(line % (word, i) for i in range(15) for word in ("killed", "plain", "warm", "fresh")))
    sources = [{"dataset": str(said), "domain_column": "topic"}]
    pool = {"sources": sources, "min_words": 6, "max_words": 40, "near_duplicate": None}
    with cluster_of(tmp_path, "", "") as cluster:
        speech = {"voices": [engine], "shard_rows": 6}
        run = run_with(
            tmp_path / "run", said, fake_models, {"runner": "dask", "address": cluster.address}, speech=speech, pool=pool,
            natural={"domains": ["t"], "seconds": 40},
        )  # fmt: skip
        for name in ("pool", "embeddings", "clusters", "probe"):
            manifest, _ = run.execute(next(s for s in run.stages if s.name == name))
        run.models.close()
        assert manifest.meta["rejected"].get("worker was killed (signal 9)"), "the test says nothing"
        assert all(w.poll() is None for w in cluster.workers)


def works(process: psutil.Process) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_ends_a_run_with_a_cluster_of_its_own(tmp_path: Path, fake_models: dict[str, str]) -> None:
    """As a terminal sends it: to every process of the group."""
    for runner in ("dask", "ray", "processes"):
        (tmp_path / runner).mkdir()
        texts = {"pool": {"sources": [{"dataset": "many.jsonl"}], "min_words": 6, "max_words": 40, "near_duplicate": None}}
        path = write_config(tmp_path / runner, fake_models, compute={"runner": runner, "workers": 2}, **texts)
        line = '{"text": "Text number %d is one of very many that are all much alike, as can be heard and seen."}\n'
        (tmp_path / runner / "many.jsonl").write_text("".join(line % i for i in range(20_000)))
        command = [sys.executable, "-m", "salad", "run", str(path)]
        with (tmp_path / runner / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=tmp_path / runner, stdout=log, stderr=log, start_new_session=True)
        parts = tmp_path / runner / "runs/fake/.embeddings.partial/_parts"
        until = time.monotonic() + 90
        while not (parts.is_dir() and list(parts.glob("*.json"))) and time.monotonic() < until:
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)
        said = (tmp_path / runner / "log").read_text
        assert process.wait(60) == 130, said()
        until = time.monotonic() + 60  # who is left behind would stay for ever
        while (left := list(filter(works, children))) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == [], runner
        assert "Traceback" not in said(), said()
