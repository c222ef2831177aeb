"""The same numbers on a GPU as on the processor. Skipped where there is none, so run this file on a machine that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from salad.config import load_config
from salad.devices import pick_device, pick_dtype
from salad.pipeline.stages import Run
from salad.trainer.divergence import distillation_loss
from salad.trainer.encoders import make_encoder
from salad.trainer.encoders.testing import check_encoder, sound
from salad.trainer.evaluate import answer, listener, reader
from salad.trainer.student import Student, StudentConfig, load_lm, new_student
from salad.whisper import ShortWhisper
from tests.fakes import RATE, ToneEngine, write_config
from tests.trainer.encoders.tiny import write_mimi
from tests.trainer.evaluate.test_choice import questions
from tests.trainer.test_divergence import assert_close, case, plain

here = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
SIZES: dict[str, Any] = {"encoder_width": 16, "encoder_frame_rate": 50.0, "layers": 1, "width": 16, "mlp": 32}
WAVE = ToneEngine().synthesize(["stir the warm"], "tone")[0].wave


def test_a_gpu_is_taken_where_there_is_one_and_nobody_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert pick_device().type == "cuda"
    assert pick_dtype() == torch.bfloat16
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device().type == "cpu"
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_and_its_gradients(dtype: torch.dtype, alpha: float, temperature: float) -> None:
    c = case(dtype=dtype)
    expected, expected_kl, gradients = plain(c, alpha, temperature)
    on_gpu = {k: v.detach().cuda().requires_grad_(v.requires_grad) for k, v in c.items()}
    loss, kl = distillation_loss(**on_gpu, alpha=alpha, chunk=7 * len(c["student_head"]), temperature=temperature)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    assert_close(loss.detach().cpu(), expected.detach(), close)
    assert_close(kl.cpu(), expected_kl.detach(), close)
    found = torch.autograd.grad(loss, [on_gpu["student_states"], on_gpu["student_head"]])
    for ours, theirs in zip(found, gradients, strict=True):
        assert_close(ours.cpu(), theirs, close)


@here
@pytest.mark.parametrize("kind", ["whisper", "mimi"])
def test_encoders(fake_models: dict[str, str], tmp_path: Path, kind: str) -> None:
    name = fake_models["encoder"] if kind == "whisper" else str(write_mimi(tmp_path))
    ours, theirs = make_encoder(name, torch.float32, "cuda"), make_encoder(name, torch.float32)
    check_encoder(ours)
    waves = [sound(ours, seconds) for seconds in (0.3, 1.0, 2.5)]
    for a, b in zip(ours.encode(waves), theirs.encode(waves), strict=True):
        assert a.device.type == "cpu"
        assert_close(a, b.double(), 1e-4)


@here
def test_the_asr(fake_models: dict[str, str]) -> None:
    waves = [WAVE, WAVE[: RATE // 2], WAVE[:0]]
    heard = [ShortWhisper(fake_models["encoder"], torch.float32, device).transcribe(waves) for device in ("cuda", "cpu")]
    assert heard[0] == heard[1]


def student_on(device: str, models: dict[str, str]) -> Student:
    teacher = load_lm(models["lm"], torch.float32, device)
    config = StudentConfig(lm=models["lm"], encoder=models["encoder"], heads=2, kv_heads=1, **SIZES)
    return new_student(config, teacher, seed=3).eval()


@here
@pytest.mark.parametrize("heard", [True, False])
def test_choices(fake_models: dict[str, str], heard: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    asked, found = questions(5, heard=heard), []
    for device in ("cuda", "cpu"):
        student = student_on(device, fake_models)
        who = listener(student) if heard else reader(student.language_model)
        found.append(answer(who, asked, tokenizer, shots=asked[0].context, normalise="prior").log_probs)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@here
def test_answers(fake_models: dict[str, str]) -> None:
    said = [student_on(d, fake_models).generate((WAVE, RATE), "the party", max_new_tokens=12) for d in ("cuda", "cpu")]
    assert said[0] == said[1]


@here
@pytest.mark.parametrize(
    ("lm", "teacher"), [("frozen", "states"), ("full", "states"), ("full", "cached"), ("lora", "online"), ("frozen", "cached")]
)
def test_a_whole_run(tmp_path: Path, fake_models: dict[str, str], monkeypatch: pytest.MonkeyPatch, lm: str, teacher: str) -> None:
    """Every stage but the report, one that ends early and a benchmark among them: D, M and F are the processor's."""
    student = {"adapter": {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}, "lm": lm}
    evaluate = {"benchmarks": ["continuation"], "items": 8, "bootstrap": 100}
    probe = {"per_cluster": 3, "heldout": 24}
    path = write_config(tmp_path, fake_models, student=student, evaluate=evaluate, probe=probe, rounds=1, control=False)
    changes = {"train.teacher": teacher, "train.top_k": 8, "train.early_stop": {"every": 1, "patience": 9}, "models.asr": None}
    found = []
    for name, hidden in (("gpu", "false"), ("cpu", "true")):
        monkeypatch.setenv("ACCELERATE_USE_CPU", hidden)
        run = Run(load_config(path, {"name": name, **changes}))
        for stage in run.stages[:-1]:
            run.execute(stage)
        assert run.models.device.type == ("cuda" if name == "gpu" else "cpu")
        stages = ("before/untrained", "stage-one/metrics", "round-000/metrics")
        measured = [json.loads((run.store.path(s) / "metrics.json").read_text())["all"] for s in stages]
        found.append([[m[k] for k in ("D", "M", "F")] for m in measured])
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3, atol=2e-4)
