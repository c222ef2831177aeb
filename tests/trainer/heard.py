"""A tiny world in which training works in seconds: frame features are a code of the tokens that are spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.trainer.data import Example
from salad.trainer.interleave import Span
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, new_student
from salad.trainer.targets import FromStates
from salad.trainer.train import Recipe, distil

STACK = 4
WIDTH = 16


def make_examples(teacher: Any, count: int = 48, spoken: bool = True) -> list[Example]:
    """Six tokens that are heard (or read, where nothing is spoken), then four to eight that are read."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=(teacher.config.vocab_size, WIDTH)).astype(np.float16)
    made = []
    for i in range(count):
        tokens = np.concatenate([[0], rng.integers(1, 40, 6), rng.integers(1, 40, int(rng.integers(4, 9)))])
        n, first = len(tokens) - 1, 6 if spoken else 0
        with torch.inference_mode():
            states = teacher.get_decoder()(input_ids=torch.from_numpy(tokens)[None].to(teacher.device)).last_hidden_state[0]
        targets = states[first:n].to(torch.bfloat16).view(torch.int16).cpu().numpy()
        spans = [Span("speech", 0, 6), Span("text", 6, n)] if spoken else [Span("text", 0, n)]
        frames = [np.repeat(code[tokens[1:7]], STACK, axis=0)] if spoken else []
        made.append(Example(f"{'s' if spoken else 't'}{i}", tokens, [(j, j + 1) for j in range(n)], spans, frames, targets))
    return made


def student_of(teacher: Any, lm_training: str = "frozen") -> Student:
    sizes = {"layers": 1, "width": 32, "mlp": 64, "heads": 2, "kv_heads": 1}
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]} if lm_training == "lora" else None
    config = StudentConfig(lm="tiny", lm_training=lm_training, lora=lora, encoder_width=WIDTH, encoder_frame_rate=50.0, **sizes)
    return new_student(config, teacher, seed=1)


def recipe(steps: int = 60, **changes: Any) -> Recipe:
    numbers: dict[str, Any] = {
        "steps": steps, "decay_steps": 10, "warmup_steps": 4, "batch_size": 8, "accumulate": 1, "adapter_lr": 3e-3, "lm_lr": 1e-4,
        "weight_decay": 0.1, "bf16": False, "save_steps": 7, "seed": 0,
    }  # fmt: skip
    return Recipe(**{**numbers, **changes})


def train(
    teacher: Any, examples: list[Example], out: Path, r: Recipe, lm_training: str = "frozen", loss: Any = None, **options: Any
) -> tuple[Student, list[dict[str, float]]]:
    """Examples without speech are a source of their own."""
    out.mkdir(exist_ok=True)
    student = student_of(teacher, lm_training)
    sources = {"natural": [e for e in examples if e.frames], "text": [e for e in examples if not e.frames]}
    schedule = make_schedule(sources, {"natural": 1, "text": 1}, r.steps * r.accumulate, r.batch_size, STACK, r.seed)
    loss = loss or FromStates(teacher.get_output_embeddings().weight)
    return student, distil(student, loss, schedule, r, out, **options)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
