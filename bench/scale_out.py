"""What the runners cost on one machine: embedding, scoring and synthesis in threads, in processes, on Dask and on Ray.

.venv/bin/python bench/scale_out.py [CONFIG] [--workers 2] [--turns 3] [--keep FOLDER]

The run is made once, up to the selection of its first round. Then every runner makes the three artefacts again, in turns, so
that whatever else the machine does hits them all alike. `first` holds what starting workers and loading models in them takes;
`then` is the median of the turns that follow, and the ratio is that of local's and its own, the median over turns. On as many
cores as workers nothing can be gained: what is lost is the price of the runner. `same`: every published file is byte for byte
what `local` made.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from salad.config import Compute, Config, load_config
from salad.pipeline.models import quiet_libraries
from salad.pipeline.stages import Run

STAGES = {"embedding": "embeddings", "scoring": "round-000/scores", "synthesis": "round-000/speech"}
RUNNERS = ("local", "processes", "dask", "ray")
console = Console(highlight=False, width=110)


def with_runner(config: Config, runner: str, workers: int) -> Run:
    return Run(config.model_copy(update={"compute": Compute.model_validate({"runner": runner, "workers": workers})}))


def made(run: Run, stage: str, folder: Path) -> float:
    """Seconds that the stage takes into a folder of its own."""
    folder.mkdir(parents=True)
    found = next(s for s in run.stages if s.name == stage)
    started = time.perf_counter()
    found.build(folder, lambda *_: None)
    return time.perf_counter() - started


def published(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    names = ((p.relative_to(folder), p) for p in files)
    return {str(name): p.read_bytes() for name, p in names if not any(part.startswith(("_", ".")) for part in name.parts)}


def main() -> int:
    """0 when all runners gave the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="tests/real_small.yaml")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runners", nargs="+", default=RUNNERS, choices=RUNNERS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the run lies, or is to stay")
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        config = load_config(given.config, {"runs_dir": str((given.keep or Path(scratch)).absolute())})
        base = with_runner(config, "local", given.workers)
        names = [s.name for s in base.stages]
        for stage in base.stages[: names.index("round-000/selection") + 1]:
            base.execute(stage)
        base.models.close()
        runs = {runner: with_runner(config, runner, given.workers) for runner in dict.fromkeys(("local", *given.runners))}
        same = True
        table = Table(title=f"{config.name}, {given.workers} workers, {given.turns} turns", title_justify="left")
        for column in ("", "runner", "first s", "then s", "local / it", "same"):
            table.add_column(column, justify="right" if column.endswith(("s", "it")) else "left")
        for what, stage in STAGES.items():
            seconds: dict[str, list[float]] = {runner: [] for runner in runs}
            wanted: dict[str, bytes] = {}
            equal = dict.fromkeys(runs, True)
            for turn in range(given.turns + 1):
                for runner, run in runs.items():
                    folder = Path(scratch) / what / runner / str(turn)
                    seconds[runner].append(made(run, stage, folder))
                    console.print(f"[dim]{what}, turn {turn}, {runner}: {seconds[runner][-1]:.2f} s[/]")
                    wanted = wanted or published(folder)
                    equal[runner] &= published(folder) == wanted
            for runner, (first, *then) in seconds.items():
                ratios = [mine / its for mine, its in zip(seconds["local"][1:], then, strict=True)]
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                row = (f"{first:.1f}", f"{statistics.median(then):.2f}", "" if runner == "local" else spread)
                table.add_row(what, runner, *row, "yes" if equal[runner] else "NO")
            same &= all(equal.values())
        for run in runs.values():
            run.models.close()
    console.print(table)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
