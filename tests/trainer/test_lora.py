"""LoRA on shared weights: the teacher stays itself to the bit, nothing is held or stored twice, updates come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from salad.errors import SaladError
from salad.trainer import lora
from salad.trainer.student import Student, StudentConfig, load_lm, load_student, new_student

SETTINGS = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}
IDS = torch.arange(12)[None]


@pytest.fixture
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


def student_of(teacher: Any, name: str = "tiny", **changes: Any) -> Student:
    sizes = {"encoder_width": 16, "encoder_frame_rate": 50.0, "layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}
    return new_student(StudentConfig(name, "lora", lora={**SETTINGS, **changes}, **sizes), teacher, seed=3)


def disturb(student: Student) -> None:
    torch.manual_seed(9)
    for name, p in student.lora.named_parameters():
        assert p.requires_grad
        if ".B." in name:
            assert not p.any(), "B starts at nothing"
            p.data.normal_()


def logits(lm: Any) -> torch.Tensor:
    with torch.no_grad():
        return lm(input_ids=IDS, use_cache=False).logits


def test_the_teacher_is_untouched_to_the_bit(teacher: Any) -> None:
    before, names = logits(teacher), [n for n, _ in teacher.named_modules()]
    student = student_of(teacher)
    assert torch.equal(logits(student.language_model), before), "updates start without effect"
    disturb(student)
    student.train()
    assert not torch.allclose(logits(student.language_model), before, atol=0.1)
    assert torch.equal(logits(teacher), before)
    assert [n for n, _ in teacher.named_modules()] == names
    assert not any(m.training for m in teacher.modules())


def test_no_weight_of_the_lm_exists_twice(teacher: Any) -> None:
    student = student_of(teacher)
    theirs = {p.data_ptr() for p in teacher.parameters()}
    base = [p for n, p in student.language_model.named_parameters() if "lora_" not in n]
    assert base
    assert {p.data_ptr() for p in base} == theirs
    assert student.head() is teacher.get_output_embeddings().weight


def test_only_adapter_and_updates_are_parameters_and_train(teacher: Any) -> None:
    student = student_of(teacher)
    names = [n for n, _ in student.named_parameters()]
    assert {n.split(".")[0] for n in names} == {"adapter", "lora"}
    assert [n for n, p in student.named_parameters() if not p.requires_grad] == ["adapter.body.embed_tokens.weight"]
    assert sum(n.startswith("lora.") for n in names) == 2 * 2 * 2, "A and B, two targets, two layers"
    assert not student.lm_is_frozen


def test_updates_are_float32_beside_a_bfloat16_lm(fake_models: dict[str, str]) -> None:
    student = student_of(load_lm(fake_models["lm"], torch.bfloat16))
    assert {p.dtype for p in student.lora.parameters()} == {torch.float32}
    assert student.language_model.dtype == torch.bfloat16
    disturb(student)
    assert logits(student.language_model).isfinite().all()


def test_a_checkpoint_holds_updates_alone_and_comes_back(fake_models: dict[str, str], teacher: Any, tmp_path: Path) -> None:
    student = student_of(teacher, fake_models["lm"]).eval()
    disturb(student)
    student.save_pretrained(tmp_path / "c")
    with safe_open(str(tmp_path / "c/model.safetensors"), "pt") as f:
        assert {k.split(".")[0] for k in f.keys()} == {"adapter", "lora"}  # noqa: SIM118
    before = logits(teacher)
    again = load_student(tmp_path / "c", teacher).eval()
    assert torch.equal(logits(again.language_model), logits(student.language_model))
    assert torch.equal(logits(teacher), before)
    assert all(p.requires_grad for p in again.lora.parameters())
    assert again.head() is teacher.get_output_embeddings().weight


def test_the_gradient_reaches_the_updates_only(teacher: Any) -> None:
    student = student_of(teacher).train()
    disturb(student)
    student.language_model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.lora.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_dropout_of_the_updates_is_for_training_alone(teacher: Any) -> None:
    student = student_of(teacher, dropout=0.5)
    disturb(student)
    lm = student.language_model
    student.train()
    assert not torch.equal(logits(lm), logits(lm))
    student.eval()
    assert torch.equal(logits(lm), logits(lm))


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens", "self_attn", "../../q_proj", ".*", ""])
def test_a_target_that_is_no_linear_layer_is_named_with_those_there_are(teacher: Any, target: str) -> None:
    with pytest.raises(SaladError, match=r"no linear layer .*: its linear layers: down_proj, gate_proj, k_proj, o_proj"):
        student_of(teacher, targets=["q_proj", target])


def test_a_longer_name_picks_one_of_several(teacher: Any) -> None:
    student = student_of(teacher, targets=["layers.1.self_attn.q_proj"])
    assert list(student.lora) == ["model/layers/1/self_attn/q_proj"]


def test_a_shared_lm_has_modules_of_its_own(teacher: Any) -> None:
    other = lora.share(teacher)
    assert all(a is b for a, b in zip(teacher.parameters(), other.parameters(), strict=True))
    assert all(a is b for a, b in zip(teacher.buffers(), other.buffers(), strict=True))
    assert not {id(m) for m in teacher.modules()} & {id(m) for m in other.modules()}
    assert torch.equal(logits(other), logits(teacher))
