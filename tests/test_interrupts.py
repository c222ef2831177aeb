"""Ctrl+C and SIGTERM: put off to the end of a block, never in the middle of a hand-over, and the end of the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from salad.cli import SAID
from salad.interrupts import put_off

ROOT = Path(__file__).parents[1]
BOTH = [signal.SIGINT, signal.SIGTERM]
# A command that no exception ends, as one whose library has lost a lock, beside a child that is told to stop.
STUCK = """
import os, signal, sys, threading, time
from salad import cli, interrupts
interrupts.end_within.__defaults__ = (0.3, "")

@cli.app.command()
def stuck():
    heard, teller = os.pipe()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
        os.write(teller, b"ready")
        while True:
            time.sleep(1)
    os.read(heard, 5)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    time.sleep(1)
    lock = threading.Lock()
    lock.acquire()
    say = lambda: print("stuck", flush=True)
    while True:
        try:
            say()
            say = lambda: None
            lock.acquire()
        except KeyboardInterrupt:
            pass

sys.argv = ["salad", "stuck"]
cli.main()
"""


@pytest.fixture(params=BOTH)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that raises KeyboardInterrupt."""
    found: signal.Signals = request.param
    before = signal.signal(found, signal.default_int_handler)
    yield found
    assert signal.getsignal(found) is signal.default_int_handler
    signal.signal(found, before)


def test_the_exception_comes_when_the_block_is_done(number: signal.Signals) -> None:
    done = []

    @put_off()
    def work(what: str) -> None:
        signal.raise_signal(number)
        done.append(what)

    for what in ("once", "again"):
        with pytest.raises(KeyboardInterrupt):
            work(what)
    assert done == ["once", "again"]
    with put_off():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_blocks_within_blocks_end_together(number: signal.Signals) -> None:
    done = []

    @put_off()
    def outer() -> None:
        with put_off():
            signal.raise_signal(number)
            done.append("inner")
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == ["inner", "outer"]


def test_an_error_in_the_block_is_the_exceptions_context(number: signal.Signals) -> None:
    @put_off()
    def work() -> None:
        signal.raise_signal(number)
        raise ValueError("what went wrong")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)


def test_in_another_thread_nothing_is_changed() -> None:
    found = []

    def work() -> None:
        with put_off():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("to", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_that_raises_nothing_is_left_as_it_is(to: signal.Handlers) -> None:
    before = signal.signal(signal.SIGTERM, to)
    try:
        with put_off():
            assert signal.getsignal(signal.SIGTERM) is to
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["runner", "ticket"])
def test_ctrl_c_at_any_step_of_a_hand_over_leaves_nobody_waiting(work: str) -> None:
    """Before `put_off` every fourth of such steps left a thread waiting for ever, and the process with it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.every_step", work, "300"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    stopped = json.loads(done.stdout)["stopped"]
    statuses = [status for status, _ in stopped]
    assert len(statuses) == 300
    assert [where for status, where in stopped if status not in (0, 130)] == []
    assert statuses.count(130) > 150  # the rest were through before: how often a wait looks up differs


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("sent", BOTH)
def test_a_command_that_no_exception_ends_is_ended(sent: signal.Signals, read: bool) -> None:
    """read: by somebody, what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "stuck\n"
        if not read:
            process.stderr.close()
        began = time.monotonic()
        os.kill(process.pid, sent)
        assert process.wait(60) == 128 + sent
        assert time.monotonic() - began >= 0.3
        assert not read or process.stderr.read() == f"{SAID}\n"
