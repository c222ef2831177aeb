"""A stage cut into parts: each an array in a file of its own, found again after a kill, read by whoever asked for it.

Beside `NNNNN.npy` lies `NNNNN.json`, written last, with its checksum: a part without it, or other than it says, is made again.
A part may be made twice at once (a worker taken for dead): both write the same bytes, under names of their own until whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from salad.artifact import checksum
from salad.config import Needs
from salad.errors import SaladError
from salad.pipeline.compute import Runner, Tick

if TYPE_CHECKING:
    from salad.pipeline.models import Models

PartMaker = Callable[..., np.ndarray]  # (models, *part)


def made_parts(
    compute: Runner, make: PartMaker, parts: Sequence[tuple[Any, ...]], folder: Path, needs: Needs, tick: Tick
) -> Iterator[np.ndarray]:
    """`make(models, *part)` of every part, in order, memory-mapped from `folder`. Parts that lie there are not made again."""
    folder = folder.resolve()
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:05d}.npy" for i in range(len(parts))]
    missing = [i for i, path in enumerate(paths) if not is_whole([path], path.with_suffix(".json"))]
    wanted = ((make, str(paths[i]), parts[i]) for i in missing)
    checksums = compute.map(save_part, wanted, needs, tick)
    rest = set(missing)
    for i, path in enumerate(paths):
        if i in rest:
            check_arrived(path, next(checksums))
        yield np.load(path, mmap_mode="r", allow_pickle=False)


def save_part(models: Models, make: PartMaker, path: str, part: tuple[Any, ...]) -> str:
    """The task: returns the checksum of the file that it wrote."""
    array = make(models, *part)
    write_whole(Path(path), lambda tmp: _save(tmp, array))
    found = checksum(Path(path))
    describe([Path(path)], Path(path).with_suffix(".json"))
    return found


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as f:
        np.save(f, array, allow_pickle=False)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """A reader sees the whole file or none, however many write it."""
    tmp = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        write(tmp)
        tmp.replace(path)
    finally:
        with suppress(OSError):
            tmp.unlink()


def describe(files: Sequence[Path], sidecar: Path, **facts: Any) -> None:
    """Say in a sidecar what these files are."""
    said = json.dumps({"files": {p.name: checksum(p) for p in files}, **facts})
    write_whole(sidecar, lambda tmp: tmp.write_text(said, encoding="utf-8"))


def is_whole(files: Sequence[Path], sidecar: Path) -> bool:
    """Whether the files are what their sidecar says."""
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))["files"]
        return all(checksum(p) == said[p.name] for p in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_arrived(path: Path, expected: str) -> None:
    """SaladError unless what a worker wrote is what is read here."""
    advice = "the run's folder must be one file system, mounted at the same path on all machines"
    try:
        found = checksum(path)
    except OSError as e:
        raise SaladError(f"a worker says that it wrote {path}, but here it cannot be read ({e.strerror})", advice) from e
    if found != expected:
        raise SaladError(f"{path} is not what a worker wrote (checksum differs)", advice)
