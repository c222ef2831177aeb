"""Rows of a view, as `--where`, `--sort`, `--columns` and `--limit` ask for them, and how they look in a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salad.console import console
from salad.errors import SaladError, visible
from salad.inspect.database import Column, Database, plain

# What is shown of a row where nobody asked for columns, as far as it is there.
SHOWN = (
    "id", "text", "rejected", "domain", "cluster", "voice", "seconds", "cer", "predicted_divergence", "divergence", "misalignment",
    "forgetting", "quarantined", "p_web", "p_target", "flag",
)  # fmt: skip
FEW = 8  # columns of a table that knows none of these
CROPPED = 400  # characters of a cell
PREFIX = 12  # of a text's id: more than enough to tell it from others
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
    return telling if len(telling) > 2 else [c for c in columns if plain(c)][:FEW]


def show_rows(db: Database, choice: Choice) -> int:
    """Print them; returns how many there were."""
    columns = shown_columns(db, choice)
    rows = list(db.ask(choice.select(db, [plain(c, sound=True) or "NULL" for c in columns])))
    return show(columns, rows, whole=bool(choice.columns))


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
    return f"SELECT {', '.join(kept) or 'NULL'} FROM (\n{sql.strip().rstrip(';')}\n)"


def show(columns: Sequence[Column], rows: Sequence[Sequence[Any]], whole: bool) -> int:
    """A table, or where that would be too wide one row below the other. whole: texts are folded, not cut."""
    out = wide()
    if not rows:
        note("no rows")
    elif len(columns) * NARROW > out.width:
        for row in rows:
            out.print()
            width = max(len(c.name) for c in columns)
            for column, value in zip(columns, row, strict=True):
                name = escape(visible(column.name).ljust(min(width, 26)))
                out.print(f"  [dim]{name}[/]  {escape(cell(value))}", soft_wrap=True)
    else:
        table = plain_table()
        for column in columns:
            cut = not whole and column.name in ("text", "id")
            table.add_column(
                escape(visible(column.name)),
                justify="right" if column.is_number else "left",
                overflow="ellipsis" if cut else "fold",
                no_wrap=cut or column.is_number,
                ratio=1 if cut and column.name == "text" else None,
            )
        for row in rows:
            texts = [cell(v) for v in row]
            if not whole:
                texts = [t[:PREFIX] if c.name == "id" else t for c, t in zip(columns, texts, strict=True)]
            table.add_row(*map(escape, texts))
        out.print(table)
    return len(rows)


def plain_table(title: str | None = None) -> Table:
    """The look of all tables here."""
    return Table(
        title=title and escape(visible(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        header_style="dim",
    )  # fmt: skip


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


