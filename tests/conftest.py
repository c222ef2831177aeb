"""Shared fixtures: tiny models once a session, a configuration that uses them, and no network."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from salad.interrupts import let_be

pytest_plugins = ["tests.browser", "tests.faults.table"]

settings.register_profile("same", derandomize=True, deadline=None)  # the same examples in every run, however busy the machine
settings.load_profile("same")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only wait for each other
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


# They take minutes. Begun first, none of them is left to one process while the other has nothing to do.
LONG = [
    "test_real.py", "tts/test_engine_contract.py", "flows/test_ending.py", "faults/test_killed.py", "pipeline/test_remote.py",
    "pipeline/test_compute_address.py", "pipeline/test_launch.py", "test_cli.py", "faults/test_server_gone.py",
    "flows/test_prefect_end_to_end.py", "faults/test_signals.py", "pipeline/test_compute.py", "test_run.py",
    "faults/test_damaged.py",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, so that a plain mistake shows at once; of each kind those of long files."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, places.get(item.path, len(LONG))))


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Every training collects garbage: not among all that was ever imported, which is a third of a tiny run's work."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def fake_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from tests.fakes import write_models

    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def fake_config_path(tmp_path: Path, fake_models: dict[str, str]) -> Path:
    """A YAML configuration whose whole run takes seconds."""
    from tests.fakes import write_config

    return write_config(tmp_path, fake_models)


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples/custom_selector was installed into: put it on PYTHONPATH."""
    source, installed = tmp_path_factory.mktemp("example") / "custom_selector", tmp_path_factory.mktemp("installed")
    shutil.copytree(Path(__file__).parents[1] / "examples" / "custom_selector", source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(installed), str(source)], check=True)
    return installed


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command in this process would go on hearing what a later test tells itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    let_be()


@pytest.fixture
def salad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line in this process: what it prints, where it ends with `status`."""
    from salad import cli

    def command(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["salad", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        assert (stopped.value.code or 0) == status, printed.err
        return printed.out + printed.err

    return command
