"""Scoring against the models' own speed: D, M, F of a run's probes and held-out texts, in texts a second.

.venv/bin/python bench/score.py runs/demo

bare: the forward passes of the same batches and nothing else: batches made beforehand, the student's states, the
logits of teacher and student where there is a loss. The loop is what one writes first: one text at a time through
the encoder, the teacher, the student that reads and the student that hears, logits of every position. Salad keeps
features and teacher targets for the whole run, so a round pays for the student alone; "first time" pays for all.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as nn

from salad.audio import resample
from salad.pipeline import distil
from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.shards import read_utterances
from salad.pipeline.store import Store
from salad.trainer.data import Example, collate, load_examples
from salad.trainer.divergence import kl_divergence
from salad.trainer.evaluate import POSITIONS, batches, measure
from salad.trainer.student import Student, load_student

SETS = ("probe", "heldout")
OF_BARE, OF_LOOP = 0.85, 5.0  # the limits, against:
OURS, BARE, LOOP = "salad, every round", "bare forward passes", "loop, features at hand"


class Bench:
    """One student, its teacher and the texts; each method scores all of them once."""

    def __init__(self, run: Path) -> None:
        self.store = Store(run)
        self.config = self.store.config()
        self.models = Models(self.config)
        self.teacher = self.models.teacher
        self.student: Student = load_student(self.store.path("stage-one/checkpoint") / "final", self.teacher).eval()
        self.examples = self.load()
        self.utterances = [u for name in SETS for u in read_utterances(self.store.path(name))]
        self.stack = self.student.config.stack
        groups = batches([e.length(self.stack) for e in self.examples], POSITIONS)
        self.batches = [collate([self.examples[i] for i in group], self.stack) for group in groups]

    def load(self) -> list[Example]:
        return [e for name in SETS for e in load_examples(self.store.path(f"prepared/{name}"))]

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

    def first(self) -> float:
        """From the speech shards to the numbers, with encoder and teacher."""
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for i, name in enumerate(SETS):
                out = Path(folder) / str(i)
                distil.build_prepared(out, self.config, self.models, self.store.path(name), lambda n: None)
                found += load_examples(out)
            return float(measure(self.student, self.teacher, found).divergence.mean())

    def loop(self) -> float:
        """D, M and F from the speech shards."""
        encoder = self.models.encoder
        for utterance in self.utterances:
            encoder.encode([resample(wave, utterance.rate, encoder.rate) for wave in utterance.waves])
        return self.loop_at_hand()

    @torch.inference_mode()
    def loop_at_hand(self, only_d: bool = False) -> float:
        """The same where the encoder's features are there already."""
        found = []
        for example in self.examples:
            layout = example.layout(self.stack)
            tokens = torch.from_numpy(example.tokens)[None].long()
            wanted = self.teacher(tokens).logits[0][layout.teacher_loss_at]
            spoken = nn.linear(self.student.states(collate([example], self.stack)), self.student.head())[0]
            spoken = spoken[layout.student_loss_at]
            found.append(kl_divergence(wanted, spoken).mean())
            if not only_d:
                read = self.student.language_model(tokens).logits[0][layout.teacher_loss_at]
                kl_divergence(read, spoken).mean(), kl_divergence(wanted, read).mean()
        return float(torch.stack(found).mean())

    def loop_d(self) -> float:
        return self.loop_at_hand(only_d=True)


def main() -> int:
    """0 when both ratios are kept and the loop finds the same D."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, trained through Stage I at least")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    quiet_libraries()
    bench = Bench(given.run)
    ways: dict[str, Callable[[], float]] = {
        "salad, first time": bench.first,
        OURS: bench.salad,
        BARE: bench.bare,
        "loop from the sound": bench.loop,
        LOOP: bench.loop_at_hand,
        "… and D alone": bench.loop_d,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, float] = {}
    for i in range(given.repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            if i:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    faster = {name: statistics.median(t / s for s, t in zip(times[OURS], of, strict=True)) for name, of in times.items()}
    table = Table("", "texts a second", "salad, every round, is", "mean D", title=f"Scoring {len(bench.examples)} texts")
    for name in ways:
        limit = {BARE: f" (≥ {OF_BARE:g} ×)", LOOP: f" (≥ {OF_LOOP:g} ×)"}.get(name, "")
        rate = len(bench.examples) / statistics.median(times[name])
        mean = "–" if math.isnan(found[name]) else f"{found[name]:.4f}"
        table.add_row(name, f"{rate:.1f}", "" if name == OURS else f"{faster[name]:.2f} ×{limit}", mean)
    Console(width=100).print(table)
    same = all(abs(d - found[OURS]) < 5e-3 * d for d in found.values() if not math.isnan(d))
    return 0 if same and faster[BARE] >= OF_BARE and faster[LOOP] >= OF_LOOP else 1


if __name__ == "__main__":
    sys.exit(main())
