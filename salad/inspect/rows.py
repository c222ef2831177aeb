"""Rows of a view, as `--where`, `--sort`, `--columns` and `--limit` ask for them, and how they look in a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from salad.console import console
from salad.errors import SaladError, visible
from salad.inspect.database import Column, Database, plain, within

# What is shown of a row where nobody asked for columns, as far as it is there.
SHOWN = (
    "id", "text", "rejected", "domain", "cluster", "voice", "seconds", "cer", "predicted_divergence", "divergence",
    "misalignment", "forgetting", "quarantined", "p_web", "p_target", "flag",
)  # fmt: skip
FEW = 8  # columns of a table that knows none of these
CROPPED = 400  # characters of a cell
PREFIX = 12  # of a text's id: more than enough to tell it from others
TEXT, OTHERS = 24, 20  # characters of a text at least, and of anything else at most
GAP = 3  # characters between two columns
NARROW = 9  # characters a column needs: with less, rows are shown one below the other


@dataclass(frozen=True)
class Choice:
    """Which rows and columns; order: names, with a minus those that fall."""

    where: str | None = None
    order: Sequence[str] = ()
    columns: Sequence[str] = ()
    limit: int | None = None

    def select(self, db: Database, expressions: Sequence[str], source: str = "samples") -> str:
        """The SELECT of these expressions. SaladError for a column to sort by that is not there."""
        condition = f" WHERE (\n{self.where}\n)" if self.where else ""
        order = ", ".join(_ordering(db, name) for name in self.order)
        return (
            f"SELECT {', '.join(expressions)} FROM {source}{condition}"
            + (f" ORDER BY {order}" if order else "")
            + (f" LIMIT {self.limit}" if self.limit is not None else "")
        )


def _ordering(db: Database, name: str) -> str:
    falls = name.startswith("-") and name not in {c.name for c in db.columns("samples")}
    return f"{db.known(name.removeprefix('-') if falls else name).quoted}{' DESC' if falls else ''} NULLS LAST"


def names(given: Sequence[str]) -> list[str]:
    """Of options that may hold several each, with commas between."""
    return [name.strip() for one in given for name in one.split(",") if name.strip()]


def shown_columns(db: Database, choice: Choice) -> list[Column]:
    """Those asked for; else the telling ones."""
    if choice.columns:
        return [db.known(name) for name in choice.columns]
    columns = db.columns("samples")
    telling = [column for name in SHOWN for column in columns if column.name == name]
    return telling if len(telling) > 2 else [c for c in columns if plain(c, sound=True)][:FEW]


def show_rows(db: Database, choice: Choice) -> None:
    """Print them."""
    columns = shown_columns(db, choice)
    rows = list(db.ask(choice.select(db, [plain(c, sound=True) or "NULL" for c in columns])))
    show(columns, rows, whole=bool(choice.columns))


def show_answer(db: Database, sql: str, limit: int) -> None:
    """Print what a user's SELECT gives, and whether that is all."""
    columns = db.question(sql)
    if not columns:
        raise SaladError("the SQL gives no column", "name one")
    rows = list(islice(db.ask(answer(sql, columns, sound=True)), limit + 1))
    show(columns, rows[:limit], whole=True)
    if len(rows) > limit:
        note(f"the first {limit:,} rows; --limit shows more, --export csv --out FILE writes all")


def answer(sql: str, columns: Sequence[Column], sound: bool = False) -> str:
    """A user's SELECT with bytes left out, or told by their number."""
    kept = [f"{value} AS {c.quoted}" for c in columns if (value := plain(c, sound=sound))]
    return f"SELECT {', '.join(kept) or 'NULL'} FROM (\n{within(sql)}\n)"


def show(columns: Sequence[Column], rows: Sequence[Sequence[Any]], whole: bool) -> None:
    """A table. whole: every column, texts folded, and where that is too wide one row below the other; else lines of what fits."""
    out = wide()
    if not rows:
        note("no rows")
    elif not whole:
        out.print(_lines(columns, rows, out.width))
    elif len(columns) * NARROW > out.width:
        _records(out, columns, rows)
    else:
        table = plain_table()
        for column in columns:
            justify: JustifyMethod = "right" if column.is_number else "left"
            table.add_column(escape(visible(column.name)), justify=justify, overflow="fold", no_wrap=column.is_number)
        for row in rows:
            table.add_row(*(escape(cell(value)) for value in row))
        out.print(table)


def _lines(columns: Sequence[Column], rows: Sequence[Sequence[Any]], width: int) -> Table:
    """A line a row: the text gets what the other columns leave of the width; the last of them go where it would be too little."""
    texts = [[_short(column, value) for column, value in zip(columns, row, strict=True)] for row in rows]
    needs = []
    for i, column in enumerate(columns):
        longest = max(cell_len(t) for t in (visible(column.name), *(row[i] for row in texts)))
        needs.append(min(longest, TEXT if column.name == "text" else OTHERS) + GAP)
    fit = max((n for n in range(1, len(columns) + 1) if sum(needs[:n]) <= width), default=1)
    spare = max(0, width - sum(needs[:fit]))
    table = plain_table()
    for column, need in zip(columns[:fit], needs, strict=False):
        table.add_column(
            escape(visible(column.name)),
            justify="right" if column.is_number else "left",
            overflow="ellipsis",
            no_wrap=True,
            max_width=need - GAP + spare * (column.name == "text"),
        )
    for row in texts:
        table.add_row(*map(escape, row[:fit]))
    return table


def _short(column: Column, value: Any) -> str:
    return cell(value)[:PREFIX] if column.name == "id" else cell(value)


def _records(out: Console, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    width = min(26, max(cell_len(visible(c.name)) for c in columns))
    for row in rows:
        out.print()
        for column, value in zip(columns, row, strict=True):
            out.print(f"[dim]{escape(visible(column.name).ljust(width))}[/]  {escape(cell(value))}", soft_wrap=True)


def plain_table(title: str | None = None) -> Table:
    """The look of all tables here."""
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "header_style": "dim"}
    return Table(title=title and escape(visible(title)), title_justify="left", title_style="bold", **look)


def wide() -> Console:
    """A terminal as it is; a file, which has no width of its own, gets wide lines."""
    return console if console.is_terminal else Console(width=max(150, console.width), highlight=False)


def note(text: str) -> None:
    """A line beside the point."""
    console.print(text, style="dim", markup=False, soft_wrap=True)


def cell(value: Any) -> str:
    """Any value on one line, with nothing in it that a terminal would obey, and not endless."""
    text = "–" if value is None else number(value) if isinstance(value, float) else _words(value)
    text = visible(" ".join(text.split()) if isinstance(value, str) else text).replace("\n", "�")
    return text if len(text) <= CROPPED else text[:CROPPED] + "…"


def _words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


def number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
