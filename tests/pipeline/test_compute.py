"""What every runner promises; the clusters are of this machine. Those at an address: test_compute_address.py."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from salad.config import Config, Needs, load_config
from salad.errors import ConfigError, NetworkError, SaladError
from salad.pipeline import compute as module
from salad.pipeline.compute import Runner
from salad.pipeline.compute.local import one_thread_each
from salad.pipeline.compute.on_dask import resources
from salad.pipeline.compute.parts import made_parts
from salad.pipeline.models import Models
from tests import compute_tasks as tasks
from tests.fakes import write_config

RUNNERS = [
    "local",
    "processes",
    pytest.param("dask", marks=pytest.mark.slow),
    pytest.param("ray", marks=pytest.mark.slow),
]
NEEDS = Needs()


def models_with(folder: Path, fake_models: dict[str, str], **compute: Any) -> Models:
    return Models(load_config(write_config(folder, fake_models, compute=compute)))


@pytest.fixture(scope="module", params=RUNNERS)
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]
) -> Iterator[Models]:
    made = models_with(tmp_path_factory.mktemp(request.param), fake_models, runner=request.param, workers=2)
    yield made
    made.close()


@pytest.fixture
def runner(models: Models) -> Iterator[Runner]:
    with models.compute as entered:
        yield entered


def nothing() -> None:
    pass


def test_results_come_in_order_each_made_with_one_thread_for_this_run(runner: Runner, models: Models) -> None:
    found = list(runner.map(tasks.squared, ((x,) for x in range(20)), NEEDS, nothing))
    assert [f["square"] for f in found] == [x * x for x in range(20)]
    assert {f["threads"] for f in found} == {1}
    assert {f["run"] for f in found} == {"fake"}
    assert ({f["pid"] for f in found} == {os.getpid()}) == (models.config.compute.runner == "local")


def test_parts_are_taken_as_they_are_wanted(runner: Runner) -> None:
    asked: list[int] = []

    def parts() -> Iterator[tuple[int]]:
        for x in range(1000):
            asked.append(x)
            yield (x,)

    results = runner.map(tasks.squared, parts(), NEEDS, nothing)
    assert next(results)["square"] == 0
    assert len(asked) <= 2 * runner.slots + 1, "a pool of millions is not handed in at once"


@pytest.mark.parametrize(("kind", "error"), [("plain", SaladError), ("network", NetworkError)])
def test_an_error_of_ours_arrives_as_it_is(runner: Runner, kind: str, error: type[SaladError]) -> None:
    with pytest.raises(SaladError, match=r"^the spoon is bent: take another spoon$") as caught:
        runner.submit(tasks.refused, (kind,), NEEDS).result()
    assert type(caught.value) is error
    assert runner.submit(tasks.squared, (3,), NEEDS).result()["square"] == 9, "the runner goes on"


def test_any_other_error_keeps_its_story(runner: Runner) -> None:
    with pytest.raises((ZeroDivisionError, RuntimeError), match="a mistake of the task"):
        runner.submit(tasks.wrong, (), NEEDS).result()


def test_models_are_made_once_a_process(runner: Runner) -> None:
    found = list(runner.map(tasks.loaded, [()] * 12, NEEDS, nothing))
    assert len(set(found)) == len({pid for pid, _ in found}) <= 2


def test_names_of_files_mean_the_same_there(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.submit(tasks.here, (), NEEDS).result() == str(tmp_path)


def test_parts_are_found_again_unless_they_are_damaged(runner: Runner, tmp_path: Path) -> None:
    folder, log = tmp_path / "_parts", tmp_path / "log"
    parts = [(n, str(log)) for n in (3, 5, 7, 2)]

    def build() -> list[str]:
        log.write_text("")
        found = list(made_parts(runner, tasks.counted, parts, folder, NEEDS, nothing))
        assert all(np.array_equal(a, np.arange(n)) for a, (n, _) in zip(found, parts, strict=True))
        return sorted(log.read_text().split())

    assert build() == ["2", "3", "5", "7"]
    assert build() == []
    data = bytearray((folder / "00001.npy").read_bytes())
    data[-1] ^= 1
    (folder / "00001.npy").write_bytes(data)
    (folder / "00002.json").unlink()
    (folder / "00003.npy").unlink()
    assert build() == ["2", "5", "7"]
    assert {p.suffix for p in folder.iterdir()} == {".npy", ".json"}, "nothing half written stays"


def test_what_waits_is_dropped_and_ctrl_c_ends_what_runs(models: Models, tmp_path: Path) -> None:
    class Stopped(KeyboardInterrupt):
        pass

    def tick() -> None:
        if (tmp_path / "0").exists():
            raise Stopped

    started = time.monotonic()
    with pytest.raises(Stopped), models.compute as runner:
        for _ in runner.map(tasks.slow, ((str(tmp_path / str(i)), 30.0) for i in range(50)), NEEDS, tick):
            pass
    assert time.monotonic() - started < 20
    if models.config.compute.runner == "dask":  # a thread of a Dask worker cannot be ended: with the cluster it goes
        models.close()
    with models.compute as runner:
        assert runner.submit(tasks.squared, (4,), NEEDS).result()["square"] == 16
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_worker_that_dies_is_replaced_and_its_task_done_again(models: Models, tmp_path: Path) -> None:
    if models.config.compute.runner == "local":
        pytest.skip("its tasks are in this process")
    with models.compute as runner:
        assert runner.submit(tasks.dying, (str(tmp_path / "mark"), False), NEEDS).result() == "alive"
        with pytest.raises(SaladError, match="died"):
            runner.submit(tasks.dying, (str(tmp_path / "mark"), True), NEEDS).result()
        assert runner.submit(tasks.squared, (4,), NEEDS).result()["square"] == 16


def test_ctrl_c_while_threads_start_leaves_none_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = threading.Barrier.wait

    def stopped(self: threading.Barrier, timeout: float | None = None) -> int:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(threading.Barrier, "wait", stopped)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        one_thread_each(2)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_nothing_stays_running_once_closed(models: Models) -> None:
    before = set(psutil.Process().children(recursive=True))
    with models.compute as runner:
        list(runner.map(tasks.squared, [(1,), (2,)], NEEDS, nothing))
    models.close()
    until = time.monotonic() + 10
    while (left := set(psutil.Process().children(recursive=True)) - before) and time.monotonic() < until:
        time.sleep(0.1)
    assert [p.cmdline()[:4] for p in left if "resource_tracker" not in str(p.cmdline())] == []


def test_what_nobody_can_run_is_said_and_then_given_up(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if models.config.compute.runner in ("local", "processes"):
        pytest.skip("they place nothing")
    monkeypatch.setattr(module, "SAID", 0.5)
    monkeypatch.setattr(module, "GIVEN_UP", 2.0)
    with models.compute as runner, pytest.raises(SaladError, match=r"no \w+ \w+ at this machine .* GPU=3.*start such a worker"):
        runner.submit(tasks.squared, (1,), Needs(gpus=3)).result()
    assert "GPU=3: waiting for one" in caplog.text


def test_needs_by_name() -> None:
    needs = Needs.model_validate({"cpus": 2, "gpus": 0.5, "memory": "8 GiB"})
    assert resources(needs) == {"CPU": 2, "GPU": 0.5, "memory": 8 * 2**30}
    assert resources(Needs()) == {}


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"runner": "local", "address": "tcp://x:1"}, "runner local has no address"),
        ({"runner": "dask", "address": "tcp://x:1", "workers": 3}, "workers is for what is started here"),
        ({"runner": "slurm"}, "'compute.runner'"),
        ({"embed": {"memory": "much"}}, "'compute.embed.memory'"),
    ],
)
def test_a_wrong_configuration_is_refused(fake_config_path: Path, compute: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(fake_config_path.read_text())
    fake_config_path.write_text(yaml.safe_dump({**data, "compute": compute}))
    with pytest.raises(ConfigError, match=message):
        load_config(fake_config_path)


@pytest.mark.parametrize(("runner", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_an_extra_that_is_not_installed_is_named(
    tmp_path: Path, fake_models: dict[str, str], monkeypatch: pytest.MonkeyPatch, runner: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SaladError, match=rf"compute.runner: {runner} is not installed: pip install 'salad-speech\[{runner}\]'"):
        _ = models_with(tmp_path, fake_models, runner=runner).compute


@pytest.mark.slow
@pytest.mark.parametrize(("runner", "address"), [("dask", "tcp://127.0.0.1:1"), ("dask", "nonsense"), ("ray", "127.0.0.1:1")])
def test_a_scheduler_that_does_not_answer(tmp_path: Path, fake_models: dict[str, str], runner: str, address: str) -> None:
    started = time.monotonic()
    with pytest.raises(NetworkError, match=rf"at {address} does not answer .*: start it with `{runner} s"):
        _ = models_with(tmp_path, fake_models, runner=runner, address=address).compute
    assert time.monotonic() - started < 30


def test_the_runner_may_change_between_two_commands_on_a_run(fake_config_path: Path) -> None:
    from salad.pipeline.stages import Run

    config = load_config(fake_config_path)
    first, second = Run(config), Run(with_compute(config, runner="processes"))
    first.store.root.mkdir(parents=True)
    first.store.bind(first.config)
    second.store.bind(second.config)
    assert [first.key(s) for s in first.stages[:1]] == [second.key(s) for s in second.stages[:1]]


def with_compute(config: Config, **compute: Any) -> Config:
    return Config.model_validate({**config.model_dump(mode="json"), "compute": compute})
