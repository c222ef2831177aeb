"""Many processes say the same as one, and whatever breaks in them costs its own text and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from salad import audio
from salad.config import Voice
from salad.errors import SaladError
from salad.tts import workers
from salad.tts.takes import Job, Take
from salad.tts.workers import Alone, Speakers, Workers, batches
from tests import faulty

VOICE = Voice(engine=faulty.HERE, voice="tone")
LEVEL = -26.0
FAULTS = {
    "killed": "worker was killed (signal 9)",
    "leaves": "worker ended with status 3",
    "hangs": "no answer in 2 s",
    "fills": "out of memory",
    "raises": "engine failed (RuntimeError: the engine's own mistake)",
    "loses": "engine failed (RuntimeError: 1 sounds for 2 texts)",
    "nothing": "no sound",
    "silence": "silent",
    "nan": "sound is not finite",
    "slower": "wrong rate",
}


def job(key: str, *segments: str, **more: object) -> Job:
    return Job(key, VOICE, segments, tuple(range(len(segments))), **more)  # type: ignore[arg-type]


def jobs(n: int, word: str = "plain") -> list[Job]:
    return [job(f"{word}{i}", f"{word} words " + "and more " * (i % 7), f"tail {i}") for i in range(n)]


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setenv("SALAD_FAULTY", str(tmp_path))
    found = Workers(2, time_limit=2.0, level=LEVEL)
    yield found
    found.close()


def same(a: Take, b: Take) -> bool:
    return (a.flac, a.ends, a.fault, a.measures) == (b.flac, b.ends, b.fault, b.measures)


def test_two_processes_say_what_one_says(pool: Workers) -> None:
    given = jobs(20)
    many, alone = pool.submit(given).takes(), Alone(LEVEL).submit(given).takes()
    assert set(many) == {j.key for j in given}
    assert all(same(many[k], alone[k]) for k in many)
    assert all(t.fault is None for t in many.values())
    wave, rate = audio.from_bytes(many["plain3"].flac)
    assert (len(wave), rate) == (many["plain3"].ends[-1], many["plain3"].rate)


def test_batches_go_by_length_and_do_not_depend_on_the_order_of_jobs() -> None:
    given = jobs(21)
    found = batches(given)
    lengths = [j.chars for b in found for j in b]
    assert lengths == sorted(lengths, reverse=True)
    assert {len(b) for b in found[:-1]} == {workers.BATCH}
    assert batches(reversed(given)) == found
    other = [Job("x", Voice(engine=faulty.HERE, voice="tone", pitch=2), ("a",), (0,))]
    assert {len({j.voice.who for j in b}) for b in batches([*given, *other])} == {1}


def test_a_fault_costs_its_own_text_and_no_other(pool: Workers) -> None:
    """Every text once more, alone and elsewhere; then its reason. Nothing is lost, nothing said twice."""
    given = {word: [*jobs(5), job("bad", f"this one {word}", "after it"), *jobs(6, "later")] for word in FAULTS}
    tickets = {word: pool.submit(of_word) for word, of_word in given.items()}
    alone = Alone(LEVEL).submit([j for j in given["nan"] if j.key != "bad"]).takes()
    for word, ticket in tickets.items():
        takes = ticket.takes()
        assert sorted(takes) == sorted(j.key for j in given[word])
        assert (word, takes["bad"].fault) == (word, FAULTS[word])
        assert takes["bad"].flac == b""
        assert all(same(takes[k], alone[k]) for k in alone)


@pytest.mark.slow
def test_many_faults_in_one_batch(pool: Workers) -> None:
    given = [*jobs(5), *(job(word, f"this one {word}", "after it") for word in FAULTS if word != "hangs"), *jobs(5, "later")]
    takes = pool.submit(given).takes()
    assert {k: t.fault for k, t in takes.items() if t.fault} == {w: f for w, f in FAULTS.items() if w != "hangs"}
    assert sum(t.fault is None for t in takes.values()) == 10


@pytest.mark.slow
def test_what_breaks_once_is_said_at_the_second_try(pool: Workers) -> None:
    tickets = {word: pool.submit([*jobs(3), job("bad", f"once {word} here")]) for word in FAULTS}
    for word, ticket in tickets.items():
        takes = ticket.takes()
        assert (word, [t.fault for t in takes.values()]) == (word, [None] * 4)
        assert takes["bad"].ends[-1] > 0


def test_the_second_try_is_in_another_process(pool: Workers, tmp_path: Path) -> None:
    pool.submit([job("a", "once nan")]).takes()
    assert pool._serial == 2  # with one worker busy a second one was started for it


def test_one_worker_alone_is_replaced_for_the_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_FAULTY", str(tmp_path))
    single = Workers(1, 1.0, LEVEL)
    takes = single.submit([*jobs(2), job("bad", "once silence"), job("worse", "silence")]).takes()
    single.close()
    assert {k: t.fault for k, t in takes.items()} == {"plain0": None, "plain1": None, "bad": None, "worse": "silent"}


def test_alone_a_broken_sound_is_tried_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_FAULTY", str(tmp_path))
    takes = Alone(LEVEL).submit([job("a", "once raises"), job("b", "raises"), job("c", "once nothing"), job("d", "fine")]).takes()
    assert {k: t.fault for k, t in takes.items()} == {"a": None, "b": FAULTS["raises"], "c": None, "d": None}


def test_tickets_are_served_in_their_order_and_a_dropped_one_is_left(pool: Workers) -> None:
    first, dropped, last = pool.submit(jobs(10)), pool.submit(jobs(400, "unwanted")), pool.submit(jobs(10, "wanted"))
    dropped.drop()
    assert len(last.takes()) == len(first.takes()) == 10


def test_progress_counts_seconds_of_speech(pool: Workers) -> None:
    seen: list[float] = []
    takes = pool.submit(jobs(30)).takes(seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(sum(t.ends[-1] / t.rate for t in takes.values()))


def test_no_jobs_no_wait(pool: Workers) -> None:
    assert pool.submit([]).takes() == {}


@pytest.mark.parametrize("make", [lambda: Alone(LEVEL), lambda: Workers(2, 1.0, LEVEL)])
def test_an_engine_that_cannot_speak_at_all_is_one_error(make: object, tmp_path: Path) -> None:
    engine = tmp_path / "mute.py"
    engine.write_text(
        "from tests.fakes import ToneEngine\n"
        "class Mute(ToneEngine):\n"
        "    def synthesize(self, texts, voice):\n"
        "        raise ValueError('no model')\n"
    )
    speakers: Speakers = make()  # type: ignore[operator]
    mute = Job("a", Voice(engine=f"{engine}:Mute", voice="tone"), ("hello",), (0,))
    with pytest.raises(SaladError, match=r"cannot speak \(ValueError: no model\)"):
        speakers.submit([mute]).takes()
    assert speakers.submit(jobs(1)).takes()["plain0"].fault is None  # the next order is not harmed
    speakers.close()


def test_workers_that_only_die_end_the_stage(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FRUITLESS", 3)
    with pytest.raises(SaladError, match=r"3 processes that spoke broke one after the other: worker was killed"):
        pool.submit([job(str(i), "killed") for i in range(9)]).takes()


def test_a_worker_that_dies_while_its_model_loads_costs_no_try(pool: Workers, tmp_path: Path) -> None:
    """Five such deaths, two of them at a text's second try."""
    weak = Voice(engine=faulty.DIES_LOADING, voice="tone")
    for deaths, text in [(3, "fine"), (2, "once killed")]:  # the second by a worker that is warm
        for i in range(deaths):
            (tmp_path / f"death-{i}").touch()
        takes = pool.submit([Job("a", weak, (text,), (0,))]).takes()
        assert takes["a"].fault is None
        assert list(tmp_path.glob("death-*")) == []


def test_a_whole_text_cannot_be_cut_by_an_engine_without_times(pool: Workers) -> None:
    with pytest.raises(SaladError, match="does not say when words are heard"):
        pool.submit([job("a", "one", "two", whole=True)]).takes()


def test_sounds_for_the_asr_come_at_its_rate(pool: Workers) -> None:
    takes = pool.submit([job("a", "listen to this", "and this", listen=True), job("b", "not to this")]).takes()
    assert takes["b"].heard is None
    heard = takes["a"].heard
    assert heard is not None
    seconds = np.diff([0, *takes["a"].ends]) / takes["a"].rate
    assert [len(w) / 16_000 for w in heard] == pytest.approx(seconds.tolist(), abs=1e-3)


def test_close_ends_the_processes_and_can_be_called_twice(pool: Workers) -> None:
    pool.submit(jobs(20)).takes()
    started = [w._process for w in pool._workers]
    assert started
    pool.close()
    pool.close()
    assert all(p.poll() is not None for p in started)
    assert len(pool.submit(jobs(1)).takes()) == 1


PARENT = """
import sys, time
from salad.tts.workers import Workers
from tests.tts.test_workers import job
pool = Workers(2, 600.0, -26.0)
ticket = pool.submit([job(str(i), "hangs") for i in range(16)])
while sum(w.batch is not None for w in pool._workers) < 2:
    time.sleep(0.05)
time.sleep(1.0)
print(*pool.processes(), flush=True)
ticket.takes()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_do_not_outlive_their_parent(sent: int, tmp_path: Path) -> None:
    """Even those that hang in the middle of a text."""
    env = {**os.environ, "SALAD_FAULTY": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(sent)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while (left := [p for p in pids if Path(f"/proc/{p}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
