"""The trainer against the models' own speed and against the plain implementation: positions a second, memory, growth.

.venv/bin/python bench/train.py runs/demo      # a finished run: its models, its natural speech

bare: the passes of the same batches and nothing else: batches made beforehand, forward, loss, backward, clip, step;
nothing read, nothing logged. plain: what one writes first: batches as they are drawn, padded to their longest text, the
teacher beside the student, logits of every position of both, log-softmax and autograd. The others are `distil` as it
is: states (the default), cached (top-k and tail, no teacher), online (the teacher in every step). A position is one of
the student's sequence: a token or a stack of frames, padding left out.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.nn import functional as nn

from salad.pipeline import distil as stage
from salad.pipeline.models import Models, quiet_libraries
from salad.pipeline.shards import read_utterances
from salad.pipeline.store import Store
from salad.seeds import generator
from salad.trainer.data import Example, collate, load_examples, prepare
from salad.trainer.interleave import Span
from salad.trainer.schedule import make_schedule
from salad.trainer.student import load_student, new_student
from salad.trainer.targets import make_loss
from salad.trainer.train import distil

OF_BARE, OF_PLAIN, OF_ONLINE, CLOSE = 0.90, 1.8, 1.25, 0.01  # the limits, see `rows`
KEPT = {"states": "states", "cached": "top_k", "online": "none", "bare": "states", "plain": "none"}  # targets of each mode
SHORTEST = 256  # positions of the growth table's first row


class Bench:
    """A run's models and some of its natural speech, prepared once for each kind of targets."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        store = Store(args.run)
        config = store.config()
        self.config = config.model_copy(update={"student": config.student.model_copy(update={"lm": args.lm})})
        self.models = Models(self.config)
        self.speech = store.path("natural")
        self.trained = load_student(store.path("stage-one/checkpoint") / "stable", self.models.teacher)
        student = stage.student_config(self.config, self.models)
        self.student_config, self.stack = student, student.stack
        self.batch = self.config.train.batch_size

    def examples(self, mode: str) -> list[Example]:
        """Prepared when first asked for; `--length` asks for made-up ones of that many positions."""
        if self.args.length:
            d, width = self.models.teacher.config.hidden_size, self.models.encoder.width
            return made_up(d, width, self.stack, self.args.length)
        out, m = self.folder / KEPT[mode], self.models
        if not out.exists():
            some = itertools.islice(read_utterances(self.speech), self.args.texts)
            most = self.config.interleave.max_positions
            prepare(some, out, m.encoder, m.teacher, m.tokenizer, most, self.stack, targets=KEPT[mode], k=self.args.top_k)
        return load_examples(out)

    def student(self) -> Any:
        """With the ears of the run's Stage I, whose loss is past its violent start."""
        student = new_student(copy.deepcopy(self.student_config), self.models.teacher, seed=1)
        student.adapter.load_state_dict(self.trained.adapter.state_dict())
        return student

    @torch.no_grad()
    def loss(self, mode: str) -> float:
        """The mean KL of that student over all texts, as this mode's loss has it."""
        student, loss = self.student().eval(), make_loss(mode, self.models.teacher)
        kl = []
        for here in batches_of(self.examples(mode), 16):
            batch = collate(here, self.stack)
            kl.append(student(batch, loss, len(batch["labels"]))[1])
        return float(torch.cat(kl).mean())

    def schedule(self, mode: str, steps: int) -> Any:
        """One step to warm up, those that count, and a last one, before which `stable` is saved."""
        return make_schedule({"natural": self.examples(mode)}, {"natural": 1.0}, steps + 2, self.batch, self.stack, seed=3)

    # -- the modes: seconds of `steps` steps, positions in them, and the KL of each ---------------------------

    def salad(self, mode: str, steps: int) -> tuple[float, int, list[float]]:
        schedule = self.schedule(mode, steps)
        recipe = stage.make_recipe(self.config, self.models, steps + 2, seed=3)
        loss = make_loss(mode, None if mode == "cached" else self.models.teacher)
        at: list[float] = []
        with tempfile.TemporaryDirectory() as out:
            recipe = replace(recipe, decay_steps=1, save_steps=10**6)
            log = distil(self.student(), loss, schedule, recipe, Path(out), lambda step: at.append(time.perf_counter()))
        return at[steps] - at[0], positions(schedule, self.batch, self.stack, steps), [row["kl"] for row in log]

    def bare(self, mode: str, steps: int) -> tuple[float, int, list[float]]:
        schedule = self.schedule(mode, steps)
        loss = make_loss("states", self.models.teacher)
        student = self.student().train()
        batches = [collate([schedule[i] for i in rows], self.stack) for rows in groups(self.batch * (steps + 1), self.batch)]
        step = Stepper(student, self.models.dtype)
        kls = [step(lambda b=b: student(b, loss, len(b["labels"]))) for b in batches]  # type: ignore[misc]
        return step.seconds, positions(schedule, self.batch, self.stack, steps), kls

    def plain(self, mode: str, steps: int) -> tuple[float, int, list[float]]:
        """In the order drawn: no grouping by length."""
        schedule = self.schedule(mode, steps)
        schedule.order = generator(0, "plain").permutation(schedule.order)
        student, teacher = self.student().train(), self.models.teacher
        step = Stepper(student, self.models.dtype)

        def naive(rows: range) -> tuple[torch.Tensor, torch.Tensor]:
            here = [schedule[i] for i in rows]
            batch, w = collate(here, self.stack), collate(here, self.stack, "text")
            with torch.no_grad():
                log_q = nn.log_softmax(teacher(input_ids=w["token_ids"]).logits.float(), -1)
            states = student.states(batch)
            log_p = nn.log_softmax(nn.linear(states, student.head().to(states.dtype)).float(), -1)
            kl = nn.kl_div(rows_of(log_p, batch), rows_of(log_q, w), reduction="none", log_target=True).sum(-1)
            return kl.mean(), kl.detach()

        kls = [step(lambda rows=rows: naive(rows)) for rows in groups(self.batch * (steps + 1), self.batch)]  # type: ignore[misc]
        return step.seconds, positions(schedule, self.batch, self.stack, steps), kls

    def time(self, mode: str, steps: int) -> tuple[float, int, list[float]]:
        gc.collect()
        return getattr(self, mode, self.salad)(mode, steps)


class Stepper:
    """Backward, clip and step of a loss; `seconds` of all steps but the first."""

    def __init__(self, student: Any, dtype: torch.dtype) -> None:
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=5e-5, weight_decay=0.1, fused=True)
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        self.seconds, self._steps = 0.0, 0

    def __call__(self, forward: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> float:
        started = time.perf_counter()
        with self.autocast:
            loss, kl = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self._steps:
            self.seconds += time.perf_counter() - started
        self._steps += 1
        return float(kl.mean())


def rows_of(logits: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    return logits.reshape(-1, logits.shape[-1])[batch["loss_at"]]


def batches_of(examples: list[Example], size: int) -> list[list[Example]]:
    return [[examples[i] for i in rows] for rows in groups(len(examples), size)]


def groups(n: int, size: int) -> list[range]:
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def positions(schedule: Any, batch: int, stack: int, steps: int) -> int:
    """Of so many steps after the first."""
    return sum(schedule[i].positions(stack) for i in range(batch, batch * (steps + 1)))


def made_up(d: int, width: int, stack: int, length: int, texts: int = 4) -> list[Example]:
    """Texts of `length` positions, half of them heard, of random tokens and frames: their speed is that of real ones."""
    rng = np.random.default_rng(0)
    n = length // 2  # tokens that are read, after as many positions that are heard
    words = n // 2  # tokens that are heard

    def example(i: int) -> Example:
        tokens = rng.integers(10, 4000, words + n + 1)
        offsets = [(j, j + 1) for j in range(words + n)]
        spans = [Span("speech", 0, words), Span("text", words, words + n)]
        frames = rng.standard_normal((n * stack, width)).astype(np.float16)
        targets = torch.randn(n, d).to(torch.bfloat16).view(torch.int16).numpy()
        return Example(str(i), tokens, offsets, spans, [frames], targets)

    return [example(i) for i in range(texts)]


def measured_apart(args: argparse.Namespace, mode: str, **changes: Any) -> tuple[float, float]:
    """(peak GiB above the loaded models, seconds a step) of a mode, in a process of its own."""
    options = {"lm": args.lm, "texts": args.texts, "top-k": args.top_k, "steps": 3, "measure": mode}
    options |= ({"batch": args.batch} if args.batch else {}) | changes
    command = [sys.executable, __file__, str(args.run), *(f"--{k}={v}" for k, v in options.items())]
    memory, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(memory), float(seconds)


def measure(bench: Bench, mode: str) -> None:
    bench.examples(mode)
    bench.models.teacher, bench.models.encoder  # noqa: B018  loaded before the peak starts anew
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux
    before = memory_gib("VmRSS")
    seconds, _, _ = bench.time(mode, bench.args.steps)
    print(memory_gib("VmHWM") - before, seconds / bench.args.steps)


def memory_gib(what: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{what}:")[1].split()[0]) / 2**20


def compare(bench: Bench, console: Console) -> bool:
    """The table of speed and memory for one way of training the LM."""
    args, modes = bench.args, list(KEPT)
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    kls: dict[str, list[float]] = {}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"LM {args.lm}: speed, then memory", total=len(modes) * (args.repeats + 1))
        for _ in range(args.repeats):
            for mode in modes:
                seconds, n, kls[mode] = bench.time(mode, args.steps)
                rates[mode].append(n / seconds)
                bar.advance(task)
        memory = {}
        for mode in modes:
            memory[mode] = measured_apart(args, mode)[0]
            bar.advance(task)

    def ratio(a: str, b: str) -> float:
        """Of the same turn, so that what else the machine does meets both."""
        return statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))

    table = Table(
        "", "positions/s", "peak GiB", "KL", title=f"LM {args.lm}: {args.steps} steps of {bench.batch} texts, KL in training"
    )
    for mode in modes:
        shown = f"{np.mean(kls[mode]):.4f}"
        table.add_row(mode, f"{statistics.median(rates[mode]):,.0f}", f"{memory[mode]:.2f}", shown)
    console.print(table)
    losses = {mode: bench.loss(mode) for mode in ("cached", "online")}
    off = abs(losses["cached"] / losses["online"] - 1)
    rows = [
        ("states / bare", ratio("states", "bare"), OF_BARE, True),
        ("states / plain", ratio("states", "plain"), OF_PLAIN, True),
        ("cached / plain", ratio("cached", "plain"), OF_PLAIN, True),
        ("cached / online", ratio("cached", "online"), OF_ONLINE, True),
        (f"KL of one student, cached against online, k = {args.top_k}", off, CLOSE, False),
    ]
    limits = Table("", "ratio", "limit", title="Ratios, each the median of one turn's")
    for name, value, limit, above in rows:
        limits.add_row(name, f"{value:.3f}", f"{'≥' if above else '≤'} {limit}")
    console.print(limits)
    return all(value >= limit if above else value <= limit for _, value, limit, above in rows)


def growth(bench: Bench, console: Console) -> None:
    """Time and memory of one step from 1 to 8 times the sequence length."""
    modes = ("states", "plain")
    columns = [f"{mode} {what}" for mode in modes for what in ("s a step", "×", "GiB", "×")]
    table = Table("positions", *columns, title=f"LM {bench.args.lm}: growth with the length of the sequence, 2 texts a step")
    first: list[float] = []
    for times in (1, 2, 4, 8):
        found = [measured_apart(bench.args, mode, length=SHORTEST * times, batch=2, steps=2) for mode in modes]
        values = [value for memory, seconds in found for value in (seconds, memory)]
        first = first or values
        cells = [cell for value, start in zip(values, first, strict=True) for cell in (f"{value:.2f}", f"{value / start:.1f}")]
        table.add_row(str(SHORTEST * times), *cells)
    console.print(table)


def main() -> int:
    """0 when all limits are kept for every way of training the LM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run, e.g. runs/demo")
    parser.add_argument("--lm", default="frozen,full", help="how the LM trains: frozen, lora, full; several with commas")
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--texts", type=int, default=128, help="of the run's natural speech")
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--batch", type=int, help="texts a step; default: as the run trains")
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    console = Console(width=120)
    kept = []
    for lm in args.lm.split(","):
        args.lm = lm
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(args, Path(folder))
            bench.batch = args.batch or bench.batch
            if args.measure:
                measure(bench, args.measure)
                return 0
            kept.append(compare(bench, console))
            if not args.no_growth:
                growth(bench, console)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
