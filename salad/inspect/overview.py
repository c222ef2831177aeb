"""What a place holds, at a glance: counts, columns, totals, what was turned down, the first rows. No sound is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.columns import Columns
from rich.markup import escape
from rich.table import Table

from salad.console import console
from salad.errors import visible
from salad.inspect.database import Database, quoted, type_name
from salad.inspect.places import Place
from salad.inspect.rows import Choice, cell, note, plain_table, show_rows, wide
from salad.inspect.words import WORDS, kind_of
from salad.pipeline.ledger import NOT_REACHED

TOTALS = ("domain", "cluster", "voice", "reason", "selector", "rejected")
MOST = 8  # lines of a total; the rest are summed
BAR = 12  # characters
Row = dict[str, Any]
TYPE, LONGEST = 28, 48  # characters of a type, and of a name in a total


def show(place: Place, db: Database, limit: int) -> None:
    """Everything."""
    columns = [name for name in TOTALS if db.has(name)]
    whole, groups = _grouped(db, columns)
    _heading(place, db, whole["texts"], whole["seconds"])
    if place.parts:
        _rounds(place)
    _schema(db)
    _totals(groups)
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
    counts = f"count(*), {_sum(db)}, count(*) {condition}, {_sum(db)} {condition if seconds_of(db) else ''}"
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


def seconds_of(db: Database, view: str = "samples") -> str | None:
    """SQL for a row's seconds; where there is no such column they follow from the spans; None: nobody knows."""
    columns = {c.name: c for c in db.columns(view)}
    if "seconds" in columns:
        return "TRY_CAST(seconds AS DOUBLE)"
    spans = columns.get("spans")
    if spans and spans.type.id == "list" and str(spans.type).find("audio_end") >= 0:
        return "list_max(list_transform(spans, lambda x: x.audio_end))"
    return None


def _sum(db: Database, view: str = "samples") -> str:
    known = seconds_of(db, view)
    return f"sum({known})" if known else "NULL"


def _rounds(place: Place) -> None:
    with_control = any(found.control for _, found in place.parts)
    table = plain_table("Rounds")
    for head in ("round", "texts", "seconds", "clusters", "mean CER", "predicted D", "turned down", *["control"] * with_control):
        table.add_column(head, justify="left" if head == "round" else "right")
    for name, found in place.parts:
        with Database(_two(found)) as db:
            clusters = "count(DISTINCT cluster)" if db.has("cluster") else "NULL"
            asked = (
                f"SELECT count(*), {_sum(db)}, {clusters}, {_mean(db, 'cer')}, {_mean(db, 'predicted_divergence')} FROM samples"
            )
            texts, seconds, spread, cer, divergence = next(db.ask(asked))
            row = [escape(visible(name)), f"{texts:,}", _decimal(seconds), cell(spread), percent(cer), _three(divergence)]
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
    with Database(_two(control)) as db:
        texts, seconds = next(db.ask(f"SELECT count(*), {_sum(db)} FROM samples"))
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


def _totals(groups: dict[str, list[Row]]) -> None:
    """A table a column that sorts texts, as many beside each other as fit; a column of one value gets a line."""
    tables, alone = [], []
    for name, found in groups.items():
        if len(found) == 1 and found[0]["values"] == 1:
            alone += [(name, cell(found[0]["value"]))] if found[0]["value"] is not None else []
        elif found:
            tables.append(_total(name, found))
    if alone:
        console.print()
    for name, value in alone:
        console.print(f"[dim]{name:<9}[/] {escape(value)} [dim]everywhere[/]", soft_wrap=True)
    if tables:
        console.print()
        wide().print(Columns(tables, padding=(1, 4)))


def _grouped(db: Database, columns: Sequence[str]) -> tuple[Row, dict[str, list[Row]]]:
    """All rows together; and by column its largest values, then the sum of the others (`shown` is null). One pass."""
    keys = [quoted(c) for c in columns]
    seconds = seconds_of(db) or "NULL::DOUBLE"
    cer, divergence = (_finite(db, name) for name in ("cer", "predicted_divergence"))
    which = " + ".join(["0", *(f"{i + 1} * (1 - grouping({key}))" for i, key in enumerate(keys))])
    value = f"coalesce({', '.join(['NULL', *(f'CAST({key} AS VARCHAR)' for key in keys)])})"
    sql = f"""
        WITH counted AS (
            SELECT {which} AS which, {value} AS value, count(*) AS texts, sum({seconds}) AS seconds,
                sum({cer}) AS cer, count({cer}) AS checked, sum({divergence}) AS divergence, count({divergence}) AS predicted
            FROM samples GROUP BY GROUPING SETS ({", ".join(["()", *(f"({key})" for key in keys)])})
        ), ranked AS (
            SELECT *, row_number() OVER (PARTITION BY which ORDER BY seconds DESC NULLS LAST, texts DESC, value) AS place,
                count(*) OVER (PARTITION BY which) AS others
            FROM counted
        ), placed AS (SELECT *, CASE WHEN place <= {MOST} OR others = {MOST + 1} THEN place END AS shown FROM ranked)
        SELECT which, shown, min(value), count(*), sum(texts), sum(seconds), sum(cer) / nullif(sum(checked), 0),
            sum(divergence) / nullif(sum(predicted), 0)
        FROM placed GROUP BY which, shown ORDER BY which, shown NULLS LAST"""
    names = ("shown", "value", "values", "texts", "seconds", "cer", "divergence")
    found: list[list[Row]] = [[] for _ in range(len(columns) + 1)]
    for of, *row in db.ask(sql):
        found[of].append(dict(zip(names, row, strict=True)))
    return found[0][0], dict(zip(columns, found[1:], strict=True))


def _total(name: str, found: list[Row]) -> Table:
    timed, checked, predicted = (any(row[key] is not None for row in found) for key in ("seconds", "cer", "divergence"))
    table = plain_table()
    table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=LONGEST, header_style="bold")
    heads = ["texts", *["seconds"] * timed, "", *["CER"] * checked, *["pred. D"] * predicted]
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    measure = "seconds" if timed else "texts"
    most = max((row[measure] or 0 for row in found if row["shown"] is not None), default=0) or 1
    for row in found:
        rest = row["shown"] is None
        value = f"{row['values']:,} more" if rest else cell(row["value"])
        bar = "" if rest else _bar((row[measure] or 0) / most)
        cells = [f"{row['texts']:,}", *[_decimal(row["seconds"])] * timed, bar]
        cells += [percent(row["cer"])] * checked + [_three(row["divergence"])] * predicted
        table.add_row(f"[dim]{escape(value)}[/]" if rest else escape(value), *cells)
    return table


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
            table.add_row(escape(cell(reason)), f"{n:,}", _decimal(seconds))
        if rest := tried[MOST:]:
            heard = sum(s or 0.0 for *_, s in rest)
            table.add_row(f"[dim]{len(rest):,} more[/]", f"{sum(n for _, n, _ in rest):,}", _decimal(heard or None))
        wide().print(table)


def _reasons(db: Database) -> list[tuple[str | None, int, float | None]]:
    if not db.has("rejected", view="rejected"):
        return []
    sql = f"SELECT CAST(rejected AS VARCHAR), count(*), {_sum(db, 'rejected')} FROM rejected GROUP BY 1 ORDER BY 2 DESC, 1"
    return [(reason, n, seconds) for reason, n, seconds in db.ask(sql)]


def _control(control: Place) -> None:
    """The same of what a uniform control chose."""
    with Database(_two(control)) as db:
        texts, seconds = next(db.ask(f"SELECT count(*), {_sum(db)} FROM samples"))
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


def _finite(db: Database, name: str) -> str:
    """SQL for a number that counts: neither null nor NaN, whatever a foreign file has under that name."""
    value = f"TRY_CAST({quoted(name)} AS DOUBLE)"
    return f"CASE WHEN isfinite({value}) THEN {value} END" if db.has(name) else "NULL::DOUBLE"


def _mean(db: Database, name: str) -> str:
    return f"avg({_finite(db, name)})"


def _bar(share: float) -> str:
    full, part = divmod(round(share * BAR * 8), 8)
    return f"[cyan]{'█' * full}{' ▏▎▍▌▋▊▉'[part] if part else ''}[/]"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def spoken(seconds: float) -> str:
    """Of speech, in the unit that says most."""
    return f"{seconds:,.1f} s of speech" if seconds < 7200 else f"{seconds:,.0f} s of speech ({seconds / 3600:,.1f} h)"


def size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}" if unit == "B" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
