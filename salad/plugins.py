"""Find a selector or an engine: a built-in name, an entry point, `file.py:Class`, or `package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from salad.errors import SaladError, nearest


def find(kind: str, name: str, builtin: Mapping[str, str]) -> Any:
    """The class behind `name`.

    `builtin` maps names to "module:Class"; installed packages add to it under the entry-point group
    `salad.<kind>s`. An unknown name raises SaladError that lists the known ones and suggests the nearest.
    """
    if ":" in name:
        return _load(kind, name)
    known = registered(kind, builtin)
    if name not in known:
        raise SaladError(
            f"unknown {kind} '{name}'{nearest(name, list(known))}",
            f"known: {', '.join(sorted(known))}; or name your own as file.py:Class",
        )
    return _load(kind, known[name])


def registered(kind: str, builtin: Mapping[str, str]) -> dict[str, str]:
    """Every name that `find` knows, with the "module:Class" behind it. A clash of names is an error."""
    known = dict(builtin)
    for point in entry_points(group=f"salad.{kind}s"):
        if point.name in known and known[point.name] != point.value:
            raise SaladError(
                f"two {kind}s are called '{point.name}': {known[point.name]} and {point.value}",
                "uninstall one of the two packages or rename its entry point",
            )
        known[point.name] = point.value
    return known


def fingerprint(name: str) -> str | None:
    """A hash of the code behind `file.py:Class`, so that an edited plug-in is not taken for the old one."""
    path = Path(name.rpartition(":")[0])
    if path.suffix != ".py" or not path.is_file():
        return None
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _load(kind: str, target: str) -> Any:
    place, _, attribute = target.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, attribute)
    except FileNotFoundError as e:
        raise SaladError(f"{kind} '{target}': no file {place}", "give the path from where you run salad") from e
    except (ImportError, AttributeError) as e:
        raise SaladError(f"{kind} '{target}' cannot be loaded ({e})", f"name an existing class as file.py:{kind.title()}") from e


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
