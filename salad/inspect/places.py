"""What lies at a path: which Parquet files are samples, which are what belongs to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from salad.artifact import artefact_files
from salad.errors import SaladError

EXAMPLE = "name a run such as runs/demo, a round such as runs/demo/round-000, or a folder or file of Parquet"
RUN = "_run.json"
DEEPEST = 3  # folders below a path in which Parquet is looked for
# Of a folder with several kinds of rows: those that are samples, and the tables beside them.
MAIN = ("selection.parquet", "probes.parquet", "heldout.parquet", "items.parquet", "answers.parquet", "examples.parquet")
OF_ROUNDS = ("rejected", "selection", "reserve")  # tables that make sense of several rounds together
UNSPOKEN = ", not spoken yet"
CONTROLS = ("_control", "control")  # of a round or a run, by another strategy at equal budget


@dataclass(frozen=True)
class Place:
    """Files by what they hold. parts: of a run its rounds. control: the same, chosen uniformly at equal budget."""

    path: Path
    what: str  # in words, where its columns do not tell
    samples: list[Path]
    tables: dict[str, list[Path]] = field(default_factory=dict)  # rejected, selection, reserve, probes, clusters, …
    parts: list[tuple[str, Place]] = field(default_factory=list)
    control: Place | None = None

    @property
    def views(self) -> dict[str, list[Path]]:
        return {"samples": self.samples, **self.tables}

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.samples)


def find(path: Path) -> Place:
    """SaladError where there is nothing to look at."""
    here = Path(os.path.abspath(path))
    if here.is_file():
        return Place(path, "", [here])
    for holds in (_run, _round, _speech, _several, _any):
        if (found := holds(here)) is not None:
            return replace(_whole(found), path=path)
    raise SaladError(
        f"{path} holds no Parquet file" if here.exists() else f"{path} is not there: it holds no Parquet file", EXAMPLE
    )


def _whole(place: Place) -> Place:
    """SaladError where a manifest names a file that is gone."""
    for file in chain(*place.views.values()):
        if not file.is_file():
            raise SaladError(f"{file} is missing, though its manifest names it", "the folder is damaged: get or make it anew")
    return place


def _run(path: Path) -> Place | None:
    rounds = [(folder.name, found) for folder in sorted(path.glob("round-*")) if (found := _round(folder))]
    if not rounds:
        if (path / RUN).is_file():
            raise SaladError(f"run {path} has no round whose texts are chosen yet", f"go on with it, or look at {path}/probe")
        return None
    spoken = [(name, found) for name, found in rounds if _is_speech(found.samples)]
    shown = spoken or rounds
    samples = [file for _, found in shown for file in found.samples]
    what = f"run {path.name}, {len(shown)} round{'s' * (len(shown) > 1)}" + ("" if spoken else UNSPOKEN)
    return Place(path, what, samples, _together([found for _, found in shown]), shown, _control(path))


def _round(path: Path) -> Place | None:
    speech, selection, scores = (_below(path / name) for name in ("speech", "selection", "scores"))
    main = speech or selection or scores
    if main is None:
        return None
    tables = dict(main.tables)
    if selection:
        tables |= {"selection": selection.samples, **selection.tables}
    if scores:
        tables |= {"probes": scores.samples, **scores.tables}
    return Place(path, f"{path.name}{_owner(path)}{'' if speech else UNSPOKEN}", main.samples, tables, control=_control(path))


def _below(path: Path) -> Place | None:
    return (_speech(path) or _several(path)) if path.is_dir() else None


def _speech(path: Path) -> Place | None:
    files = _files(path, "data/*.parquet")
    if not files:
        return None
    tables = {"rejected": found} if (found := _files(path, "rejected.parquet")) else {}
    chosen = path.parent / "selection"
    if path.name == "speech" and chosen.is_dir() and (found := _files(chosen, "selection.parquet")):
        tables["selection"] = found
    return Place(path, f"speech{_owner(path)}", files, tables)


def _several(path: Path) -> Place | None:
    """A folder of ours whose files are different tables."""
    files = _files(path, "*.parquet")
    main = next((file for name in MAIN for file in files if file.name == name), None)
    if main is None:
        return None
    tables = {file.stem: [file] for file in files if file != main}
    return Place(
        path, f"{path.name}{_owner(path)}", [main], {main.stem: [main], **tables} if main.stem == "selection" else tables
    )


def _any(path: Path) -> Place | None:
    """Every Parquet file of a folder, or of the folders below it; what was turned down apart."""
    for depth in range(DEEPEST + 1):
        found = sorted(f for f in path.glob("*/" * depth + "*.parquet") if f.is_file() and not _hidden(f.relative_to(path)))
        rejected = [f for f in found if f.name.endswith("rejected.parquet")]
        samples = [f for f in found if f not in rejected] or rejected
        if samples:
            return Place(path, "", samples, {"rejected": rejected} if rejected and samples != rejected else {})
    return None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _control(path: Path) -> Place | None:
    below: tuple[Callable[[Path], Place | None], ...] = (_run, _round, _speech, _several)
    folders = [path / name for name in CONTROLS if (path / name).is_dir()]
    return next((found for folder in folders for look in below if (found := look(folder))), None)


def _files(folder: Path, pattern: str) -> list[Path]:
    """Only below the folder: a manifest may be anybody's."""
    found = artefact_files(folder, pattern)
    return [f for f in found if f.is_relative_to(folder) and ".." not in f.relative_to(folder).parts]


def _together(places: list[Place]) -> dict[str, list[Path]]:
    found = {name: [file for place in places for file in place.tables.get(name, [])] for name in OF_ROUNDS}
    return {name: files for name, files in found.items() if files}


def _owner(path: Path) -> str:
    """Of what, and of which run, where that lies above."""
    run = next((p for p in path.parents[:3] if (p / RUN).is_file()), None)
    if run is None:
        return ""
    return "".join(f" of {name}" for name in reversed(path.relative_to(run).parts[:-1])) + f" of run {run.name}"


def _is_speech(files: list[Path]) -> bool:
    return files[0].parent.name == "data"
