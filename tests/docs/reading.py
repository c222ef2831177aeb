"""What the documentation tells its reader to type: every shell command, every `salad …`, every Python and YAML block."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
# They tell what was run when they were written.
HISTORY = ("decisions.md", "log.md", "results.md", "licences-packages.md")
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in HISTORY),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
EXAMPLE = r": (salad [^\n]*?)(?=\. |\.?$)"
BLOCK = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
STANDS_FOR = {
    "CONFIG": "configs/demo.yaml",
    "COMMAND": "status",
    "FILE": "question.wav",
    "FOLDER": "runs/demo/stage-one/checkpoint/final",
    "N": "4",
    "NAME": "continuation",
    "OTHER": "runs/uniform",
    "PATH": "runs/demo/round-000/speech",
    "RUN": "runs/demo",
}
IN_PLACE_OF_DOTS = {"--to": "nemo-manifest", "--out": "exported", "--model": "tts_models/en/vctk/vits"}


@dataclass(frozen=True)
class Command:
    """text: as it stands there, without its comment; typed: what is typed, all placeholders filled in."""

    page: str
    text: str
    typed: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.typed)


@cache
def commands() -> list[Command]:
    """Every command of every page once, in their order; what is optional in it gives one more without."""
    found: dict[str, Command] = {}
    for page in PAGES:
        name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
        shown = [line for kind, block in BLOCK.findall(text) for line in lines(kind, block)]
        prose = BLOCK.sub("", text)
        shown += [line.strip() for line in re.findall(r"^ {4}(salad .*)$", prose, re.MULTILINE)]
        shown += [" ".join(s.split()) for s in re.findall(r"`(salad\s[^`]+)`", prose)]
        for said in shown:
            for typed in filled(said):
                found.setdefault(typed, Command(name, said, typed))
    for said in examples_of_the_help():
        found.setdefault(said, Command("the help", said, said))
    return list(found.values())


def lines(kind: str, block: str) -> list[str]:
    """The commands of a fenced block; of a console those after a prompt."""
    if kind not in ("sh", "bash", "console"):
        return []
    whole = [re.sub(r"(^|\s+)#( .*)?$", "", line).strip() for line in block.replace("\\\n", " ").splitlines()]
    if kind == "console":
        whole = [line.removeprefix("$ ") for line in whole if line.startswith("$ ")]
    return [" ".join(line.split()) if '"' not in line else line for line in whole if line]


def filled(said: str) -> list[str]:
    """`salad eval RUN [--items N]…` -> with and without its options, the placeholders filled in."""
    if not said.startswith("salad"):
        return [said]
    with_options, without = re.sub(r"[\[\]]", "", said), re.sub(r"\s*\[[^\]]*\]…?", "", said)
    typed = []
    for form in (with_options, without):
        words: list[str] = []
        for word in shlex.split(form):
            if word == "…":
                if words and words[-1] in IN_PLACE_OF_DOTS:
                    words.append(IN_PLACE_OF_DOTS[words[-1]])
                continue
            word = word.split("|")[0].removesuffix("…") if "|" in word or word.endswith("…") else word
            first = word == "N" and not words[-1].startswith("-")  # round 0, but four of what an option counts
            words.append("0" if first else STANDS_FOR.get(word, word))
        typed.append(shlex.join(words))
    return typed


def examples_of_the_help() -> list[str]:
    """`For example: salad …` in what the commands say of themselves, which the site shows too."""
    from salad.cli import app

    said = [inspect.getdoc(command.callback) or "" for command in app.registered_commands]
    return [found for text in [app.info.help or "", *said] for found in re.findall(EXAMPLE, text, re.MULTILINE)]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every fenced block of a language."""
    return [
        (page.relative_to(ROOT).as_posix(), code)
        for page in PAGES
        for kind, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == language
    ]


@cache
def hook(name: str) -> ModuleType:
    """docs/hooks/NAME.py, loaded as MkDocs loads it: from its file."""
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
