"""Sums over the rows of a place: all of them, and by the columns that sort texts. In one pass, and without the sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from salad.console import console
from salad.inspect.database import Database, fields, quoted
from salad.inspect.rows import cell, plain_table, wide

BY = ("domain", "cluster", "voice", "reason", "selector", "rejected")
MOST = 8  # lines of a total; the rest are summed
BAR, LONGEST = 12, 48  # characters of a bar, and of a value

Row = dict[str, Any]


def grouped(db: Database, columns: Sequence[str]) -> tuple[Row, dict[str, list[Row]]]:
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


def show(groups: dict[str, list[Row]]) -> None:
    """A table a column that sorts texts; a column of one value gets a line."""
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
    for table in tables:
        console.print()
        wide().print(table)


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
        cells = [f"{row['texts']:,}", *[decimal(row["seconds"])] * timed, bar]
        cells += [percent(row["cer"])] * checked + [three(row["divergence"])] * predicted
        table.add_row(f"[dim]{escape(value)}[/]" if rest else escape(value), *cells)
    return table


def seconds_of(db: Database, view: str = "samples") -> str | None:
    """SQL for a row's seconds; where there is no such column they follow from the spans; None: nobody knows."""
    columns = {c.name: c for c in db.columns(view)}
    if "seconds" in columns:
        return "TRY_CAST(seconds AS DOUBLE)"
    spans = columns.get("spans")
    if spans and any(name == "audio_end" for _, span in fields(spans.type) for name, _ in fields(span)):
        return "list_max(list_transform(spans, lambda x: x.audio_end))"
    return None


def summed(db: Database, view: str = "samples") -> str:
    """SQL for the seconds of all rows, null where nobody knows."""
    known = seconds_of(db, view)
    return f"sum({known})" if known else "NULL"


def _finite(db: Database, name: str) -> str:
    """SQL for a number that counts: neither null nor NaN, whatever a foreign file has under that name."""
    value = f"TRY_CAST({quoted(name)} AS DOUBLE)"
    return f"CASE WHEN isfinite({value}) THEN {value} END" if db.has(name) else "NULL::DOUBLE"


def mean(db: Database, name: str) -> str:
    """SQL for the mean of a column, as far as it has numbers."""
    return f"avg({_finite(db, name)})"


def _bar(share: float) -> str:
    full, part = divmod(round(share * BAR * 8), 8)
    return f"[cyan]{'█' * full}{' ▏▎▍▌▋▊▉'[part] if part else ''}[/]"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
