"""What a place holds, at a glance: counts, columns, totals, what was turned down, the first rows. No sound is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.markup import escape

from salad.console import console
from salad.errors import visible
from salad.inspect import totals
from salad.inspect.database import Database, type_name
from salad.inspect.places import Place
from salad.inspect.rows import Choice, cell, note, plain_table, show_rows, wide
from salad.inspect.totals import MOST, decimal, mean, percent, seconds_of, summed, three
from salad.inspect.words import WORDS, kind_of
from salad.pipeline.ledger import NOT_REACHED

TYPE = 28  # characters of a column's type


def show(place: Place, db: Database, limit: int) -> None:
    """Everything."""
    columns = [name for name in totals.BY if db.has(name)]
    whole, groups = totals.grouped(db, columns)
    _heading(place, db, whole["texts"], whole["seconds"])
    if place.parts:
        _rounds(place)
    _schema(db)
    totals.show(groups)
    if "rejected" in place.tables:
        _turned_down(db)
    if place.control:
        _control(place.control)
    console.print("\n[bold]First rows[/]\n" if whole["texts"] else "")
    show_rows(db, Choice(limit=limit))
    _hints(place, db, whole["texts"])


def found(place: Place, db: Database, choice: Choice, limit: int) -> None:
    """The rows that a condition lets through, in an order: how many, how long, and the first of them."""
    condition = f"FILTER (WHERE (\n{choice.where}\n))" if choice.where else ""
    counts = f"count(*), {summed(db)}, count(*) {condition}, {summed(db)} {condition if seconds_of(db) else ''}"
    ((texts, seconds, left, heard),) = db.ask(f"SELECT {counts} FROM samples")
    _heading(place, db, texts, seconds)
    if choice.where:
        known = f" · {spoken(heard or 0.0)}" if seconds is not None else ""
        console.print(f"[cyan]{left:,} of them{known}[/] [dim]where[/] {escape(cell(choice.where))}", soft_wrap=True)
    console.print()
    show_rows(db, replace(choice, limit=limit))


def _heading(place: Place, db: Database, rows: int, seconds: float | None) -> None:
    """What it is; rows, files, bytes, seconds."""
    kind, unit = kind_of({c.name for c in db.columns("samples")})
    files = f"{len(place.samples):,} file{'s' * (len(place.samples) > 1)}"
    facts = [f"{rows:,} {unit if rows != 1 else unit[:-1]}", files, size(place.bytes)]
    facts += [spoken(seconds)] if seconds is not None else []
    what = ": ".join(filter(None, (place.what, kind)))
    console.print(f"[bold]{escape(visible(str(place.path)))}[/]  {escape(visible(what))}", soft_wrap=True)
    console.print(f"[cyan]{' · '.join(facts)}[/]", soft_wrap=True)


def _rounds(place: Place) -> None:
    with_control = any(found.control for _, found in place.parts)
    table = plain_table("Rounds")
    for head in ("round", "texts", "seconds", "clusters", "mean CER", "predicted D", "turned down", *["control"] * with_control):
        table.add_column(head, justify="left" if head == "round" else "right")
    for name, found in place.parts:
        with Database(_two(found), ours=True) as db:
            clusters = "count(DISTINCT cluster)" if db.has("cluster") else "NULL"
            asked = (
                f"SELECT count(*), {summed(db)}, {clusters}, {mean(db, 'cer')}, {mean(db, 'predicted_divergence')} FROM samples"
            )
            texts, seconds, spread, cer, divergence = next(db.ask(asked))
            row = [escape(visible(name)), f"{texts:,}", decimal(seconds), cell(spread), percent(cer), three(divergence)]
            down = _reasons(db)
        row.append(f"{sum(n for reason, n, _ in down if reason != NOT_REACHED):,}" if "rejected" in found.tables else "–")
        table.add_row(*row, *[_in_short(found.control)] * with_control)
    console.print()
    wide().print(table)


def _two(place: Place) -> dict[str, Any]:
    return {name: files for name, files in place.views.items() if name in ("samples", "rejected")}


def _in_short(control: Place | None) -> str:
    if control is None:
        return "–"
    with Database(_two(control), ours=True) as db:
        texts, seconds = next(db.ask(f"SELECT count(*), {summed(db)} FROM samples"))
    return f"{texts:,} texts" + (f", {seconds:,.1f} s" if seconds is not None else "")


def _schema(db: Database) -> None:
    table = plain_table("Columns")
    for head in ("name", "type", "what it is"):
        table.add_column(head, overflow="fold")
    for column in db.columns("samples"):
        kind = type_name(column.type)
        kind = kind if len(kind) <= TYPE else kind[: TYPE - 1] + "…"
        told = WORDS.get(column.name, "").replace("`", "")
        table.add_row(escape(cell(column.name)), f"[dim]{escape(visible(kind))}[/]", escape(told))
    console.print()
    wide().print(table)


def _turned_down(db: Database) -> None:
    """Reasons of the rejected, the commonest first; those whose turn never came are told apart."""
    reasons = _reasons(db)
    tried = [row for row in reasons if row[0] != NOT_REACHED]
    left = sum(n for reason, n, _ in reasons if reason == NOT_REACHED)
    console.print(f"\n[bold]Turned down[/]  {sum(n for _, n, _ in tried):,} texts", end="")
    console.print(f"[dim] · the turn of {left:,} never came: the budget was met[/]" if left else "")
    if tried:
        console.print()
        table = plain_table()
        for head in ("reason", "texts", "seconds"):
            table.add_column(head, justify="left" if head == "reason" else "right", overflow="fold")
        for reason, n, seconds in tried[:MOST]:
            table.add_row(escape(cell(reason)), f"{n:,}", decimal(seconds))
        if rest := tried[MOST:]:
            heard = sum(s or 0.0 for *_, s in rest)
            table.add_row(f"[dim]{len(rest):,} more[/]", f"{sum(n for _, n, _ in rest):,}", decimal(heard or None))
        wide().print(table)


def _reasons(db: Database) -> list[tuple[str | None, int, float | None]]:
    if not db.has("rejected", view="rejected"):
        return []
    sql = f"SELECT CAST(rejected AS VARCHAR), count(*), {summed(db, 'rejected')} FROM rejected GROUP BY 1 ORDER BY 2 DESC, 1"
    return [(reason, n, seconds) for reason, n, seconds in db.ask(sql)]


def _control(control: Place) -> None:
    """The same of what a uniform control chose."""
    with Database(_two(control), ours=True) as db:
        texts, seconds = next(db.ask(f"SELECT count(*), {summed(db)} FROM samples"))
        known = f", {spoken(seconds)}" if seconds is not None else ""
        console.print(f"\n[bold]Control[/]  {escape(visible(str(control.path)))}: {texts:,} texts{known}", soft_wrap=True)
        if "rejected" in control.tables:
            _turned_down(db)


def _hints(place: Place, db: Database, rows: int) -> None:
    more = ["--where, --sort, --columns and --sql look closer"]
    if rows and db.has("id", "audio"):
        more.append("--play ID plays one")
    if len(place.tables):
        more.append(f"tables for --sql: {', '.join(place.views)}")
    note("\n" + " · ".join(more))


def spoken(seconds: float) -> str:
    """Of speech, in the unit that says most."""
    return f"{seconds:,.1f} s of speech" if seconds < 7200 else f"{seconds:,.0f} s of speech ({seconds / 3600:,.1f} h)"


def size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}" if unit == "B" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
