"""Find a selector or an engine: a built-in name, an entry point, `file.py:Class`, or `package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from salad.errors import SaladError, nearest


@dataclass(frozen=True)
class Registered:
    """What a name stands for: "module:Class", and where it comes from."""

    target: str
    origin: str  # "built in", or the package that offers it


def find(kind: str, name: str, builtin: Mapping[str, str]) -> Any:
    """The class behind `name`.

    `builtin` maps names to "module:Class"; installed packages add to it under the entry-point group
    `salad.<kind>s`. An unknown name raises SaladError that lists the known ones and suggests the nearest.
    """
    return _load(kind, _target(kind, name, builtin))


def registered(kind: str, builtin: Mapping[str, str]) -> dict[str, Registered]:
    """Every name that `find` knows. A clash of names is an error."""
    known = {name: Registered(target, "built in") for name, target in builtin.items()}
    for point in sorted(entry_points(group=f"salad.{kind}s"), key=lambda p: p.name):
        here = Registered(point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package")
        there = known.setdefault(point.name, here)
        if there.target != here.target:
            raise SaladError(
                f"two {kind}s are called '{point.name}': {there.target} ({there.origin}) and {here.target} ({here.origin})",
                "uninstall one of the two packages or rename its entry point",
            )
    return known


def fingerprint(kind: str, name: str, builtin: Mapping[str, str]) -> str | None:
    """A hash of the file behind a plug-in, so that an edited one is not taken for the old one; None for what is built in."""
    if name in builtin:
        return None
    place = _target(kind, name, builtin).rpartition(":")[0]
    path = Path(place) if place.endswith(".py") else _source_of_module(place)
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path and path.is_file() else None


def _target(kind: str, name: str, builtin: Mapping[str, str]) -> str:
    """The "module:Class" or "file.py:Class" that a name stands for."""
    if ":" in name:
        return name
    known = registered(kind, builtin)
    if name not in known:
        raise SaladError(
            f"unknown {kind} '{name}'{nearest(name, list(known))}",
            f"known: {', '.join(sorted(known))}; or name your own as file.py:Class or package.module:Class",
        )
    return known[name].target


def _source_of_module(name: str) -> Path | None:
    with _working_folder():
        spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin else None


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the folder one works in can be imported too, after all others: they hide none."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _load(kind: str, target: str) -> Any:
    place, _, attribute = target.rpartition(":")
    example = f"name an existing class as file.py:{kind.title()} or package.module:{kind.title()}"
    try:
        if place.endswith(".py"):
            return getattr(_module_of_file(Path(place)), attribute)
        with _working_folder():
            return getattr(importlib.import_module(place), attribute)
    except FileNotFoundError as e:
        raise SaladError(f"{kind} '{target}': no file {place}", "give the path from where you run salad") from e
    except (ImportError, AttributeError, ValueError) as e:
        raise SaladError(f"{kind} '{target}' cannot be loaded ({e})", example) from e
    except Exception as e:  # the plug-in's own code
        raise SaladError(f"{kind} '{target}' fails while it is loaded ({type(e).__name__}: {e})", "mend the plug-in") from e


def _module_of_file(path: Path) -> Any:
    path = path.resolve(strict=True)
    name = f"salad_plugin_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
