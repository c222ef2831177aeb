"""Training lowers the true KL, stops where it must, and resumes to the very same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salad.errors import SaladError
from salad.trainer.data import Example
from salad.trainer.evaluate import measure
from salad.trainer.interleave import Span
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, load_lm, load_student, new_student
from salad.trainer.targets import FromStates
from salad.trainer.train import Recipe, distil

STACK = 4


@pytest.fixture(scope="module")
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


@pytest.fixture(scope="module")
def examples(teacher: Any) -> list[Example]:
    """Texts whose sound tells their words: frame features are a code of the spoken tokens."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=(teacher.config.vocab_size, 16)).astype(np.float16)
    made = []
    for i in range(48):
        tokens = np.concatenate([[0], rng.integers(1, 40, 6), rng.integers(1, 40, int(rng.integers(4, 9)))])
        n = len(tokens) - 1
        with torch.inference_mode():
            states = teacher.get_decoder()(input_ids=torch.from_numpy(tokens)[None]).last_hidden_state[0]
        targets = states[6:n].to(torch.bfloat16).view(torch.int16).numpy()
        frames = np.repeat(code[tokens[1:7]], STACK, axis=0)
        made.append(
            Example(str(i), tokens, [(j, j + 1) for j in range(n)], [Span("speech", 0, 6), Span("text", 6, n)], [frames], targets)
        )
    return made


def student_of(teacher: Any) -> Student:
    config = StudentConfig(lm="tiny", encoder_width=16, encoder_frame_rate=50.0, layers=1, width=32, mlp=64, heads=2, kv_heads=1)
    return new_student(config, teacher, seed=1)


def recipe(steps: int = 60, **changes: Any) -> Recipe:
    numbers: dict[str, Any] = {
        "steps": steps, "decay_steps": 10, "warmup_steps": 4, "batch_size": 8, "accumulate": 1, "adapter_lr": 3e-3, "lm_lr": 1e-4,
        "weight_decay": 0.1, "bf16": False, "save_steps": 7, "seed": 0,
    }  # fmt: skip
    return Recipe(**{**numbers, **changes})


def train(teacher: Any, examples: list[Example], out: Path, r: Recipe, **options: Any) -> tuple[Student, list[dict[str, float]]]:
    out.mkdir(exist_ok=True)
    student = student_of(teacher)
    schedule = make_schedule({"natural": examples}, {"natural": 1.0}, r.steps * r.accumulate, r.batch_size, STACK, r.seed)
    log = distil(student, FromStates(teacher.get_output_embeddings().weight), schedule, r, out, **options)
    return student, log


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_logged_kl_is_the_true_one_and_falls(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    before = float(np.average(*_means(measure(student_of(teacher), teacher, examples))))
    student, log = train(teacher, examples, tmp_path / "a", recipe())
    assert log[0]["kl"] == pytest.approx(before, rel=0.3), "the first batch's KL is near that of the untrained student"
    after = float(np.average(*_means(measure(student, teacher, examples))))
    assert after < 0.7 * before
    assert np.mean([row["kl"] for row in log[-6:]]) == pytest.approx(after, rel=0.25)
    assert [row["step"] for row in log] == list(range(1, 61))
    assert [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()] == log


def _means(found: Any) -> tuple[np.ndarray, None, np.ndarray]:
    return found.divergence, None, found.n_positions


def test_warm_up_stable_decay(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    _, log = train(teacher, examples, tmp_path / "a", recipe(30))
    rates = [row["learning_rate"] for row in log]
    assert rates[0] < rates[3] < 3e-3 + 1e-9
    assert rates[5:20] == [pytest.approx(3e-3)] * 15
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3


def test_the_stable_checkpoint_is_from_before_the_decay(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    # Whole windows of the schedule, so that both see the same 32 batches first.
    train(teacher, examples, tmp_path / "long", recipe(48, decay_steps=16))
    train(teacher, examples, tmp_path / "longer", recipe(64, decay_steps=32))
    assert weights(tmp_path / "long/stable") == weights(tmp_path / "longer/stable")
    assert weights(tmp_path / "long/final") != weights(tmp_path / "long/stable")
    assert load_student(tmp_path / "long/final", teacher).config.stack == STACK


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_and_resumed_gives_the_same_weights(
    teacher: Any, examples: list[Example], tmp_path: Path, accumulate: int
) -> None:
    r = recipe(24, accumulate=accumulate)
    _, whole = train(teacher, examples, tmp_path / "whole", r)

    class Killed(Exception):
        pass

    for at in (10, 17):

        def stop(step: int, at: int = at) -> None:
            if step == at:
                raise Killed

        with pytest.raises(Killed):
            train(teacher, examples, tmp_path / "parts", r, progress=stop)
    steps: list[int] = []
    _, resumed = train(teacher, examples, tmp_path / "parts", r, progress=steps.append)
    assert steps[0] == 15, "it goes on after the checkpoint of step 14"
    assert weights(tmp_path / "parts/final") == weights(tmp_path / "whole/final")
    assert weights(tmp_path / "parts/stable") == weights(tmp_path / "whole/stable")
    assert [row["kl"] for row in resumed] == [row["kl"] for row in whole]


def test_accumulated_batches_are_one_batch(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    one, _ = train(teacher, examples, tmp_path / "one", recipe(6, batch_size=8, decay_steps=1))
    two, _ = train(teacher, examples, tmp_path / "two", recipe(6, batch_size=4, accumulate=2, decay_steps=1))
    first = {}
    for name in ("one", "two"):
        first[name] = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])
    # The order groups by length, so the batches differ a little; a wrong scale would be off by 2.
    assert first["two"]["kl"] == pytest.approx(first["one"]["kl"], rel=0.3)
    assert first["two"]["grad_norm"] == pytest.approx(first["one"]["grad_norm"], rel=0.6)
    assert one.num_parameters() == two.num_parameters()


def test_a_loss_that_is_not_finite_stops_with_advice(teacher: Any, examples: list[Example], tmp_path: Path) -> None:
    bad = [Example(e.id, e.tokens, e.offsets, e.spans, [np.full_like(e.frames[0], np.nan)], e.targets) for e in examples]
    with pytest.raises(SaladError, match="loss became nan at step 1"):
        train(teacher, bad, tmp_path / "a", recipe(4, decay_steps=1))


def test_schedule_mixes_by_weight_and_repeats_epochs(examples: list[Example]) -> None:
    few = examples[:5]
    schedule = make_schedule({"natural": examples[5:], "synthetic": few}, {"natural": 1, "synthetic": 1}, 100, 4, STACK, 0)
    assert len(schedule) == 400
    ids = [schedule[i].id for i in range(400)]
    synthetic = sum(i in {e.id for e in few} for i in ids)
    assert 160 < synthetic < 240
    counts = np.array([ids.count(e.id) for e in few])
    assert counts.max() - counts.min() <= 1, "every epoch shows each text once"
    again = make_schedule({"natural": examples[5:], "synthetic": few}, {"natural": 1, "synthetic": 1}, 100, 4, STACK, 0)
    assert (again.order == schedule.order).all()
    other = make_schedule({"natural": examples[5:], "synthetic": few}, {"natural": 1, "synthetic": 1}, 100, 4, STACK, 1)
    assert (other.order != schedule.order).any()


def test_batches_group_by_length(examples: list[Example]) -> None:
    schedule = make_schedule({"natural": examples}, {"natural": 1}, 60, 8, STACK, 0)
    lengths = np.array([schedule[i].length(STACK) for i in range(len(schedule))]).reshape(-1, 8)
    padded = (lengths.max(1) * 8).sum() / lengths.sum()
    assert padded < 1.06
