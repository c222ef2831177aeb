"""What a run has, lacks and no longer needs: the facts behind `salad status`, `salad verify` and `salad gc`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from salad.artifact import MANIFEST, Manifest
from salad.pipeline import lease, store

if TYPE_CHECKING:
    from salad.pipeline.stages import Run
    from salad.pipeline.store import Store

# Files of a run that belong to no artefact.
LOOSE = (store.CONFIG, store.LAST_ERROR, store.LOCK, lease.NAME, "eval/eval.json")
HALF_DONE = (".partial", ".old", ".fetched")  # folders in which an artefact is made, replaced or fetched

Sizes = Mapping[str, int]  # every file of a run by its name


@dataclass(frozen=True)
class StageState:
    """state: done; running, by the holder of the lock; damaged: a file is missing or of another size; stale: of another key,
    it will be made again; missing. No byte of data was read: that is for `salad verify`."""

    name: str
    state: str
    manifest: Manifest | None


@dataclass(frozen=True)
class Leftover:
    """A file that no manifest names, or a folder of such."""

    name: str
    files: tuple[str, ...]
    bytes: int
    resumable: bool  # half-done work that the next command would go on with


def stage_states(run: Run, sizes: Sizes, running: str | None) -> list[StageState]:
    """One a stage, in their order."""
    there = {s.name: run.store.published(s.name) for s in run.stages}
    found = []
    for stage in run.stages:
        manifest = there[stage.name]
        inputs = {name: there[name] for name in stage.inputs}
        if stage.name == running:
            state = "running"
        elif manifest is None:
            state = "missing"
        elif None in inputs.values() or run.key_of(stage, {n: m.key for n, m in inputs.items() if m}) != manifest.key:
            state = "stale"
        elif any(sizes.get(f"{stage.name}/{file}") != facts["bytes"] for file, facts in manifest.files.items()):
            state = "damaged"
        else:
            state = "done"
        found.append(StageState(stage.name, state, manifest))
    return found


def spoken_so_far(run: Run, stage: str) -> float:
    """Seconds of speech in the finished shards of a stage that is not published yet; what another machine speaks is not seen."""
    folder = run.store.path(stage)
    shards = folder.with_name(f".{folder.name}.partial") / "_shards"
    total = 0.0
    for sidecar in sorted(shards.glob("*.json")):
        try:
            total += sum(seconds for _, _, seconds, rejected in json.loads(sidecar.read_text())["outcomes"] if rejected is None)
        except (OSError, ValueError, KeyError):  # being written
            continue
    return total


def artefacts(store: Store, sizes: Sizes) -> dict[str, Manifest]:
    """Every artefact of a run, of its present configuration or not, by name."""
    names = sorted(str(PurePosixPath(f).parent) for f in sizes if PurePosixPath(f).name == MANIFEST and not _half_done(f))
    found = {name: store.published(name) for name in names}
    return {name: manifest for name, manifest in found.items() if manifest}


def verify(store: Store, name: str, manifest: Manifest) -> list[str]:
    """What is wrong with an artefact's files, each compared with its checksum where the run lies; empty: nothing."""
    faults = []
    for file, facts in manifest.files.items():
        digest = store.digest(f"{name}/{file}")
        if digest is None:
            faults.append(f"{store}/{name}/{file} is missing")
        elif digest != facts["checksum"]:
            faults.append(f"{store}/{name}/{file} is not what was published (its checksum differs)")
    return faults


def leftovers(sizes: Sizes, known: Mapping[str, Manifest]) -> list[Leftover]:
    """Every file that no manifest names, those of one half-done folder together."""
    named = {f"{name}/{file}" for name, manifest in known.items() for file in (MANIFEST, *manifest.files)}
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(sizes):
        if file not in named and file not in LOOSE:
            found[_half_done(file) or file].append(file)
    return [Leftover(n, tuple(files), sum(map(sizes.__getitem__, files)), n.endswith(".partial")) for n, files in found.items()]


def _half_done(file: str) -> str | None:
    """The half-done folder that a file lies in."""
    parts = PurePosixPath(file).parts
    for i, part in enumerate(parts[:-1], 1):
        if part.startswith(".") and part.endswith(HALF_DONE):
            return "/".join(parts[:i])
    return None
