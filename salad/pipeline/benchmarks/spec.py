"""A benchmark as a short YAML: where its rows are, what is said of them, which option is right (docs/evaluation.md).

Templates are `string.Template`: a row's text is put in once and never looked at again, whatever it holds.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from salad.config import Part, read_mapping
from salad.errors import ConfigError, nearest

FOLDER = Path(__file__).parents[2] / "benchmarks"
HELDOUT = "run:heldout"  # as `dataset`: the run's own held-out texts, cut in two
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def _template(text: str) -> str:
    if not Template(text).is_valid():
        raise ValueError("a `$` that is no $column: write $$ for the sign itself")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise ValueError(f"not a regular expression ({e})") from e
    return text


Filled = Annotated[str, AfterValidator(_template)]


class Piece(Part):
    """A part of the prompt: heard in the spoken conditions, or read in all of them."""

    hear: Filled | None = None
    read: Filled | None = None
    audio: str | None = None  # a column with the sound of `hear`; None: a voice says it

    @model_validator(mode="after")
    def _one(self) -> Piece:
        if (self.hear is None) == (self.read is None):
            raise ValueError("give one of `hear` and `read`")
        if self.audio and self.hear is None:
            raise ValueError("`audio` is the sound of `hear`")
        return self

    @property
    def text(self) -> str:
        return self.hear if self.hear is not None else str(self.read)


class Options(Part):
    """One of: a column with a list, a column for each, or the same for every row."""

    column: str | None = None
    columns: list[str] = []
    fixed: list[str] = []

    @model_validator(mode="after")
    def _one(self) -> Options:
        if sum(map(bool, (self.column, self.columns, self.fixed))) != 1:
            raise ValueError("give one of `column`, `columns` and `fixed`")
        if not self.column and len(self.columns) + len(self.fixed) < 2:
            raise ValueError("fewer than two options")
        return self


class Answer(Part):
    """Which option is right: its number, or its label."""

    column: str
    first: int = 0  # the number of the first option …
    labels: str | list[str] | None = None  # … or their labels: a column with a list, or the list itself


class Shots(Part):
    """Answered examples before every question, the same for all."""

    count: int = Field(0, ge=0, le=64)
    split: str | None = None  # None: rows of the benchmark's own split that are not asked


class Benchmark(Part):
    name: str
    measures: str  # in a line
    licence: str
    dataset: str  # a hub name, a .parquet/.jsonl/.csv file or glob, or run:heldout
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    prompt: list[Piece] = Field(min_length=1)
    option: Filled = " $option"  # as it follows the prompt
    options: Options
    answer: Answer
    domain: str | None = None  # a column
    remove: Annotated[str, AfterValidator(_pattern)] | None = None  # a regular expression, taken out of every text
    shots: Shots = Shots()
    between: str = "\n\n"  # after each shot
    normalise: Literal["characters", "bytes", "prior", "none"] = "characters"  # what the headline accuracy goes by

    @model_validator(mode="after")
    def _sound(self) -> Benchmark:
        heard = [p for p in self.prompt if p.hear is not None]
        if not heard:
            raise ValueError("prompt: nothing of it is heard")
        if any(p.audio for p in heard) and (len(heard) > 1 or self.shots.count):
            raise ValueError("prompt: with `audio` there is one `hear` and no shots")
        if Template(self.option).get_identifiers() != ["option"]:
            raise ValueError("option: holds $option and no other column")
        return self

    @property
    def audio(self) -> str | None:
        """The column with the prompts' sound."""
        return next((p.audio for p in self.prompt if p.audio), None)


def known() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def load_benchmark(name: str) -> Benchmark:
    """By name, or from a YAML file by its path. ConfigError names file, key and what is wrong."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in known():
            raise ConfigError(
                f"unknown benchmark '{name}'{nearest(name, known())}", f"known: {', '.join(known())}; or give a YAML file"
            )
        path = FOLDER / f"{name}.yaml"
    data = read_mapping(path, "benchmark", "give the path of a YAML file, or a name", "see docs/evaluation.md")
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(f"benchmark {path}: its file name is its name", "use small letters, digits, '.', '_' and '-'")
    try:
        return Benchmark.model_validate({**data, "name": path.stem})
    except ValidationError as e:
        raise ConfigError(f"benchmark {path}: {_explain(e)}", "mend the file; docs/evaluation.md shows one") from e


def load_benchmarks(names: list[str]) -> list[Benchmark]:
    """Several, each once; two files of one name are an error."""
    found: dict[str, Benchmark] = {}
    for name in names:
        benchmark = load_benchmark(name)
        if found.setdefault(benchmark.name, benchmark) != benchmark:
            raise ConfigError(f"two benchmarks are called '{benchmark.name}'", "rename one of the files")
    return list(found.values())


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        at = ".".join(map(str, item["loc"])) or "top level"
        if item["type"] == "extra_forbidden":
            fields = list(Benchmark.model_fields) if len(item["loc"]) == 1 else []
            lines.append(f"unknown key '{at}'{nearest(str(item['loc'][-1]), fields)}")
        else:
            lines.append(f"'{at}': {'is missing' if item['type'] == 'missing' else item['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
