"""`salad inspect`: selected samples in a terminal. Looks, filters, asks in SQL, plays, exports; needs DuckDB and nothing heavier.

`places` says which files lie at a path, `database` reads them and nothing else, the other modules are what a user sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from salad.errors import SaladError

ROWS, ANSWERS = 10, 100  # rows shown, of a place and of SQL, where nobody says how many


@dataclass(frozen=True)
class Request:
    """What is asked of a path, as the command line has it."""

    where: str | None = None
    sort: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    limit: int | None = None
    sql: str | None = None
    play: str | None = None
    export: str | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        rows = {"--where": self.where, "--sort": self.sort, "--columns": self.columns}
        other = {"--sql": self.sql, "--play": self.play, "--export": self.export}
        if self.sql is not None and self.play is None:
            _apart("--sql", {**rows, "--export wav": self.export == "wav"}, "say it in the SQL")
        if self.play is not None:
            _apart("--play", {**rows, **{k: v for k, v in other.items() if k != "--play"}}, "the id says all")
        if self.export == "wav":
            _apart("--export wav", {"--columns": self.columns}, "index.jsonl has all of them")
        if (self.export is None) != (self.out is None):
            raise SaladError("--export and --out go together", "for example --export csv --out rows.csv")

    @property
    def is_plain(self) -> bool:
        return not (self.where or self.sort or self.columns)


def inspect(path: Path, asked: Request) -> None:
    """Answer what is asked of a path. SaladError, on one line, for whatever is wrong with the path, the question or the files."""
    from salad.inspect import overview, rows
    from salad.inspect.database import Database
    from salad.inspect.places import find

    place = find(path)
    choice = rows.Choice(asked.where, rows.names(asked.sort), rows.names(asked.columns), asked.limit)
    with Database(place.views, ours=asked.where is None and asked.sql is None) as db:
        if asked.play is not None:
            from salad.inspect import sample

            sample.play(db, path, asked.play)
        elif asked.export is not None and asked.out is not None:
            from salad.inspect import write

            count, lost = write.write(db, asked.export, asked.out, choice, asked.sql)
            write.tell(count, lost, asked.export, asked.out)
        elif asked.sql is not None:
            rows.show_answer(db, asked.sql, asked.limit or ANSWERS)
        elif asked.is_plain:
            overview.show(place, db, asked.limit or ROWS)
        else:
            overview.found(place, db, choice, asked.limit or ROWS)


def _apart(option: str, others: dict[str, object], advice: str) -> None:
    clash = [name for name, value in others.items() if value]
    if clash:
        raise SaladError(f"{option} does not go with {clash[0]}", advice)
