"""Scoring against the models' own speed: D, M, F of a run's probes and held-out texts, in texts a second.

.venv/bin/python bench/score.py runs/demo

bare: the forward passes of the same batches and nothing else: batches made beforehand, the student's states, the
logits of teacher and student where there is a loss. loop: what one writes first: one text at a time, teacher and
student over the whole text, logits of every position. Both have the encoder's features at hand, as scoring does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as nn

from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.store import Store
from salad.trainer.data import Example, collate, load_examples
from salad.trainer.divergence import kl_divergence
from salad.trainer.evaluate import POSITIONS, batches, measure
from salad.trainer.student import Student, load_student

OF_BARE, OF_LOOP = 0.85, 5.0  # the limits


class Bench:
    """One student, its teacher and the texts; each method scores all of them once."""

    def __init__(self, run: Path) -> None:
        store = Store(run)
        self.teacher = Models(store.config()).teacher
        self.student: Student = load_student(store.path("stage-one/checkpoint") / "final", self.teacher).eval()
        self.folders = [store.path(name) for name in ("prepared/probe", "prepared/heldout")]
        self.examples = self.load()
        self.stack = self.student.config.stack
        groups = batches([e.length(self.stack) for e in self.examples], POSITIONS)
        self.batches = [collate([self.examples[i] for i in group], self.stack) for group in groups]

    def load(self) -> list[Example]:
        return [e for folder in self.folders for e in load_examples(folder)]

    def salad(self) -> float:
        """From the files of the run to the numbers."""
        return float(measure(self.student, self.teacher, self.load()).divergence.mean())

    @torch.inference_mode()
    def bare(self) -> float:
        head = self.teacher.get_output_embeddings().weight
        for batch in self.batches:
            nn.linear(self.student.states_at_loss(batch).to(head.dtype), self.student.head())
            nn.linear(batch["teacher"].to(head.dtype), head)
        return float("nan")

    @torch.inference_mode()
    def loop(self) -> float:
        found = []
        for example in self.examples:
            layout = example.layout(self.stack)
            wanted = self.teacher(torch.from_numpy(example.tokens)[None].long()).logits[0]
            batch = collate([example], self.stack)
            given = nn.linear(self.student.states(batch), self.student.head())[0]
            found.append(kl_divergence(wanted[layout.teacher_loss_at], given[layout.student_loss_at]).mean())
        return float(torch.stack(found).mean())


def main() -> int:
    """0 when both ratios are kept and the loop finds the same D."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, trained through Stage I at least")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    quiet_libraries()
    bench = Bench(given.run)
    ways: dict[str, Callable[[], float]] = {"salad": bench.salad, "bare": bench.bare, "loop": bench.loop}
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, float] = {}
    for i in range(given.repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            if i:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    rate = {name: len(bench.examples) / statistics.median(t) for name, t in times.items()}
    of_bare = statistics.median(b / s for s, b in zip(times["salad"], times["bare"], strict=True))
    of_loop = statistics.median(b / s for s, b in zip(times["salad"], times["loop"], strict=True))
    table = Table("", "texts a second", "salad is", "mean D", title=f"Scoring {len(bench.examples)} texts", title_justify="left")
    table.add_row("salad", f"{rate['salad']:.1f}", "", f"{found['salad']:.4f}")
    table.add_row("bare forward passes", f"{rate['bare']:.1f}", f"{of_bare:.0%} (≥ {OF_BARE:.0%})", "–")
    table.add_row("obvious loop", f"{rate['loop']:.1f}", f"{of_loop:.1f} × (≥ {OF_LOOP:g} ×)", f"{found['loop']:.4f}")
    Console(width=100).print(table)
    same = abs(found["salad"] - found["loop"]) < 5e-3 * found["loop"]
    return 0 if same and of_bare >= OF_BARE and of_loop >= OF_LOOP else 1


if __name__ == "__main__":
    sys.exit(main())
