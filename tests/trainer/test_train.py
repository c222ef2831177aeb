"""Training lowers the true KL, stops where it must, and resumes to the very same weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salad.errors import SaladError
from salad.trainer import schedule
from salad.trainer.data import Example
from salad.trainer.decisions import MARK, Decisions, last_whole, remove_broken
from salad.trainer.evaluate import measure
from salad.trainer.rates import EarlyStop
from salad.trainer.student import Student, load_lm, load_student
from salad.trainer.targets import FromStates
from tests.trainer.heard import STACK, make_examples, recipe, student_of, train, weights


@pytest.fixture(scope="module")
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


@pytest.fixture(scope="module")
def examples(teacher: Any) -> list[Example]:
    return make_examples(teacher)


@pytest.fixture(scope="module")
def mixed(teacher: Any) -> list[Example]:
    return make_examples(teacher) + make_examples(teacher, 24, spoken=False)


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[int], None]:
    def stop(now: int) -> None:
        if now == step:
            raise Killed

    return stop


def test_the_logged_kl_is_the_true_one_and_falls(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    before = float(np.average(*_means(measure(student_of(teacher), teacher, examples))))
    student, log = train(teacher, examples, tmp_path / "a", recipe())
    assert log[0]["kl"] == pytest.approx(before, rel=0.3), "the first batch's KL is near that of the untrained student"
    after = float(np.average(*_means(measure(student, teacher, examples))))
    assert after < 0.7 * before
    assert np.mean([row["kl"] for row in log[-6:]]) == pytest.approx(after, rel=0.25)
    assert [row["step"] for row in log] == list(range(1, 61))
    assert [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()] == log
    assert set(log[0]) == {"step", "kl", "loss", "grad_norm", "learning_rate", "positions"}
    assert sum(row["positions"] for row in log) == pytest.approx(60 * 8 * np.mean([len(e.targets) for e in examples]), rel=0.01)


def _means(found: Any) -> tuple[np.ndarray, None, np.ndarray]:
    return found.divergence, None, found.n_positions


def test_warm_up_stable_decay(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    _, log = train(teacher, examples, tmp_path / "a", recipe(30))
    rates = [row["learning_rate"] for row in log]
    assert rates[0] < rates[3] < 3e-3 + 1e-9
    assert rates[5:20] == [pytest.approx(3e-3)] * 15
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3


def test_the_stable_checkpoint_is_from_before_the_decay(
    teacher: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "WINDOW", 4)  # whole windows, so that both see the same 8 batches first
    train(teacher, examples, tmp_path / "long", recipe(12, decay_steps=4))
    train(teacher, examples, tmp_path / "longer", recipe(16, decay_steps=8))
    assert weights(tmp_path / "long/stable") == weights(tmp_path / "longer/stable")
    assert weights(tmp_path / "long/final") != weights(tmp_path / "long/stable")
    assert load_student(tmp_path / "long/final", teacher).config.stack == STACK


@pytest.mark.parametrize(
    "changes",
    [
        {"lm_training": "full", "accumulate": 2, "clip": 0.01},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"lm_training": "full", "gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param({"lm_training": "lora"}, marks=pytest.mark.slow),
        pytest.param({"save_steps": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_and_resumed_gives_the_same_weights(
    teacher: Any, mixed: list[Example], tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = {k: v for k, v in changes.items() if k == "lm_training"}
    r = recipe(24, **{k: v for k, v in changes.items() if k not in options})
    _, whole = train(teacher, mixed, tmp_path / "whole", r, **options)
    for at in (10, 17):
        with pytest.raises(Killed):
            train(teacher, mixed, tmp_path / "parts", r, progress=kill_at(at), **options)
    steps: list[int] = []
    _, resumed = train(teacher, mixed, tmp_path / "parts", r, progress=steps.append, **options)
    assert steps[0] == (16 if r.save_steps == 3 else 15), "it goes on after the last checkpoint"
    _same(tmp_path / "parts", tmp_path / "whole")
    assert resumed == whole


def _same(a: Path, b: Path) -> None:
    for name in ("stable", "final"):
        assert weights(a / name) == weights(b / name), name
    assert (a / "log.jsonl").read_bytes() == (b / "log.jsonl").read_bytes()


@pytest.mark.parametrize(
    "part", [MARK, *(pytest.param(part, marks=pytest.mark.slow) for part in ("optimizer.pt", "trainer_state.json"))]
)
def test_killed_in_the_middle_of_a_save(
    teacher: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    r = recipe(16, save_steps=5, decay_steps=4)
    train(teacher, examples, tmp_path / "whole", r)
    with monkeypatch.context() as patch:
        _die_writing(patch, part, folder="checkpoint-10")
        with pytest.raises(Killed):
            train(teacher, examples, tmp_path / "parts", r)
    work = tmp_path / "parts/_trainer"
    assert (work / "checkpoint-10").exists()
    assert last_whole(work) == work / "checkpoint-5"
    train(teacher, examples, tmp_path / "parts", r)
    _same(tmp_path / "parts", tmp_path / "whole")


def _die_writing(patch: pytest.MonkeyPatch, part: str, folder: str) -> None:
    from transformers.trainer_callback import TrainerState

    def dying(real: Callable[..., None], at: int, name: str = "") -> Callable[..., None]:
        def write(*args: Any) -> None:
            path = Path(args[at]) / name
            if path.parent.name == folder and path.name.startswith(part):
                path.write_bytes(b"half")
                raise Killed
            real(*args)

        return write

    patch.setattr(torch, "save", dying(torch.save, 1))
    patch.setattr(TrainerState, "save_to_json", dying(TrainerState.save_to_json, 1))
    patch.setattr(Decisions, "write", dying(Decisions.write, 1, MARK + ".tmp"))


def test_broken_checkpoints_make_room(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    Decisions(7, True, [(3, 0.25)]).write(tmp_path / "checkpoint-5")
    (tmp_path / f"checkpoint-10/{MARK}.tmp").write_text("{")
    remove_broken(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]
    kept = Decisions(0)
    kept.read(tmp_path / "checkpoint-5")
    assert kept == Decisions(7, True, [(3, 0.25)])
    assert last_whole(tmp_path / "nowhere") is None


def test_nothing_pickled_is_loaded(
    teacher: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        train(teacher, examples, tmp_path / "a", recipe(16), progress=kill_at(9))
    checkpoint = tmp_path / "a/_trainer/checkpoint-7"
    assert not (checkpoint / "training_args.bin").exists()
    loaded, real = [], torch.load

    def load(*args: Any, **kwargs: Any) -> Any:
        loaded.append((Path(str(args[0])).name, kwargs.get("weights_only")))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    train(teacher, examples, tmp_path / "a", recipe(16))
    assert dict(loaded) == {"optimizer.pt": True, "scheduler.pt": True, "rng_state.pth": True}


def test_a_resumed_run_reads_nothing_that_was_seen(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    r = recipe(24, accumulate=2)
    with pytest.raises(Killed):
        train(teacher, examples, tmp_path / "a", r, progress=kill_at(15))
    read: list[int] = []
    real = schedule.Schedule.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule.Schedule, "__getitem__", lambda self, i: read.append(i) or real(self, i))
        train(teacher, examples, tmp_path / "a", r)
    assert read == list(range(14 * 2 * 8, 24 * 2 * 8))


class Scripted:
    """D as it is told, whoever asks; what was asked for."""

    def __init__(self, values: list[float]) -> None:
        self.values, self.students = values, []

    def __call__(self, student: Student) -> float:
        self.students.append(student)
        student.eval()
        return self.values[len(self.students) - 1]


STOP = EarlyStop(every=3, patience=2, least=0.01)


def test_stable_steps_end_when_d_no_longer_falls(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    r = recipe(40, decay_steps=6, early_stop=STOP)
    told = Scripted([3.0, 2.0, 1.99, 1.985])
    _, log = train(teacher, examples, tmp_path / "a", r, measure=told)
    assert {row["step"]: row["D"] for row in log if "D" in row} == {6: 3.0, 9: 2.0, 12: 1.99, 15: 1.985}
    assert len(log) == 15 + 6
    rates = [row["learning_rate"] / 3e-3 for row in log]
    assert rates[4:16] == [pytest.approx(1)] * 12
    assert rates[15:] == [pytest.approx(1 - i / 6) for i in range(6)]
    falls = Scripted([3.0 * 0.9**i for i in range(40)])
    _, log = train(teacher, examples, tmp_path / "b", r, measure=falls)
    assert len(log) == 40
    assert max(row["step"] for row in log if "D" in row) == 33, "the decay is not measured"


@pytest.mark.parametrize(
    "kills", [(12, 14), pytest.param((8, 13), marks=pytest.mark.slow), pytest.param((16, 17), marks=pytest.mark.slow)]
)
def test_early_stop_resumes_to_the_same_end(
    teacher: Any, examples: list[Example], tmp_path: Path, kills: tuple[int, ...]
) -> None:
    r = recipe(40, decay_steps=6, early_stop=EarlyStop(every=3, patience=1, least=0.1), save_steps=4)

    def probes(student: Student) -> float:
        torch.rand(3)  # a measurement may draw; training must not notice
        return float(measure(student, teacher, examples[:16]).divergence.mean())

    train(teacher, examples, tmp_path / "whole", r, measure=probes)
    for at in kills:
        with pytest.raises(Killed):
            train(teacher, examples, tmp_path / "parts", r, measure=probes, progress=kill_at(at))
    _, log = train(teacher, examples, tmp_path / "parts", r, measure=probes)
    assert len(log) == 12 + 6
    _same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("early_stop", [None, STOP])
def test_killed_between_the_last_step_and_the_last_checkpoint(
    teacher: Any, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early_stop: EarlyStop | None
) -> None:
    r = recipe(18, decay_steps=3, save_steps=3, early_stop=early_stop)
    told = [3.0, 3.0, 3.0] + [1.0] * 9
    _, whole = train(teacher, examples, tmp_path / "whole", r, measure=Scripted(told))
    assert len(whole) == (15 if early_stop else 18)
    with monkeypatch.context() as patch:
        real = Student.save_pretrained
        patch.setattr(
            Student, "save_pretrained", lambda s, f, **k: _raise(Killed)(f) if Path(f).name == "final" else real(s, f, **k)
        )
        with pytest.raises(Killed):
            train(teacher, examples, tmp_path / "parts", r, measure=Scripted(told))
    steps: list[int] = []
    train(teacher, examples, tmp_path / "parts", r, measure=Scripted(told), progress=steps.append)
    assert steps == [], "there was nothing left to do but to write it"
    _same(tmp_path / "parts", tmp_path / "whole")


def test_a_divergence_that_is_no_number_stops(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(SaladError, match="divergence on the probes became nan at step 6"):
        train(teacher, examples, tmp_path / "a", recipe(40, early_stop=STOP), measure=Scripted([np.nan]))


def test_accumulated_batches_are_one_batch(
    teacher: Any, mixed: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_group_by_length", lambda order, *rest: order)  # the same samples a step
    logs = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        r = recipe(12, batch_size=batch_size, accumulate=accumulate, decay_steps=2)
        logs.append(train(teacher, mixed, tmp_path / str(accumulate), r, lm_training="full")[1])
    for one, four in zip(*logs, strict=True):
        assert four == pytest.approx(one, rel=1e-3, abs=1e-6)


def test_a_loss_that_is_not_finite_names_the_sample_and_the_checkpoint(
    teacher: Any, examples: list[Example], tmp_path: Path
) -> None:
    r = recipe(12, decay_steps=2, save_steps=1)
    order = schedule.make_schedule({"natural": examples}, {"natural": 1}, r.steps, r.batch_size, STACK, r.seed)
    seen = {order[i].id: i // 8 + 1 for i in reversed(range(len(order)))}
    name, first = max(seen.items(), key=lambda item: item[1])
    bad = [_deafening(e) if e.id == name else e for e in examples]
    with pytest.raises(SaladError, match=f"loss became nan at step {first}, samples {name}: .*_trainer/checkpoint-{first - 1}$"):
        train(teacher, bad, tmp_path / "a", r)
    assert not (tmp_path / "a/final").exists()
    assert last_whole(tmp_path / "a/_trainer") == tmp_path / f"a/_trainer/checkpoint-{first - 1}"


def _deafening(e: Example) -> Example:
    return Example(e.id, e.tokens, e.offsets, e.spans, [np.full_like(e.frames[0], np.nan)], e.targets)


def test_a_gradient_that_is_not_finite_stops_before_its_step(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    plain, calls = FromStates(teacher.get_output_embeddings().weight), []

    def steep(batch: Any, states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor) -> Any:
        loss, kl = plain(batch, states, head, weights)
        calls.append(batch["ids"])
        return loss + (0 * states.sum()).sqrt() if len(calls) == 6 else loss, kl

    with pytest.raises(SaladError, match="gradient's norm became nan at step 6, samples ") as e:
        train(teacher, examples, tmp_path / "a", recipe(24, save_steps=5), loss=steep)
    assert all(name in str(e.value) for name in calls[5])
    assert "checkpoint-5" in str(e.value)


def exhausted(teacher: Any, most: int, step: int = 1, when: str = "forward", error: type[BaseException] = MemoryError) -> Any:
    """A loss that finds no memory for more than `most` samples at a time, from its so-manieth call on."""
    plain, calls = FromStates(teacher.get_output_embeddings().weight), []

    def loss(batch: Any, states: torch.Tensor, head: torch.Tensor, weights: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) >= step and len(batch["ids"]) > most:
            if when == "forward":
                raise error("CUDA out of memory. Tried to allocate 20.00 MiB.")
            states.register_hook(_raise(error))
        return plain(batch, states, head, weights)

    return loss


def _raise(error: type[BaseException]) -> Callable[[torch.Tensor], None]:
    def hook(gradient: torch.Tensor) -> None:
        raise error("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried …")

    return hook


@pytest.mark.parametrize(
    ("when", "error", "accumulate"),
    [
        ("backward", RuntimeError, 3),
        pytest.param("forward", torch.OutOfMemoryError, 1, marks=pytest.mark.slow),
        pytest.param("forward", MemoryError, 3, marks=pytest.mark.slow),
    ],
)
def test_a_batch_is_halved_once_and_the_gradient_is_the_same(
    teacher: Any, mixed: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str, error: Any, accumulate: int
) -> None:
    r = recipe(8, decay_steps=2, accumulate=accumulate)
    _, plain = train(teacher, mixed, tmp_path / "plain", r, lm_training="full")
    scarce = exhausted(teacher, most=4, step=accumulate * 2 + 1 + accumulate // 2, when=when, error=error)
    with caplog.at_level(logging.WARNING):
        _, halved = train(teacher, mixed, tmp_path / "halved", r, lm_training="full", loss=scarce)
    for a, b in zip(plain, halved, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-6)
    assert [m.message for m in caplog.records if m.name.startswith("salad")] == [
        "out of memory at step 3: from here on every batch is done in two halves (train.batch_size)"
    ]


def test_memory_that_runs_out_twice_is_a_clear_stop(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    advice = "train.batch_size.*gradient_checkpointing.*interleave.max_positions"
    with pytest.raises(SaladError, match=f"out of memory at step 5, and half a batch did not fit either: .*{advice}"):
        train(teacher, examples, tmp_path / "a", recipe(12), loss=exhausted(teacher, most=3, step=5))
    with pytest.raises(SaladError, match="with one sample a batch"):
        train(teacher, examples, tmp_path / "b", recipe(12, batch_size=1), loss=exhausted(teacher, most=0))
    with pytest.raises(RuntimeError, match="inconsistent"):
        train(teacher, examples, tmp_path / "c", recipe(12), loss=lambda *a: torch.ones(2) @ torch.ones(3))


def test_a_halved_run_resumes_to_the_same_weights(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    r = recipe(16, decay_steps=4, save_steps=4)
    train(teacher, examples, tmp_path / "whole", r, loss=exhausted(teacher, most=4, step=6))
    with pytest.raises(Killed):
        train(teacher, examples, tmp_path / "parts", r, loss=exhausted(teacher, most=4, step=6), progress=kill_at(10))
    train(teacher, examples, tmp_path / "parts", r)  # memory is no longer scarce; the way stays the same
    _same(tmp_path / "parts", tmp_path / "whole")
    train(teacher, examples, tmp_path / "plain", r)
    assert weights(tmp_path / "plain/final") != weights(tmp_path / "whole/final"), "or this shows nothing"


def test_checkpointed_activations_change_nothing(teacher: Any, mixed: list[Example], tmp_path: Path) -> None:
    for name in (False, True):
        train(teacher, mixed, tmp_path / str(name), recipe(6, decay_steps=2, gradient_checkpointing=name), lm_training="full")
    assert (tmp_path / "True/log.jsonl").read_bytes() == (tmp_path / "False/log.jsonl").read_bytes()
