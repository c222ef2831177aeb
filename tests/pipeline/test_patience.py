"""What the network failed is tried again, with the same numbers on the command line and in Prefect; nothing else is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from salad import assets, console
from salad.config import Source
from salad.errors import NetworkError, SaladError
from salad.network import failure_of, unreachable
from salad.pipeline.patience import DELAYS, patiently
from salad.pipeline.pool import open_source
from salad.pipeline.stages import Run, Stage, open_run
from salad.pipeline.streams import guarded
from salad.tts.takes import Job
from salad.tts.workers import Workers

STAGE = Stage("pool", lambda out, progress: {}, {}, network=True)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


class Timeout(Exception):
    """By its name, one of requests."""


class Answered(Exception):
    def __init__(self, status: int) -> None:
        self.response = type("Response", (), {"status_code": status})()


class OfflineModeIsEnabled(ConnectionError):
    """By its name, the hub's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (socket.gaierror(-2, "Name or service not known"), True),
        (Timeout(), True),
        (Answered(503), True),
        (Answered(429), True),
        (Answered(404), False),
        (Answered(401), False),
        (caused(FileNotFoundError("not in the cache"), ConnectionError("no route")), True),
        (caused(FileNotFoundError("not in the cache"), OfflineModeIsEnabled()), False),
        (ConnectionError("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)"), False),
        (ValueError("no such column"), False),
        (FileNotFoundError("x"), False),
        (MemoryError(), False),
    ],
)
def test_what_is_of_the_network(error: Exception, expected: bool) -> None:
    assert unreachable(error) is expected
    assert failure_of(error) is (NetworkError if expected else SaladError)


def test_a_circle_of_causes_has_an_end() -> None:
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert not unreachable(one)


def failing(*errors: Exception) -> Any:
    left = list(errors)

    def work(*_: Any, **__: Any) -> str:
        if left:
            raise left.pop(0)
        return "made"

    return work


@pytest.mark.parametrize("failures", range(len(DELAYS) + 1))
def test_it_is_tried_again_after_longer_and_longer(failures: int) -> None:
    waited: list[float] = []
    errors = [NetworkError("no answer")] * failures
    assert patiently(failing(*errors), STAGE, lambda error, seconds: waited.append(seconds)) == "made"
    assert waited == list(DELAYS[:failures])
    assert list(DELAYS) == sorted(set(DELAYS))


@pytest.mark.parametrize(
    ("errors", "stage"),
    [
        ([NetworkError("no answer")] * (len(DELAYS) + 1), STAGE),
        ([SaladError("the disk is full")], STAGE),
        ([ValueError("a bug")], STAGE),
        ([NetworkError("no answer")], Stage("clusters", lambda out, progress: {}, {})),
    ],
)
def test_when_to_give_up(errors: list[Exception], stage: Stage) -> None:
    with pytest.raises(type(errors[-1])):
        patiently(failing(*errors), stage, lambda error, seconds: None)


def test_the_command_line_says_that_it_waits(fake_config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("salad.pipeline.patience.DELAYS", (0.01, 0.02, 0.03))
    run = open_run(fake_config_path, {})
    execute, fails = Run.execute, failing(*[NetworkError("the hub is silent")] * 2)
    monkeypatch.setattr(Run, "execute", lambda *args: fails() and execute(*args))
    console.walk(run, run.stages[:1])
    assert capsys.readouterr().out.count("the hub is silent: trying again in 0 s") == 2
    assert run.done(run.stages[0])


def test_stages_that_cannot_touch_the_network_are_the_offline_ones(fake_config_path: Path) -> None:
    run = open_run(fake_config_path, {})
    offline = {"clusters", "map", "round-000/selection", "round-001/selection", "report"}
    assert {s.name for s in run.stages if not s.network} == offline


# -- where such errors come from ------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_off() -> None:
    def rows() -> Any:
        yield 1
        raise ConnectionResetError("by peer")

    with pytest.raises(NetworkError, match="source cannot be read \\(ConnectionResetError: by peer\\)"):
        list(guarded(rows(), "source cannot be read", "wait"))


def test_a_url_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="cannot be opened"):
        open_source(Source(dataset="http://127.0.0.1:9/texts.jsonl"))


def test_a_hub_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(caused(OSError("not cached"), ConnectionError("no route"))))
    with pytest.raises(NetworkError, match="model 'some/model' cannot be had"):
        assets.model_folder("some/model")


def test_a_name_that_the_hub_does_not_know_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(Answered(404)))
    with pytest.raises(SaladError) as e:
        assets.model_folder("some/model")
    assert not isinstance(e.value, NetworkError)


def test_a_speaking_process_tells_which_it_was(tmp_path: Path) -> None:
    from salad.config import Voice

    engine = tmp_path / "engine.py"
    engine.write_text(
        "from salad.errors import NetworkError\n"
        "class Remote:\n"
        "    name = 'remote'\n"
        "    def voices(self): return []\n"
        "    def synthesize(self, texts, voice): raise NetworkError('its server is silent')\n"
    )
    workers = Workers(1, 10.0, -26.0)
    try:
        ticket = workers.submit([Job("a", Voice(engine=f"{engine}:Remote", voice="v"), ("one two",), (0,))])
        with pytest.raises(NetworkError, match="its server is silent"):
            ticket.takes()
    finally:
        workers.close()
