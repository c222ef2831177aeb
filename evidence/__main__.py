"""Every figure of docs/evidence.md from nothing: `make reproduce`, or a part of it by name.

    python -m evidence                       # all parts, then tables and plots
    python -m evidence selection --limit 12  # the first twelve arms of a part that are missing
    python -m evidence --list                # what is done and what is missing
    python -m evidence report                # tables and plots again, of the rows alone
    python -m evidence --config evidence/larger.yaml --folder runs/evidence-larger  # larger models, where a GPU is at hand

Stop it at any moment: what is measured is not measured again, and a stage that was under way goes on. With `--jobs 2` two
processes of one thread each share the arms; the rows of the pages were made so, and come out the same on the same kind of
processor. `--results evidence/results` adds to those rows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from evidence.arms import CONFIG, WAIT, Arm, Bench, when_free
from evidence.jobs import side_by_side
from evidence.measures import chosen, evaluation_texts, machine, measure_student, seconds, stage_one_digest, today
from evidence.parts import FULL, PARTS
from evidence.results import Results
from salad.errors import RunInUse
from salad.pipeline.models import quiet_libraries
from salad.pipeline.stages import Run

ONE_PROCESS = ("cost", "report")  # what it takes is read of arms that have the machine to themselves


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__, formatter_class=raw)
    known = [*PARTS, "stage-one", "report"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"), help="where runs are made (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="models and training (default: evidence/config.yaml)")
    parser.add_argument("--results", type=Path, help="where rows are kept (default: results, in that folder)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes of one thread each, beside each other (default: one, of all)"
    )
    parser.add_argument("--limit", type=int, help="stop after so many arms of each part, in each process")
    parser.add_argument("--list", action="store_true", help="say what is done and what is missing, and stop")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(known):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: {', '.join(known)}")
    results = Results(given.results or given.folder / "results")
    if given.list:
        return show(results)
    quiet_libraries()
    bench = Bench(given.folder.absolute(), given.config)
    for part in given.parts or known:
        started = time.monotonic()
        if given.jobs > 1 and part not in ONE_PROCESS:
            same = [
                f"--{name}={value}"
                for name in ("folder", "config", "results", "limit")
                if (value := getattr(given, name)) is not None
            ]
            if any(codes := side_by_side([sys.executable, "-m", "evidence", part, *same], given.jobs)):
                print(f"== {part}: a process ended with {max(codes, key=abs)}; the same command goes on from here", flush=True)
                return 1
        elif part == "report":
            from evidence.report import write

            print(f"Page: {write(results)}")
        elif part == "stage-one":
            from evidence.stage_one import measure_curves

            measure_curves(bench, results)
        else:
            run_arms(bench, results, part, list(dict.fromkeys(PARTS[part]())), given.limit)
        print(f"== {part}: {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return 0


def run_arms(bench: Bench, results: Results, part: str, arms: list[Arm], limit: int | None) -> None:
    """Train and measure what is missing, in order; an arm that another process is at is left to it."""
    done, passed = 0, 0
    while limit is None or done < limit:
        names = measured(results)
        missing = [arm for arm in arms if arm.name not in names]
        if not missing:
            return
        when_free(lambda: bench.evaluation)
        if passed >= len(missing):
            passed = 0
            time.sleep(WAIT)
        arm = missing[passed]
        try:
            with bench.at_work(arm.name):
                print(f"== {part}: {arm.name} ({len(missing)} of {len(arms)} arms missing)", flush=True)
                if arm.name not in measured(results):
                    results.add("arms", row_of(bench, results, arm, bench.arm(arm)))
            done, passed = done + 1, 0
            give_memory_back()
        except RunInUse:
            passed += 1


def give_memory_back() -> None:
    """What an arm no longer needs, to the system: a run and its stages refer to each other, and glibc keeps what was freed."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def row_of(bench: Bench, results: Results, arm: Arm, run: Run) -> dict[str, Any]:
    """Everything that tables and plots want to know of an arm."""
    if not any(results.rows("evaluation")):
        results.add("evaluation", evaluation_texts(bench))
    origin = stage_one_digest(run)
    if origin not in {row["stage_one"] for row in results.rows("stage_one_students")}:
        base = bench.base(arm.covered, arm.changes)
        of_base = measure_student(bench, base, base.store.path("stage-one/checkpoint/final"), whole=True)
        asked = base.store.manifest("round-000/scores").meta["seconds"]  # of probes, said to ask with
        results.add("stage_one_students", {"stage_one": origin, "covered": arm.covered, "asked": round(asked), **of_base})
    wholly = arm.checkpoints[-1:] if arm.budget >= FULL else []  # the pages ask the rest of D alone
    students = [measure_student(bench, run, run.store.path(f"{name}/final"), name in wholly) for name in arm.checkpoints]
    return {
        "arm": arm.name,
        "covered": arm.covered,
        "selector": arm.selector,
        "budget": arm.budget,
        "seed": arm.seed,
        "rounds": arm.rounds,
        "changes": dict(arm.changes),
        "stage_one": origin,
        "spent": chosen(run, arm),
        "wall": seconds(run, arm),
        "students": students,
        "machine": machine(),
        "date": today(),
    }


def measured(results: Results) -> set[str]:
    """Names of arms. Rows that start from another Stage I student than an arm's partners have none: see `Evidence.difference`."""
    return {row["arm"] for row in results.rows("arms")}


def show(results: Results) -> int:
    there = measured(results)
    for part, arms in PARTS.items():
        for name in dict.fromkeys(arm.name for arm in arms()):
            print(f"{'done   ' if name in there else 'missing'} {part:<10} {name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.")
        sys.exit(130)
