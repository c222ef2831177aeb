"""Rows to questions: templates filled in, what is heard marked, shots drawn, and an error that names the row.

`items.parquet`, a row a question, after the shots: `id` · `role` (shot or item) · `text` (the prompt; a shot with its
answer) · `spoken` (first and last character of each stretch that is heard, flat) · `options` as they follow it ·
`answer` · `domain` · `audio` (the prompt's sound where the dataset has it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.config import Config
from salad.errors import SaladError, nearest
from salad.pipeline.benchmarks.rows import Source, continuation_rows, open_rows
from salad.pipeline.benchmarks.spec import HELDOUT, Benchmark
from salad.tts.speakable import speakable

Row = dict[str, Any]
ITEMS = pa.schema(
    [
        ("id", pa.string()),
        ("role", pa.string()),
        ("text", pa.string()),
        ("spoken", pa.list_(pa.int32())),
        ("options", pa.list_(pa.string())),
        ("answer", pa.int32()),
        ("domain", pa.string()),
        ("audio", pa.binary()),
    ]
)


def build_items(
    out: Path, config: Config, benchmark: Benchmark, items: int, heldout: Path | None, progress: Callable[..., None]
) -> dict[str, Any]:
    """The first `items` rows of a benchmark in its seeded order that can be said, and its shots, to `items.parquet`.

    heldout: speech of the run's held-out texts, where the benchmark is made of them. Prompts that no voice can say are
    named in the meta, with the reason.
    """
    source = _open(benchmark, config, benchmark.split, heldout)
    rows = iter(source)
    unspeakable: dict[str, str] = {}
    asked: list[Row] = []
    for key, row in islice(rows, items):
        item = make_item(benchmark, source, key, row)
        if problem := _problem(benchmark, item):
            unspeakable[item["id"]] = problem
        else:
            asked.append(item)
        progress(len(asked), items)
    if not asked:
        why = ", ".join(sorted(set(unspeakable.values())))
        raise SaladError(f"benchmark {benchmark.name}: none of its first {items} prompts can be said ({why})", "choose another")
    shots = _shots(benchmark, _others(benchmark, config, source, rows))
    pq.write_table(pa.Table.from_pylist([*shots, *asked], ITEMS), out / "items.parquet", row_group_size=32)
    return {"items": len(asked), "shots": len(shots), "of": len(source.order), "unspeakable": unspeakable}


def _open(benchmark: Benchmark, config: Config, split: str, heldout: Path | None) -> Source:
    if benchmark.dataset != HELDOUT:
        return open_rows(benchmark, split, config.seed)
    assert heldout is not None, "continuation is asked of a run"
    return continuation_rows(heldout, config.seed)


def _others(benchmark: Benchmark, config: Config, source: Source, rest: Iterator[tuple[str, Row]]) -> Iterable[Row]:
    """Items for shots: of another split, or of the rows that are not asked."""
    split = benchmark.shots.split
    if not benchmark.shots.count:
        return
    if split and split != benchmark.split and benchmark.dataset != HELDOUT:
        source = open_rows(benchmark, split, config.seed)
        rest = iter(source)
    for key, row in rest:
        yield make_item(benchmark, source, f"shot-{key}", row)


def _shots(benchmark: Benchmark, others: Iterable[Row]) -> list[Row]:
    """Prompt and true answer, as many as are wanted of those that can be said."""
    wanted = benchmark.shots.count
    found = list(islice((item for item in others if not _problem(benchmark, item)), wanted))
    if len(found) < wanted:
        raise SaladError(
            f"benchmark {benchmark.name}: {len(found)} rows are left for {wanted} shots",
            "ask for fewer items or shots, or name another split for shots",
        )
    return [{**s, "role": "shot", "text": s["text"] + s["options"][s["answer"]] + benchmark.between} for s in found]


def make_item(benchmark: Benchmark, source: Source, key: str, row: Row) -> Row:
    """A row of ITEMS. SaladError names the dataset, the row and the key of what is wrong with it."""
    where = f"{source.name}, {key}"

    def value(column: str, wanted_by: str) -> Any:
        return _value(row, column, f"{where}, {wanted_by}", source.columns)

    def filled(template: str, wanted_by: str) -> str:
        words = Template(template)
        return words.substitute({c: _text(value(c, wanted_by), benchmark, c, where) for c in words.get_identifiers()})

    text, spoken = "", []
    for i, piece in enumerate(benchmark.prompt):
        words = filled(piece.text, f"prompt.{i}")
        if piece.hear is not None:
            if not words.strip():
                raise SaladError(f"{where}: an empty prompt", f"prompt.{i} ('{piece.hear}') gives no words")
            spoken += [len(text), len(text) + len(words)]
        text += words
    given = _options(benchmark, value)
    options = [_text(o, benchmark, "options", where).strip() for o in given]
    if len(options) < 2:
        raise SaladError(f"{where}: {len(options)} options", "a choice needs two or more")
    if not all(options):
        raise SaladError(f"{where}: option {options.index('')} is empty", "mend the row, or leave it out")
    audio = value(benchmark.audio, "prompt") if benchmark.audio else None
    return {
        "id": f"{benchmark.name}-{key}",
        "role": "item",
        "text": text,
        "spoken": spoken,
        "options": [Template(benchmark.option).substitute(option=o) for o in options],
        "answer": _answer(benchmark, value, len(options), where),
        "domain": _domain(value(benchmark.domain, "domain")) if benchmark.domain else None,
        "audio": _sound(audio, where) if benchmark.audio else None,
    }


def _options(benchmark: Benchmark, value: Callable[[str, str], Any]) -> list[Any]:
    o = benchmark.options
    if o.column:
        found = value(o.column, "options.column")
        return list(found) if isinstance(found, (list, tuple)) else [found]
    return [value(c, "options.columns") for c in o.columns] or list(o.fixed)


def _answer(benchmark: Benchmark, value: Callable[[str, str], Any], n: int, where: str) -> int:
    a = benchmark.answer
    given = value(a.column, "answer.column")
    if a.labels is not None:
        labels = [str(x).strip() for x in (value(a.labels, "answer.labels") if isinstance(a.labels, str) else a.labels)]
        if str(given).strip() not in labels:
            raise SaladError(
                f"{where}: the answer {str(given)[:40]!r} is none of the labels {labels}", "mend the row or `answer`"
            )
        found = labels.index(str(given).strip())
    else:
        try:
            found = int(given) - a.first
        except (TypeError, ValueError) as e:
            raise SaladError(f"{where}: the answer {str(given)[:40]!r} is no number", "name `answer.labels`") from e
    if not 0 <= found < n:
        raise SaladError(
            f"{where}: the answer {str(given)[:40]!r} is out of range: {n} options", "mend the row or `answer.first`"
        )
    return found


def _value(row: Row, column: str, where: str, columns: list[str]) -> Any:
    """Of a column, or `column.key` of a column of structs."""
    top, _, below = column.partition(".")
    name = column if column in row else top
    if name not in row:
        raise SaladError(f"{where}: no column '{column}'{nearest(column, columns)}", f"its columns: {', '.join(columns)}")
    found = row[name]
    if name == column:
        return found
    if not isinstance(found, dict) or below not in found:
        keys = ", ".join(map(str, found)) if isinstance(found, dict) else "it has no keys"
        raise SaladError(f"{where}: '{top}' has no '{below}'", f"its keys: {keys}")
    return found[below]


def _text(value: Any, benchmark: Benchmark, column: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        kind = "null" if value is None else type(value).__name__
        raise SaladError(f"{where}: '{column}' is {kind}, not text", "mend the row, or name another column")
    text = str(value).replace("\x00", "")
    return (re.sub(benchmark.remove, "", text) if benchmark.remove else text).strip()


def _domain(value: Any) -> str | None:
    return None if value is None else str(value)


def _sound(value: Any, where: str) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise SaladError(f"{where}: no sound", "the dataset must hold the sound itself, not a path")
    return bytes(data)


def _problem(benchmark: Benchmark, item: Row) -> str | None:
    """Why a prompt cannot be said; None where it can, or brings its sound."""
    if benchmark.audio:
        return None
    heard = zip(item["spoken"][::2], item["spoken"][1::2], strict=True)
    return next((p for a, b in heard if (p := speakable(item["text"][a:b].strip()).problem)), None)
