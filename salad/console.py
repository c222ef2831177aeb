"""What a run looks like in a terminal: one line a stage with time left, and the table at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salad.errors import NetworkError, visible

if TYPE_CHECKING:
    from salad.artifact import Manifest
    from salad.pipeline.simulation.experiment import Outcome
    from salad.pipeline.stages import Run, Stage

NUMERIC = "0123456789+-–[."  # how a cell begins that is a number, or an interval
FACTS = 7  # of a stage on its line
console = Console(highlight=False)
# Set by Ctrl+C and SIGTERM: Python may swallow the exception itself (in a callback, a destructor).
interrupted = threading.Event()
errors = Console(stderr=True, highlight=False)


@contextmanager
def stage_progress(stage: Stage) -> Iterator[Callable[..., None]]:
    """A live bar on a terminal, a line every 15 s elsewhere; gives the callback that stages report to."""
    if not console.is_terminal:
        yield _plain_progress(stage)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(stage.name, total=stage.total, count="")

        def report(done: float, total: float | None = None) -> None:
            total = total or stage.total
            bar.update(task, completed=done, total=total, count=_count(done, total, stage.unit))

        yield report


def _plain_progress(stage: Stage) -> Callable[..., None]:
    started = last = time.monotonic()

    def report(done: float, total: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 15:
            last = now
            total = total or stage.total
            left = f", {max(0.0, (now - started) * (total - done) / done):.0f} s left" if total and done else ""
            console.print(f"    {stage.name}: {_count(done, total, stage.unit)}{left}")

    return report


def _count(done: float, total: float | None, unit: str) -> str:
    of = f"/{total:,.0f}" if total else ""
    return f"{done:,.0f}{of} {unit}"


def show_cursor() -> str:
    """What brings back the cursor that a live bar hides: for an end that cannot wait for the bar's own."""
    return "\x1b[?25h" if console.is_terminal else ""


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt once Ctrl+C was pressed, however often the first one got lost."""
    if interrupted.is_set():
        raise KeyboardInterrupt


def interruptible(shown: Callable[..., None]) -> Callable[..., None]:
    """A progress callback that ends the work once Ctrl+C was pressed."""

    def progress(done: float, total: float | None = None) -> None:
        stop_if_interrupted()
        shown(done, total)

    return progress


def unless_interrupted(stage: Stage) -> Stage:
    """The stage, not to be published once Ctrl+C was pressed: what swallowed the exception may not have done its work."""

    def build(out: Path, progress: Callable[..., None]) -> dict[str, Any]:
        meta = stage.build(out, progress)
        stop_if_interrupted()
        return meta

    return replace(stage, build=build)


def walk(run: Run, stages: list[Stage]) -> None:
    """Run what is missing of `stages`, in order, showing each."""
    from salad.pipeline.patience import patiently

    width = max(len(s.name) for s in stages)
    for i, stage in enumerate(stages, 1):

        def execute(stage: Stage = stage) -> tuple[Manifest, bool]:
            with stage_progress(stage) as shown:
                stop_if_interrupted()
                return run.execute(unless_interrupted(stage), interruptible(shown))

        manifest, built = patiently(execute, stage, _wait)
        how = f"{manifest.seconds:7.1f} s" if built else "   done  "
        facts = escape(describe(manifest.meta))
        console.print(f"[dim]{i:3d}/{len(stages)}[/] {stage.name:<{width}} [green]{how}[/]  [dim]{facts}[/]", soft_wrap=True)


def _wait(error: NetworkError, seconds: float) -> None:
    console.print(f"{error}: trying again in {seconds:.0f} s", markup=False, soft_wrap=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop_if_interrupted()
        time.sleep(min(left, 0.2))


def describe(meta: dict[str, Any]) -> str:
    """The first plain values of a stage's meta, on one line."""
    parts = []
    for key, value in meta.items():
        if isinstance(value, float):
            parts.append(f"{key} {value:.3g}" if abs(value) < 100 else f"{key} {value:,.0f}")
        elif isinstance(value, (int, str)) and not isinstance(value, bool):
            parts.append(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}")
        elif isinstance(value, dict) and key in ("refused", "rejected", "domains"):
            parts.append(f"{key} {sum(value.values()):,}" if key != "domains" else f"{len(value)} domains")
    return visible(" · ".join(parts[:FACTS]))


def print_summary(run: Run) -> None:
    """The tables at the end of a run."""
    from salad.pipeline import summary

    console.print()
    print_table(f"Speech chosen by {run.config.select.selector} and spoken", summary.SPEECH_COLUMNS, summary.speech_rows(run))
    print_table("Held-out texts: never chosen from, never trained on (nats)", summary.HELDOUT_COLUMNS, summary.heldout_rows(run))
    if verdict := summary.against_control(run):
        console.print(f"{verdict}\n", soft_wrap=True)
    print_table("D by domain, which the method never sees (nats)", *summary.domain_rows(run))
    for title, columns, rows in summary.benchmark_tables(run):
        print_table(title, columns, rows)
    print_table("Wall time (s)", *summary.time_rows(run))


def print_simulation(outcome: Outcome) -> None:
    """The tables of `salad simulate`, and what they rest on."""
    from salad.pipeline.simulation import plot

    print_table("Residual D, nats: the truth of the simulation", list(plot.COLUMNS), plot.cells(outcome.rows))
    print_table("Components of log D of the probes", list(plot.CHECKED), plot.check_cells(outcome.check))
    console.print(f"{plot.what(outcome)}\n{outcome.response.sentence()}", markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Numbers to the right, words to the left; a file, which has no width of its own, gets wide lines."""
    cells = [[_cell(x) for x in row] for row in rows]
    table = Table(title=escape(visible(title)), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        words = i == 0 or any(row[i] and row[i][0] not in NUMERIC for row in cells)
        table.add_column(escape(visible(column)), justify="left" if words else "right", overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    (console if console.is_terminal else Console(width=150, highlight=False)).print(table)


def _cell(x: Any) -> str:
    return "–" if x is None else f"{x:.3f}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else visible(str(x))
