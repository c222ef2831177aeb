"""DuckDB over given Parquet files and nothing else: it reads them, writes nowhere, loads no extension, has no network.

Where a user's SQL is run, a path is never given to it. `allowed_paths` lets a statement write what it may read, and to DuckDB's
parser `WITH t AS (COPY … TO …) SELECT …` is a SELECT; so it asks `_reading`, which cannot write, for files by number ("salad://3").
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from salad.errors import SaladError, nearest

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

PROTOCOL = "salad"
PATTERN = set("*?[]{}")  # what DuckDB takes for a pattern in a path
BATCH = 256  # rows in memory at a time
MOST, LONGEST = 24, 160  # names and characters in an error
EXAMPLES = "`salad inspect --help` has examples"
# Column types whose values come to Python as they are; others come as text.
PLAIN = {
    "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint",
    "float", "double", "varchar", "date", "timestamp",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One of a table's or a question's."""

    name: str
    type: DuckDBPyType

    @property
    def quoted(self) -> str:
        """Its name in SQL, whatever it is called."""
        return quoted(self.name)

    @property
    def is_number(self) -> bool:
        return self.type.id in PLAIN - {"varchar", "date", "timestamp", "boolean"} or self.type.id == "decimal"


class Database:
    """Views over files by name; a column that some of a view's files lack is null there. Close it, or use it as a context."""

    def __init__(self, views: Mapping[str, Sequence[Path]], ours: bool = False) -> None:
        """SaladError for a file that is no Parquet, or files of one view that do not go together.

        ours: no SQL of a user will be run; then files are read by their paths, which is quicker.
        """
        self.files = [path for paths in views.values() for path in paths]
        self.views = list(views)
        self._con = duckdb.connect(":memory:", config=_CLOSED)
        paths = [os.path.abspath(path) for path in self.files]
        if not ours or any(set(path) & PATTERN for path in paths):
            self._con.register_filesystem(_reading(self.files))
            paths = [f"{PROTOCOL}://{i}" for i in range(len(paths))]
        self._con.execute("SET GLOBAL allowed_paths = ?", [paths])
        each = iter(paths)
        named = {view: [next(each) for _ in files] for view, files in views.items()}
        for setting in _SETTINGS:
            self._con.execute(f"SET GLOBAL {setting}")
        self._columns: dict[str, list[Column]] = {}
        for view, names in named.items():
            files = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
            source = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
            try:
                self._con.execute(f"CREATE VIEW {quoted(view)} AS SELECT * FROM {source}")
                found = self._con.view(quoted(view))
            except duckdb.Error as e:
                self.close()
                raise self._damaged(e) from e
            self._columns[view] = [Column(*both) for both in zip(found.columns, found.types, strict=True)]

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._con.close()

    def columns(self, view: str) -> list[Column]:
        """In order; none where there is no such view."""
        return self._columns.get(view, [])

    def has(self, *names: str, view: str = "samples") -> bool:
        return set(names) <= {column.name for column in self.columns(view)}

    def question(self, sql: str) -> list[Column]:
        """The columns of a user's SELECT. SaladError where it is no single SELECT, or names what is not there."""
        try:
            statements = self._con.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise SaladError("the SQL is not one SELECT", f"it can read {', '.join(self.views)}, and change nothing")
            found = self._con.sql(f"SELECT * FROM (\n{within(sql)}\n)")
            return [Column(*both) for both in zip(found.columns, found.types, strict=True)]
        except duckdb.Error as e:
            raise self._explained(e) from e

    def ask(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a SELECT of our own, in which a user's condition may stand, as they are read."""
        cursor = self._con.cursor()
        try:
            statements = cursor.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise SaladError("the condition is more than a condition", EXAMPLES)
            cursor.execute(sql, list(values))
            while rows := cursor.fetchmany(BATCH):
                yield from rows
        except duckdb.Error as e:
            raise self._explained(e) from e
        finally:
            cursor.close()

    def known(self, name: str, view: str = "samples") -> Column:
        """A column by its name, in any case; SaladError with the nearest name where there is none."""
        columns = self.columns(view)
        same = [c for c in columns if c.name == name] or [c for c in columns if c.name.lower() == name.lower()]
        if not same:
            raise self._no_column(name)
        return same[0]

    def _no_column(self, name: str) -> SaladError:
        names = list(dict.fromkeys(c.name for columns in self._columns.values() for c in columns))
        more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
        return SaladError(f"there is no column '{name}'{nearest(name, names)}", f"columns: {', '.join(names[:MOST])}{more}")

    def _explained(self, error: duckdb.Error) -> SaladError:
        text = str(error)
        if found := re.search(r'Referenced column "(.*?)" (?:was )?not found', text):
            return self._no_column(found[1])
        if found := re.search(r"Table with name (.*?) does not exist", text):
            return SaladError(
                f"there is no table '{found[1]}'{nearest(found[1], self.views)}", f"tables: {', '.join(self.views)}"
            )
        if isinstance(error, duckdb.PermissionException):
            return SaladError(f"SQL reads {', '.join(self.views)} here, and no other file", EXAMPLES)
        if isinstance(error, (duckdb.OutOfMemoryException, duckdb.InterruptException)):
            return SaladError(_first(text), "ask for less: fewer columns, a condition, a limit")
        broken = type(error) is duckdb.Error or isinstance(error, (duckdb.IOException, duckdb.SerializationException))
        if broken or f"{PROTOCOL}://" in text or "Traceback" in text or any(os.path.abspath(f) in text for f in self.files):
            return self._damaged(error)
        return SaladError(f"SQL: {_first(text)}", EXAMPLES)

    def _damaged(self, error: duckdb.Error) -> SaladError:
        """Which file it is, where DuckDB says so."""
        text = str(error)
        number = re.search(rf"{PROTOCOL}://(\d+)", text)
        file = self.files[int(number[1])] if number else next((f for f in self.files if os.path.abspath(f) in text), None)
        told = re.sub(rf"['\"]?({PROTOCOL}://\d+|{re.escape(os.path.abspath(file or '.'))})['\"]?", "it", _first(text))
        what = told.removeprefix("Error while reading file it: ")[:LONGEST]
        if file is None:
            return SaladError(
                f"{self._common()} cannot be read ({what})", "a file is damaged, or of another kind than the others"
            )
        return SaladError(f"{file} cannot be read ({what})", "the file is damaged or of another kind")

    def _common(self) -> str:
        return str(self.files[0] if len(self.files) == 1 else os.path.commonpath(self.files))


def within(sql: str) -> str:
    """A SELECT as it may stand in brackets: without the semicolon at its end, and a comment after that."""
    bare = re.sub(r"(;\s*(--[^\n]*\s*)*)+$", "", sql)
    try:
        return bare if len(duckdb.extract_statements(bare)) == 1 else sql
    except duckdb.Error:  # it was in a string
        return sql


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def plain(column: Column, sound: bool = False) -> str | None:
    """SQL for a value without bytes; None where a column is nothing else. sound: say how many bytes there are, instead."""
    name, kind = column.quoted, column.type
    if kind.id == "blob":
        return f"octet_length({name}) || ' bytes'" if sound else None
    if kind.id == "float":  # the shortest number that is the same float32, not its double
        return f"CAST(CAST({name} AS VARCHAR) AS DOUBLE)"
    if kind.id == "struct" and _has_bytes(kind):
        parts = [f"{quoted(key)} := {name}.{quoted(key)}" for key, child in fields(kind) if not _has_bytes(child)]
        parts += [f"{quoted(key)} := octet_length({name}.{quoted(key)}) || ' bytes'"
                  for key, child in fields(kind) if sound and child.id == "blob"]  # fmt: skip
        return f"CASE WHEN {name} IS NOT NULL THEN struct_pack({', '.join(parts)}) END" if parts else None
    if _has_bytes(kind):
        return None
    return name if _is_plain(kind) else f"CAST({name} AS VARCHAR)"


def _has_bytes(kind: DuckDBPyType) -> bool:
    return kind.id == "blob" or any(_has_bytes(child) for child in _children(kind))


def _is_plain(kind: DuckDBPyType) -> bool:
    below = _children(kind)
    return all(map(_is_plain, below)) if below else kind.id in PLAIN


def fields(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    """What a nested type is made of; nothing for any other."""
    below: Any = kind.children if kind.id in ("list", "array", "struct", "map", "union") else []
    return [(name, child) for name, child in below if not isinstance(child, int)]  # an array's size


def _children(kind: DuckDBPyType) -> list[DuckDBPyType]:
    return [child for _, child in fields(kind)]


def type_name(kind: DuckDBPyType) -> str:
    """As pyarrow and docs/shards.md call it."""
    if kind.id in ("list", "array"):
        return f"list of {type_name(_children(kind)[0])}"
    if kind.id == "struct":
        return f"struct of {', '.join(name for name, _ in fields(kind))}"
    return _ARROW.get(kind.id, str(kind).lower())


def _first(text: str) -> str:
    """What an error of DuckDB says, without the place; of one that came through Python, its last line."""
    if "Traceback" in text:
        lines = [line for line in text.split("\n\nLINE ")[0].splitlines() if line.strip()]
        return lines[-1].strip() if lines else "unreadable"
    return re.sub(r"^[A-Za-z ]+ Error: ", "", " ".join(text.split("\n\nLINE ")[0].split()))[: 2 * LONGEST]


def _reading(paths: Sequence[Path]) -> Any:
    """A file system of these files, by number, to read."""
    import fsspec

    class Files(fsspec.AbstractFileSystem):
        protocol = PROTOCOL
        cachable = False

        def open(self, path: str, mode: str = "rb", **_: Any) -> _Reader:
            if mode != "rb":
                raise PermissionError("files are only read here")
            return _Reader(_numbered(paths, path))

        def exists(self, path: str, **_: Any) -> bool:
            return True

        def glob(self, path: str, **_: Any) -> list[str]:
            return [path]

        def size(self, path: str) -> int:
            return _numbered(paths, path).stat().st_size

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(_numbered(paths, path).stat().st_mtime)

    return Files()


def _numbered(paths: Sequence[Path], name: str) -> Path:
    return paths[int(name.rpartition("/")[2])]


class _Reader:
    """An open file in which every thread has its own place: DuckDB's threads seek, then read, and share it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._at: dict[int, int] = {}

    def seek(self, to: int, whence: int = 0) -> int:
        self._at[threading.get_ident()] = to
        return to

    def tell(self) -> int:
        return self._at.get(threading.get_ident(), 0)

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self.tell())
        self.seek(self.tell() + len(data))
        return data

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


_CLOSED: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # names of Python variables are no tables
    "temp_directory": "",  # nothing is spilled
}
_SETTINGS = (
    "parquet_metadata_cache = true",
    "enable_external_file_cache = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
_ARROW = {
    "varchar": "string", "blob": "binary", "boolean": "bool", "tinyint": "int8", "smallint": "int16", "integer": "int32",
    "bigint": "int64", "utinyint": "uint8", "usmallint": "uint16", "uinteger": "uint32", "ubigint": "uint64", "float": "float32",
    "double": "float64",
}  # fmt: skip
