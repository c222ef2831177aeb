"""The clock set back by a year: in the middle of a run, and between a run that was killed and the same command again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from tests.faults.rig import HANGS, Calm
from tests.faults.table import Table

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).with_name("backwards.c")
CLOCK = "SALAD_FAULTS_CLOCK"
YEAR = 365 * 86_400

# In one process, which imports once. For each moment two runs: one goes on while the clock is set back, the other is killed there
# and started again after it was.
PROGRAM = f"""
import importlib, os, sys, time
from pathlib import Path
from tests.faults import attempt
from tests.faults.test_clock import age, forked
config, folder, clock = sys.argv[1], Path(sys.argv[2]), Path(os.environ["{CLOCK}"])
honest = time.time()
clock.touch()
assert honest - time.time() > {YEAR - 60}, "the library that turns the clock back is not at work"
clock.unlink()
for module in attempt.PRELOADED:
    importlib.import_module(module)
moments = [attempt.Moment(*m) for m in eval(sys.argv[3])]
for i, moment in enumerate(moments):
    clock.unlink(missing_ok=True)
    for kind, act in (("on", clock.touch), ("again", attempt.die)):
        clock.unlink(missing_ok=True)
        runs, log = folder / f"{{kind}}-{{i}}", folder / f"{{kind}}-{{i}}.log"
        status = forked(attempt.live, config, {{"runs_dir": str(runs)}}, str(log), moment, act)
        assert (status == 0) == (kind == "on"), (kind, status)
        if kind == "again":
            age(runs)
            clock.touch()
            assert forked(attempt.live, config, {{"runs_dir": str(runs)}}, str(log)) == 0
        assert clock.exists()
"""


def forked(work: object, *arguments: object) -> int:
    """The wait status of a child that does this work."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            work(*arguments)  # type: ignore[operator]
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def age(folder: Path) -> None:
    """What was written before the clock was set back is of the future."""
    later = time.time() + YEAR
    for path in folder.rglob("*"):
        os.utime(path, (later, later))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a clock that goes backwards")
    out = tmp_path_factory.mktemp("clock") / "backwards.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(out), str(SOURCE), "-ldl"], check=True)
    return out


def test_the_clock_set_back_by_a_year(library: Path, tmp_path: Path, calm: Calm, table: Table) -> None:
    moments = [(stage, calm.changes[stage] // 2) for stage in ("round-000/speech", "round-000/checkpoint")]
    environment = {**os.environ, "LD_PRELOAD": str(library), CLOCK: str(tmp_path / "back"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with table.survived_all("the clock set back by a year") as fault:
        arguments = [str(calm.config), str(tmp_path), repr(moments)]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=environment,
            timeout=4 * HANGS,  # of all that it does
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for i in range(len(moments)):
            for kind in ("on", "again"):
                fault()
                calm.check(calm.other(tmp_path / f"{kind}-{i}"))
