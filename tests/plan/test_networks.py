"""Sizes that are computed from shapes are those of the models themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from salad.assets import LOGMEL
from salad.config import Adapter, load_config
from salad.plan import networks
from salad.trainer.adapters import KERNEL, make_adapter
from salad.trainer.student_config import StudentConfig


@pytest.mark.parametrize(
    ("name", "millions"),  # as the models' cards and papers say
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134.5), ("Qwen/Qwen2.5-0.5B", 494), ("Qwen/Qwen2.5-3B", 3_090),
        ("Qwen/Qwen2.5-7B", 7_620), ("sentence-transformers/all-MiniLM-L6-v2", 22.7), ("BAAI/bge-large-en-v1.5", 335),
    ],
)  # fmt: skip
def test_known_readers_have_the_size_they_are_known_for(name: str, millions: float) -> None:
    found = networks.Reader(networks.KNOWN[name], "")
    assert found.params / 1e6 == pytest.approx(millions, rel=0.02)
    assert found.body < found.params


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [("openai/whisper-tiny.en", 8.2, 29.6), ("openai/whisper-small", 88, 153), ("openai/whisper-large-v3", 637, 906)],
)
def test_known_ears_have_the_size_they_are_known_for(name: str, encoder: float, decoder: float) -> None:
    found = networks.ears("asr", name)
    assert found.flop_per_second / 2 / networks.STATES / 1e6 == pytest.approx(encoder, rel=0.1)
    assert found.decoder / 1e6 == pytest.approx(decoder, rel=0.1)


def test_mimi_costs_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import MimiConfig, MimiEncoderModel

    config: Any = MimiConfig()
    model = MimiEncoderModel(getattr(config, "encoder_config", config)).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 1, 24_000))
    assert counter.get_total_flops() == pytest.approx(networks.MIMI[2], rel=0.01)


def test_models_that_are_here_are_counted(fake_models: dict[str, str]) -> None:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(fake_models["lm"])
    found = networks.reader("lm", fake_models["lm"])
    assert found.params == lm.num_parameters()
    assert found.params - found.body == lm.get_input_embeddings().weight.numel()
    assert networks.reader("embedder", fake_models["embedder"]).width == 16
    assert networks.ears("encoder", fake_models["encoder"]).width == 16


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("encoder", ["whisper", LOGMEL])
@pytest.mark.parametrize("rate", [12.5, 6.25, 3.0])
def test_the_adapter_is_counted_to_the_last_weight(kind: str, encoder: str, rate: float) -> None:
    heard = networks.Ears(*networks.LOGMEL, 0.0, "") if encoder == LOGMEL else networks.Ears(384, 50.0, 0.0, 0.0, "")
    adapter = Adapter(kind=kind, layers=3, width=48, mlp=96, heads=4, kv_heads=2, frame_rate=rate)  # type: ignore[arg-type]
    config = StudentConfig(
        encoder=encoder, encoder_width=heard.width, encoder_frame_rate=heard.frame_rate, **adapter.model_dump()
    )
    real = sum(p.numel() for p in make_adapter(config, 64).parameters())
    assert networks.adapter_params(adapter, heard, 64, encoder == LOGMEL) == real
    assert networks.KERNEL == KERNEL


def test_lora_is_counted_to_the_last_weight(fake_config_path: Any, fake_models: dict[str, str]) -> None:
    from salad.trainer import lora
    from salad.trainer.teacher import load_lm

    config = load_config(fake_config_path, {"student.lm": "lora", "student.lora.rank": 3})
    beside = lora.share(load_lm(fake_models["lm"], torch.float32))
    updates = lora.inject(beside, **config.student.lora.model_dump())
    found = networks.trained(config, networks.reader("lm", fake_models["lm"]), networks.ears("encoder", fake_models["encoder"]))
    assert found[1] == sum(p.numel() for p in updates.parameters() if p.requires_grad)
