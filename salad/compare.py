"""`salad compare`: runs side by side in the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from salad.console import console, print_table
from salad.errors import visible
from salad.pipeline import comparison
from salad.pipeline.comparison import tables


def compare(names: Sequence[str], to: str | None, out: Path) -> Path:
    """Print the tables, publish the page; the page's path."""
    from salad.pipeline.comparison import page

    page.check_out(out)
    found = comparison.compare(comparison.find_runs(names), to)
    show(found)
    return page.write(out, found)


def show(found: comparison.Comparison) -> None:
    for note in comparison.notes(found):
        console.print(visible(note), markup=False, soft_wrap=True, style="yellow")
    print_table("Runs: D in nats on held-out texts, less is better", *tables.runs(found.sides, found.costs))
    if found.unfair:
        print_table("In what they differ beside the strategy", *tables.differing(found.sides, found.unfair))
    base = f"{found.base.label} {found.base.student.label}"
    print_table(f"Less {base}, nats: below 0 it is better", *tables.differences(found.overall))
    if found.domains:
        print_table(f"D by domain, less {base}", *tables.domains(found.domains))
    if found.strategies:
        print_table(
            f"Strategies over seeds, after {found.rounds} round{'s' * (found.rounds > 1)}", *tables.strategies(found.strategies)
        )
    if found.overlaps:
        print_table("Overlap of selections", *tables.overlaps(found.overlaps))
    print_table("Cost of 0.1 nats gained since Stage I; –: nothing was gained", *tables.costs(found.sides, found.costs))
    for verdict in comparison.verdicts(found):
        console.print(visible(verdict), markup=False, soft_wrap=True)
