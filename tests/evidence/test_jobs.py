"""Processes side by side: one thread each, told apart in what they print, and what they say of how they ended."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from evidence.arms import when_free
from evidence.jobs import side_by_side
from salad.errors import RunInUse


def test_each_has_one_thread_and_its_lines_say_whose_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    asked = "import os; print(os.environ['OMP_NUM_THREADS'], 'thread'); print('last')"
    assert side_by_side([sys.executable, "-c", asked], 2) == [0, 0]
    assert sorted(capfd.readouterr().out.splitlines()) == ["1| 1 thread", "1| last", "2| 1 thread", "2| last"]


def test_one_that_fails_is_told(tmp_path: Path) -> None:
    once = f"import os; os.mkdir({str(tmp_path / 'taken')!r})"  # the second one finds it there
    assert sorted(side_by_side([sys.executable, "-c", once], 2)) == [0, 1]


def test_when_we_are_stopped_they_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, timeout: float | None = None) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.Popen.wait", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        # under `nohup make test &` processes are born deaf to Ctrl+C
        side_by_side(["env", "--default-signal=INT", sys.executable, "-c", "import time; time.sleep(120)"], 2)
    assert time.monotonic() - started < 60
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("relay")]


def test_what_another_process_makes_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("evidence.arms.WAIT", 0)
    busy = iter([RunInUse("in use"), RunInUse("in use"), "made"])

    def make() -> str:
        found = next(busy)
        if isinstance(found, RunInUse):
            raise found
        return found

    assert when_free(make) == "made"
    assert capsys.readouterr().out.count("in use") == 1
