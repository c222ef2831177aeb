"""Both kinds of adapter, with and without a front end: shapes, causality, padding, and numbers that must not change."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.trainer.adapters import Adapter, FrontEnd, make_adapter
from salad.trainer.student import StudentConfig, load_lm, new_student

SIZES = {"layers": 1, "width": 16, "mlp": 24, "heads": 2, "kv_heads": 1}
LM_WIDTH = 12


def adapter_of(kind: str = "transformer", encoder: str = "whisper", frame_rate: float = 12.5, **changes: Any) -> Adapter:
    ears = {"encoder_width": 80, "encoder_frame_rate": 100.0} if encoder == "logmel" else {"encoder_width": 8}
    config = StudentConfig(
        kind=kind, encoder=encoder, frame_rate=frame_rate, **{"encoder_frame_rate": 50.0, **ears, **SIZES, **changes}
    )
    torch.manual_seed(1)
    return make_adapter(config, LM_WIDTH).eval()


KINDS = [("transformer", "whisper"), ("mlp", "whisper"), ("transformer", "logmel"), ("mlp", "logmel")]


@pytest.mark.parametrize(("kind", "encoder"), KINDS)
def test_a_position_sees_its_own_frames_and_none_after_them(kind: str, encoder: str) -> None:
    adapter = adapter_of(kind, encoder)
    stack, width = adapter.stack, 80 if encoder == "logmel" else 8
    frames = torch.randn(2, 5 * stack, width)
    out = adapter(frames)
    assert out.shape == (2, 5, LM_WIDTH)
    for position in range(5):
        changed = frames.clone()
        changed[:, (position + 1) * stack :] += 1
        assert torch.allclose(adapter(changed)[:, : position + 1], out[:, : position + 1], atol=1e-6)
        changed = frames.clone()
        changed[:, (position + 1) * stack - 1] += 1
        assert not torch.allclose(adapter(changed)[:, position], out[:, position], atol=1e-4), "its last frame counts"


@pytest.mark.parametrize(("kind", "encoder"), KINDS)
def test_padding_at_the_end_changes_nothing(kind: str, encoder: str) -> None:
    adapter = adapter_of(kind, encoder)
    frames = torch.randn(1, 3 * adapter.stack, 80 if encoder == "logmel" else 8)
    padded = torch.nn.functional.pad(frames, (0, 0, 0, 4 * adapter.stack))
    assert torch.allclose(adapter(padded)[:, :3], adapter(frames), atol=1e-6)


@pytest.mark.parametrize(("kind", "encoder"), KINDS)
def test_every_weight_has_a_gradient(kind: str, encoder: str) -> None:
    adapter = adapter_of(kind, encoder)
    adapter(torch.randn(2, 3 * adapter.stack, 80 if encoder == "logmel" else 8)).square().mean().backward()
    assert [n for n, p in adapter.named_parameters() if p.requires_grad and not p.grad.any()] == []
    assert all(p.grad is not None or "embed_tokens" in n for n, p in adapter.named_parameters())


@given(stack=st.integers(1, 40), positions=st.integers(1, 4))
def test_the_front_end_keeps_the_count_of_positions(stack: int, positions: int) -> None:
    front = FrontEnd(4, 6, stack)
    out = front(torch.zeros(1, positions * stack, 4))
    assert out.shape[1] * 6 == positions * front.width
    left = front.width // 6
    assert left % 2 == 1
    assert left * 2 ** (len(front.layers) - 1) == stack


def test_the_front_end_reaches_back_over_positions() -> None:
    front = FrontEnd(4, 6, 8)
    frames = torch.randn(1, 64, 4)
    changed = frames.clone()
    changed[:, 15] += 1  # the last frame of position 1
    moved = (front(changed) - front(frames)).abs().sum(-1)[0] > 0
    assert moved[:5].tolist() == [False, True, True, True, True]


def test_an_unknown_kind_is_named_with_the_known_ones() -> None:
    with pytest.raises(SaladError, match=r"unknown adapter kind 'mpl'; did you mean 'mlp'\?: known: transformer, mlp"):
        adapter_of("mpl")


@pytest.mark.parametrize("lm_training", ["frozen", "full", "lora"])
def test_a_seed_gives_the_same_adapter_whatever_trains_beside_it(fake_models: dict[str, str], lm_training: str) -> None:
    teacher = load_lm(fake_models["lm"], torch.float32)
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}

    def weights(training: str) -> dict[str, torch.Tensor]:
        config = StudentConfig(lm_training=training, lora=lora, encoder_width=16, encoder_frame_rate=50.0, **SIZES)
        return new_student(config, teacher, seed=3).adapter.state_dict()

    frozen, other = weights("frozen"), weights(lm_training)
    assert frozen.keys() == other.keys()
    if lm_training == "lora":
        assert all(torch.equal(frozen[k], other[k]) for k in frozen)
    assert digest(weights(lm_training)) == digest(other)


def digest(weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()


def test_old_checkpoints_without_a_kind_are_transformers(tmp_path: Path) -> None:
    StudentConfig(**SIZES).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"kind": "transformer"' in text
    (tmp_path / "config.json").write_text(text.replace('"kind": "transformer",', ""))
    assert StudentConfig.from_pretrained(tmp_path).kind == "transformer"
