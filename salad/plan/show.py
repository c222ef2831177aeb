"""A plan for people: a table, or one line before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from salad.errors import SaladError
from salad.plan import Plan, machine, plan

if TYPE_CHECKING:
    from salad.config import Config
    from salad.pipeline.stages import Run, Stage

LONG = 1800.0  # seconds from which a run shows the whole table before it starts
TITLES = {
    "pool": "The pool",
    "speech": "Speech",
    "training": "Training",
    "time": "Time, one stage after the other",
    "storage": "Storage",
}


def show(found: Plan) -> None:
    """Every row by part, then the sums."""
    from salad.console import console, print_table

    for part, title in TITLES.items():
        rows = [[r.what, amount(r.amount, r.unit), r.how] for r in found.rows if r.part == part]
        print_table(title, ["what", "amount", "how"], rows)
    console.print(sentence(found), markup=False, soft_wrap=True)


def sentence(found: Plan) -> str:
    """One line: how long, on what, and the three things that cost."""
    on = (
        f"{found.machine.cores} cores"
        if not found.machine.is_gpu
        else f"one {found.machine.name} and {found.machine.cores} cores"
    )
    gpu = f" ({found.gpu_hours:,.1f} GPU hours of it)" if found.gpu_hours is not None else ""
    spoken = amount(found.amount("speech", "to be synthesised"), "s")
    steps = sum(r.amount for r in found.rows if r.unit == "steps")
    return (
        f"About {amount(found.seconds, 's')} on {on}{gpu}: {spoken} of speech to synthesise, {steps:,.0f} training steps, "
        f"{amount(found.total('storage'), 'bytes')} on disk"
    )


def announce(run: Run, config: Config, stages: list[Stage]) -> None:
    """Before a run: the estimate on a line; all of it where that is long and something is left to do. It stops nothing.

    config: of what these stages are, which may be less than the run's own.
    """
    from salad.artifact import read_manifest
    from salad.console import console

    try:
        found = plan(config, machine())
    except SaladError as e:
        console.print(f"No estimate: {e}", markup=False, soft_wrap=True, style="dim")
        return
    done = all(read_manifest(run.store.path(stage.name)) for stage in stages)
    if found.seconds > LONG and not done:
        show(found)
    else:
        console.print(f"{sentence(found)}; `salad plan` says how", markup=False, soft_wrap=True, style="dim")


def amount(value: float, unit: str) -> str:
    """4.2 h, 13 GB, 41,700: with the unit where it is not what the row is called."""
    if unit == "s":
        return f"{value / 3600:,.1f} h" if value >= 7200 else f"{value / 60:,.0f} min" if value >= 180 else f"{value:,.0f} s"
    if unit == "bytes":
        sizes = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
        return next((f"{value / size:,.1f} {name}" for size, name in sizes if value >= size), f"{value / 1e3:,.0f} kB")
    return f"{value:,.0f}"


def as_json(found: Plan) -> str:
    import json

    whole: dict[str, Any] = found.as_dict()
    return json.dumps(whole, indent=1)
