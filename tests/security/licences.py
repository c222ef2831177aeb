"""What the core needs, with licences: `make licences` writes docs/licences-packages.md, test_packages.py checks it.

The closure follows importlib.metadata from salad-speech without its extras; licences are pip-licenses' reading of the metadata.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "salad-speech"
# Permissive, or copyleft of the file alone (MPL): what links or imports them may have any licence.
FREE = re.compile(
    r"\b(mit|mit-0|apache|bsd|isc|0bsd|psf|python software foundation|cnri-python|mpl|mozilla|unlicense|zlib|public domain|cc0"
    r"|hpnd|zpl|zope|boost|bsl-1\.0|artistic)\b"
)
NOT_FREE = re.compile(r"gpl|gnu |sspl|proprietary|-nc-|commercial")
CUDA = re.compile(r"nvidia-|cuda-|triton")  # of torch's CUDA build, under NVIDIA's own terms; the CPU build has none of it
# Packages whose metadata says less than their files do, read by hand.
BY_HAND = {
    "text-unidecode": "Artistic-1.0 OR GPL-2.0-or-later",  # listed one after the other; its README says "or"
}
PAGE = """# Packages of the core

Everything that `pip install salad-speech` brings, without extras, and what each package's metadata says of its licence. Written
by `make licences`; a test keeps it true, and every licence permissive or MPL, or such a one to choose. torch's CUDA
build brings NVIDIA's libraries beside it, under their own terms. Of models, texts and voices: [licences.md](licences.md).

| package | licence |
|---|---|
"""


@dataclass(frozen=True)
class Package:
    name: str
    licence: str


def closure(root: str = ROOT) -> set[str]:
    """Every package that `root` needs here, itself left out; a package is reached with the extras that it is asked for with."""
    found: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(root), "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add((name, extra))
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return {name for name, _ in found if not CUDA.match(name)} - {canonicalize_name(root)}


def core() -> list[Package]:
    asked = [
        sys.executable,
        "-m",
        "piplicenses",
        "--from=mixed",
        "--format=json",
        "--with-system",
        "--packages",
        *sorted(closure()),
    ]
    said = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    named = {canonicalize_name(row["Name"]): _line(row["License"]) for row in said}
    return [Package(name, BY_HAND.get(name, named.get(name, "UNKNOWN"))) for name in sorted(closure())]


def is_free(licence: str) -> bool:
    """Whether one of the alternatives (OR) asks nothing of what is built on it; of all parts (AND) each has to."""
    return any(all(map(_part, re.split(r"\s+and\s+|;\s*", way))) for way in re.split(r"\s+or\s+(?!later)", licence.lower()))


def _part(licence: str) -> bool:
    return bool(FREE.search(licence)) and not NOT_FREE.search(licence)


def _line(text: str) -> str:
    """A cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")[:120]


if __name__ == "__main__":
    print(PAGE + "".join(f"| `{p.name}` | {p.licence} |\n" for p in core()), end="")
