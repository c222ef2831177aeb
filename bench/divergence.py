"""The distillation loss against the plain implementation: peak memory, time, exactness.

.venv/bin/python bench/divergence.py      # 4 x 512 text positions, a vocabulary of 151,936, width 896
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as nn

from salad.trainer.divergence import distillation_loss

MEMORY, TIME, EXACT = 0.20, 1.2, 1e-5  # the limits: share of plain, times plain, relative to float64


def plain(teacher: torch.Tensor, student: torch.Tensor, teacher_head: torch.Tensor, student_head: torch.Tensor) -> torch.Tensor:
    """What one writes first: both logits, both log-softmaxes, autograd."""
    log_q = nn.log_softmax(nn.linear(teacher, teacher_head).float(), dim=-1)
    log_p = nn.log_softmax(nn.linear(student, student_head).float(), dim=-1)
    return nn.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def ours(*tensors: torch.Tensor) -> torch.Tensor:
    return distillation_loss(*tensors)[0]


LOSSES = {"plain": plain, "salad": ours}


def inputs(args: argparse.Namespace) -> list[torch.Tensor]:
    """Teacher states, student states, teacher head, student head, with a divergence of a nat or so."""
    torch.manual_seed(0)
    head = torch.randn(args.vocabulary, args.width) * 2 / args.width**0.5
    teacher = torch.randn(args.positions, args.width)
    student = (teacher + 0.7 * torch.randn_like(teacher)).requires_grad_()
    student_head = (head + 0.1 * torch.randn_like(head) / args.width**0.5).requires_grad_(args.head == "trained")
    return [teacher, student, head, student_head]


def step(name: str, tensors: list[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients."""
    loss = LOSSES[name](*tensors)
    return float(loss.detach()), list(torch.autograd.grad(loss, [t for t in tensors if t.requires_grad]))


def exact(tensors: list[torch.Tensor], rows: int = 64) -> tuple[float, list[torch.Tensor]]:
    """The same in float64, a few rows at a time."""
    teacher, student, head, student_head = (t.detach().double() for t in tensors)
    student_head.requires_grad_(tensors[3].requires_grad)
    total, gradients = 0.0, [torch.zeros_like(t, dtype=torch.float64) for t in tensors if t.requires_grad]
    for i in range(0, len(teacher), rows):
        part = student[i : i + rows].requires_grad_()
        loss = plain(teacher[i : i + rows], part, head, student_head) * len(part) / len(teacher)
        found = torch.autograd.grad(loss, [part, student_head] if student_head.requires_grad else [part])
        total += float(loss.detach())
        gradients[0][i : i + rows] = found[0]
        for sum_, g in zip(gradients[1:], found[1:], strict=True):
            sum_ += g
    return total, gradients


def peak_extra(name: str, args: argparse.Namespace) -> float:
    """Peak memory of one step above its inputs, in GiB, in a process of its own."""
    options = [f"--{k}={v}" for k, v in vars(args).items() if k in ("positions", "vocabulary", "width", "head")]
    command = [sys.executable, __file__, "--measure", name, *options]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_peak(name: str, args: argparse.Namespace) -> None:
    tensors = inputs(args)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew (Linux)
    before = memory_gib("VmRSS")
    step(name, tensors)
    print(memory_gib("VmHWM") - before)


def memory_gib(what: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{what}:")[1].split()[0]) / 2**20


def compare(args: argparse.Namespace, table: Table) -> bool:
    memory = {name: peak_extra(name, args) for name in LOSSES}
    tensors = inputs(args)
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    for i in range(args.repeats + 1):
        for name in LOSSES:
            started = time.perf_counter()
            loss, gradients = step(name, tensors)
            if i:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    value, expected = exact(tensors)
    errors = [abs(loss - value) / value]
    errors += [float((g - e).norm() / e.norm()) for g, e in zip(gradients, expected, strict=True)]
    seconds = {name: statistics.median(t) for name, t in times.items()}
    less, slower, error = memory["salad"] / memory["plain"], seconds["salad"] / seconds["plain"], max(errors)
    table.add_row(
        args.head, f"{memory['plain']:.2f}", f"{memory['salad']:.2f}", f"{less:.3f}",
        f"{seconds['plain']:.1f}", f"{seconds['salad']:.1f}", f"{slower:.2f}", f"{error:.1e}",
    )  # fmt: skip
    return less <= MEMORY and slower <= TIME and error <= EXACT


def main() -> int:
    """0 when all limits are kept, with a frozen head and with a trained one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=4 * 512)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--head", choices=["frozen", "trained"], default="frozen", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(LOSSES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_peak(args.measure, args)
        return 0
    title = f"KL and its gradients, {args.positions} positions, vocabulary {args.vocabulary:,}, width {args.width}, float32"
    table = Table("head", "plain GiB", "salad GiB", f"ratio (≤ {MEMORY})", "plain s", "salad s", f"ratio (≤ {TIME})",
                  f"error (≤ {EXACT:.0e})", title=title)  # fmt: skip
    kept = []
    for head in ("frozen", "trained"):
        args.head = head
        kept.append(compare(args, table))
    Console(width=120).print(table)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
