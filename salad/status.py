"""`salad status`, `salad verify` and `salad gc`: what a run has done and lacks, whether its bytes are whole, what it can lose."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.console import console, describe, errors, print_table, stage_progress, stop_if_interrupted
from salad.pipeline import inventory
from salad.pipeline.store import CONFIG, LAST_ERROR, Store

if TYPE_CHECKING:
    from salad.pipeline.inventory import StageState
    from salad.pipeline.stages import Run

COLOURS = {"done": "green", "running": "cyan", "missing": "yellow", "stale": "yellow", "damaged": "red"}
MEANS = {
    "stale": "made with another version, configuration or inputs: made again by the next command",
    "damaged": "a file is missing or of another size: made again by the next command; `salad verify` reads every byte",
}


def show_run(run: Run) -> None:
    """Print everything that is known of a run without reading its data."""
    sizes = run.store.files()
    holder = run.store.holder()
    at = holder.get("stage") if holder else None
    states = inventory.stage_states(run, sizes, at)
    console.print(f"[bold]{run.config.name}[/] ", end="")
    console.print(f"{run.store}\n{_doing(holder)}\n", markup=False, soft_wrap=True)
    for found in states:
        _print_stage(found)
    for state, meaning in MEANS.items():
        if any(s.state == state for s in states):
            console.print(f"[{COLOURS[state]}]{state}[/]: {meaning}", soft_wrap=True)
    console.print()
    print_table("Rounds", ["round", "stages", "asked s", "spoken s", "left s", "D"], _round_rows(run, states))
    console.print(_disk(run.store, sizes), markup=False, soft_wrap=True)
    if error := run.store.read_json(LAST_ERROR):
        errors.print("[red]last error[/] ", end="")
        errors.print(f"{_ago(error.get('time'))} in {error.get('stage')}: {error.get('error')}", markup=False, soft_wrap=True)
    missing = sum(s.state != "done" for s in states)
    console.print(f"{missing} of {len(states)} stages are missing" if missing else "Everything is done")


def show_all(folder: Path) -> None:
    """A line for each run below a folder."""
    from salad.errors import SaladError
    from salad.pipeline.stages import existing_run

    rows: list[list[Any]] = []
    for place in sorted(p.parent for p in folder.glob(f"*/{CONFIG}")):
        try:
            run = existing_run(str(place))
        except SaladError as e:
            rows.append([place.name, "–", "–", "–", "–", str(e)])
            continue
        sizes, holder = run.store.files(), run.store.holder()
        states = inventory.stage_states(run, sizes, holder.get("stage") if holder else None)
        done = sum(s.state == "done" for s in states)
        error = run.store.read_json(LAST_ERROR) or {}
        spoken = sum(row[3] for row in _round_rows(run, states))
        doing = f"running {holder.get('stage') or ''}".strip() if holder else "idle" if done < len(states) else "done"
        rows.append([run.config.name, f"{done}/{len(states)}", doing, round(spoken), _size(sum(sizes.values())), _error(error)])
    if not rows:
        console.print(f"no run in {folder}: start one with `salad run configs/demo.yaml`", markup=False)
        return
    print_table(f"Runs in {folder}", ["run", "stages", "state", "spoken s", "disk", "last error"], rows)


def verify(store: Store) -> bool:
    """Compare every file of every artefact with its checksum; print what differs. True: all are whole."""
    from salad.pipeline.stages import Stage

    known = inventory.artefacts(store, store.files())
    files = sum(len(m.files) for m in known.values())
    size = sum(facts["bytes"] for m in known.values() for facts in m.files.values())
    bar = Stage("verify", lambda out, progress: {}, {}, total=size / 1e6, unit="MB")
    faults, done = [], 0.0
    with stage_progress(bar) as shown:
        for name, manifest in known.items():
            stop_if_interrupted()
            faults += inventory.verify(store, name, manifest)
            done += sum(facts["bytes"] for facts in manifest.files.values()) / 1e6
            shown(done)
    for fault in faults:
        errors.print("[red]damaged[/] ", end="")
        errors.print(fault, markup=False, soft_wrap=True)
    whole = f"{len(known)} artefacts, {files} files, {_size(size)}: "
    advice = "run the same `salad run` again: what is damaged is made anew"
    console.print(whole + (f"{len(faults)} files are damaged; {advice}" if faults else "all are what was published"))
    return not faults


def collect(store: Store, sure: bool) -> bool:
    """Delete what no manifest names, after asking. sure: do not ask. False: the answer was no."""
    import typer

    with store.lock():
        sizes = store.files()
        found = inventory.leftovers(sizes, inventory.artefacts(store, sizes))
        if not found:
            console.print("nothing to remove: a manifest names every file")
            return True
        for one in found:
            note = "  half-done: the next `salad run` would go on with it" if one.resumable else ""
            console.print(f"{_size(one.bytes):>9}  {one.name}{note}", markup=False, soft_wrap=True)
        total = _size(sum(one.bytes for one in found))
        if not sure and not typer.confirm(f"Remove these {len(found)} from {store}, {total}?"):
            console.print("nothing was removed")
            return False
        for one in found:
            stop_if_interrupted()
            for file in one.files:
                store.remove(file)
        console.print(f"removed {len(found)}, {total}")
    return True


def _print_stage(found: StageState) -> None:
    from rich.markup import escape

    m = found.manifest
    seconds = f"{m.seconds:7.1f} s" if m and found.state == "done" else " " * 9
    facts = escape(describe(m.meta)) if m and found.state == "done" else ""
    console.print(f"[{COLOURS[found.state]}]{found.state:<7}[/] {seconds}  {found.name:<24} [dim]{facts}[/]", soft_wrap=True)


def _round_rows(run: Run, states: list[StageState]) -> list[list[Any]]:
    """Stages done, seconds of speech asked, spoken and left, and D of every round."""
    rows: list[list[Any]] = []
    by_name = {s.name: s for s in states}
    for r in range(run.config.rounds):
        here = f"round-{r:03d}/"
        own = [s for s in states if s.name.startswith(here)]
        speech, metrics = (by_name.get(here + name) for name in ("speech", "metrics"))
        asked = run.config.select.budget
        if speech and speech.manifest:
            spoken = float(speech.manifest.meta.get("seconds") or 0.0)
        else:
            spoken = inventory.spoken_so_far(run, here + "speech")
        d = metrics.manifest.meta.get("D") if metrics and metrics.manifest else None
        done = sum(s.state == "done" for s in own)
        rows.append([r, f"{done}/{len(own)}", round(asked), round(spoken), round(max(asked - spoken, 0)), d])
    return rows


def _doing(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "nobody works on it"
    who = f"process {holder.get('process', '?')} on {holder.get('host', '?')} ({holder.get('command', '?')})"
    return (
        f"running: {who}, at {holder['stage']}, begun {_ago(holder.get('since'))}" if holder.get("stage") else f"running: {who}"
    )


def _disk(store: Store, sizes: inventory.Sizes) -> str:
    spare = inventory.leftovers(sizes, inventory.artefacts(store, sizes))
    free = store.free()
    parts = [f"disk: {_size(sum(sizes.values()))} used"]
    parts += [f"{_size(free)} free"] if free is not None else []
    if spare:
        parts.append(f"{_size(sum(one.bytes for one in spare))} that no manifest names (`salad gc`)")
    return ", ".join(parts)


def _error(error: dict[str, Any]) -> str | None:
    return f"{error.get('stage')}: {error.get('error')}"[:100] if error else None


def _ago(moment: Any) -> str:
    """How long ago, in words; a clock that was set back since gives no negative times."""
    if not isinstance(moment, (int, float)):
        return "some time ago"
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:,.0f} {unit}" if unit == "B" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError
