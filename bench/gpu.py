"""What a GPU reaches: training and measuring at the paper's sizes, and the KL against the plain one and Liger's.

    python bench/gpu.py                                    # a GPU with 100 GB of its own for the largest
    python bench/gpu.py --sizes 0.5B:full --texts 8        # a smaller one

Models have the shapes of SmolLM2 and Qwen2.5 and random weights, and the adapter is the paper's: speed does not mind. FLOP are
those that `salad plan` reckons with, so the share of the peak is the one that it wants to know. Three optimiser steps warm up;
nothing of the wall time of the others is left out but the saving.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from divergence import LOSSES
from rich.console import Console
from rich.table import Table
from train import made_up
from transformers import AutoModelForCausalLM, LlamaConfig

from salad.pipeline.models import quiet_libraries
from salad.plan.machine import GPUS
from salad.plan.networks import KNOWN, Reader
from salad.trainer.data import Example
from salad.trainer.evaluate import measure
from salad.trainer.schedule import make_schedule
from salad.trainer.student import Student, StudentConfig, new_student
from salad.trainer.targets import make_loss
from salad.trainer.train import Recipe, distil

MIMI: dict[str, Any] = {"encoder_width": 512, "encoder_frame_rate": 12.5}  # a frame a position
ADAPTER = {"layers": 12, "width": 960, "mlp": 2560, "heads": 15, "kv_heads": 5}
WARM = 3
LOSS = ("head", "KL", "ms", "GiB above the inputs", "error of the value", "of the gradient")
TRAINING = ("size", "LM", "ms a step", "positions/s", "TFLOP a step", "of the peak", "GiB", "measuring: positions/s")


def teacher_of(shape: dict[str, Any]) -> Any:
    """An LM of this shape, random, in bfloat16 on the GPU."""
    config = LlamaConfig(**shape, max_position_embeddings=4096)
    with torch.device("cuda"):
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return lm.eval().requires_grad_(False)


def flop_of_a_step(student: Student, shape: Reader, examples: list[Example]) -> float:
    """As `salad plan` reckons: 2 FLOP a weight and position, 4 where gradients only pass, 6 where the weight learns."""
    stack = student.config.stack
    positions, read = sum(e.positions(stack) for e in examples), sum(len(e.targets) for e in examples)
    passes = 6 if student.config.lm_training == "full" else 4
    adapter = sum(p.numel() for p in student.adapter.parameters())
    return passes * shape.body * positions + 6 * adapter * (positions - read) + (passes + 2) * shape.head * read


def train(size: str, lm_training: str, args: argparse.Namespace) -> list[str]:
    """A row of the table: positions a second of training and measuring, share of the peak, memory."""
    gc.collect()
    torch.cuda.empty_cache()
    shape = KNOWN["HuggingFaceTB/SmolLM2-135M" if size == "135M" else f"Qwen/Qwen2.5-{size}"]
    teacher = teacher_of(shape)
    examples = made_up(teacher.config.hidden_size, MIMI["encoder_width"], 1, args.length, args.texts)
    loss = make_loss("states", teacher)
    student = new_student(StudentConfig(lm=size, lm_training=lm_training, **MIMI, **ADAPTER), teacher, seed=0)
    flop = flop_of_a_step(student, Reader(shape, ""), examples)
    positions = sum(e.positions(student.config.stack) for e in examples)
    steps = WARM + args.steps + 1  # before the last one `stable` is saved
    schedule = make_schedule({"natural": examples}, {"natural": 1.0}, steps, args.texts, student.config.stack, 0)
    recipe = Recipe(
        steps=steps, decay_steps=1, warmup_steps=1, batch_size=args.texts, accumulate=1, adapter_lr=1e-4, lm_lr=1e-5,
        weight_decay=0.1, bf16=True, save_steps=10**6, seed=0,
    )  # fmt: skip
    at: list[float] = []

    def tick(step: int) -> None:
        torch.cuda.synchronize()
        at.append(time.perf_counter())

    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=args.scratch) as out:
        distil(student, loss, schedule, recipe, Path(out), tick)
    a_step = statistics.median(np.diff(at[WARM - 1 : -1]))
    memory = torch.cuda.max_memory_allocated() / 2**30
    measure(student, teacher, examples)
    torch.cuda.synchronize()
    started = time.perf_counter()
    measure(student, teacher, examples)
    torch.cuda.synchronize()
    measured = positions / (time.perf_counter() - started)
    name = torch.cuda.get_device_name().lower()
    peak = next((flops for gpu, flops in GPUS.items() if gpu in name.replace(" ", "-")), float("nan"))
    share = f"{flop / a_step / peak:.0%}"
    numbers = (
        f"{a_step * 1e3:,.0f}",
        f"{positions / a_step:,.0f}",
        f"{flop / 1e12:,.0f}",
        share,
        f"{memory:,.1f}",
        f"{measured:,.0f}",
    )
    return [size, lm_training, *numbers]


def liger(teacher: torch.Tensor, student: torch.Tensor, head: torch.Tensor, student_head: torch.Tensor) -> torch.Tensor:
    """Its JSD with β = 0, which is KL(teacher || student)."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    value: torch.Tensor = LigerFusedLinearJSD(jsd_beta=0.0)(student, student_head, teacher, head, None)
    return value


def losses(args: argparse.Namespace, trained: bool) -> list[list[str]]:
    """A row a loss: milliseconds of value and gradients, memory above the inputs, error against float64."""
    torch.manual_seed(0)
    v, d, m = args.vocabulary, args.width, args.rows
    head = torch.randn(v, d, device="cuda") * 2 / d**0.5
    teacher = torch.randn(m, d, device="cuda")
    student, student_head = teacher + 0.7 * torch.randn_like(teacher), head + 0.1 * torch.randn_like(head) / d**0.5
    tensors = [t.bfloat16() for t in (teacher, student, head, student_head)]
    wanted = [tensors[1].requires_grad_(), *([tensors[3].requires_grad_()] if trained else [])]
    exact = exact_of(tensors, 256)
    ways: dict[str, Callable[..., torch.Tensor]] = dict(LOSSES)
    if find_spec("liger_kernel"):
        ways["liger"] = liger
    rows = []
    for name, way in ways.items():
        took = []
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(WARM + args.repeats):
            torch.cuda.synchronize()
            started = time.perf_counter()
            value = way(*tensors)
            gradients = torch.autograd.grad(value, wanted)
            torch.cuda.synchronize()
            took.append(time.perf_counter() - started)
        memory = (torch.cuda.max_memory_allocated() - before) / 2**30
        off = [abs(float(value.detach()) / exact[0] - 1), float((gradients[0].double() - exact[1]).norm() / exact[1].norm())]
        shown = (f"{statistics.median(took[WARM:]) * 1e3:.1f}", f"{memory:.2f}", f"{off[0]:.1e}", f"{off[1]:.1e}")
        rows.append(["trained" if trained else "frozen", name, *shown])
    return rows


def exact_of(tensors: list[torch.Tensor], rows: int) -> tuple[float, torch.Tensor]:
    """The loss and its gradient of the states in float64, a few rows at a time."""
    teacher, student, head, student_head = (t.detach().double() for t in tensors)
    total, gradients = 0.0, []
    for i in range(0, len(teacher), rows):
        part = student[i : i + rows].requires_grad_()
        loss = kl_in_float64(teacher[i : i + rows], part, head, student_head) / len(teacher)
        gradients.append(torch.autograd.grad(loss, part)[0])
        total += float(loss.detach())
    return total, torch.cat(gradients)


def kl_in_float64(teacher: torch.Tensor, student: torch.Tensor, head: torch.Tensor, student_head: torch.Tensor) -> torch.Tensor:
    log_q, log_p = torch.log_softmax(teacher @ head.T, -1), torch.log_softmax(student @ student_head.T, -1)
    return (log_q.exp() * (log_q - log_p)).sum()


def main() -> int:
    """2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="*", default=["135M:frozen", "0.5B:frozen", "0.5B:full", "3B:frozen", "3B:full"], help="SIZE:HOW"
    )
    parser.add_argument("--texts", type=int, default=16, help="of a step")
    parser.add_argument("--length", type=int, default=512, help="positions of a text")
    parser.add_argument("--steps", type=int, default=8, help="that count")
    parser.add_argument("--rows", type=int, default=4096, help="text positions of the loss")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="where checkpoints are written, and deleted")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    quiet_libraries()
    console = Console(width=120)
    about = f"{args.rows:,} text positions, vocabulary {args.vocabulary:,}, width {args.width:,}, bfloat16"
    table = Table(*LOSS, title=f"{torch.cuda.get_device_name()}: {about}")
    for trained in (False, True):
        for row in losses(args, trained):
            table.add_row(*row)
    console.print(table)
    for name in args.sizes:  # a table each, so that what is measured is said before the next begins
        size, _, lm_training = name.partition(":")
        table = Table(*TRAINING, title=f"{args.texts} texts of {args.length} positions a step, half of them heard")
        table.add_row(*train(size, lm_training or "frozen", args))
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
