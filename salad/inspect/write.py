"""`salad inspect PATH --export csv|jsonl|wav --out PATH`: rows or sounds for other programs, which appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from salad.console import console, stop_if_interrupted
from salad.errors import SaladError, nearest, visible
from salad.inspect.database import Column, Database, fields, plain
from salad.inspect.rows import Choice, answer
from salad.inspect.sample import to_wav

FORMATS = ("csv", "jsonl", "wav")
LONGEST = 60  # characters of an id in a file's name
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # names that are devices
NUMBER = "__number"
SOME = 10  # of what is lost, by name


def write(db: Database, to: str, out: Path, choice: Choice, sql: str | None = None) -> tuple[int, list[str]]:
    """Rows written, and what had no sound, in words. SaladError for a format that is unknown, or a target that is there."""
    if to not in FORMATS:
        raise SaladError(f"unknown format '{to}'{nearest(to, list(FORMATS))}", f"known: {', '.join(FORMATS)}")
    if to == "wav":
        with _appears(out) as partial:
            partial.mkdir()
            return _sounds(db, partial, choice)
    columns, query = _question(db, choice, sql)
    with _appears(out) as partial:
        return (_csv if to == "csv" else _jsonl)(partial, columns, db.ask(query)), []


def tell(count: int, lost: Sequence[str], to: str, out: Path) -> None:
    """What was written, and what had no sound."""
    what = "sounds and index.jsonl" if to == "wav" else "rows"
    console.print(f"{count:,} {what}: {out}", markup=False, soft_wrap=True)
    for one in lost[:SOME]:
        console.print(visible(f"without a sound: {one}"), markup=False, soft_wrap=True)
    if len(lost) > SOME:
        console.print(f"… and {len(lost) - SOME:,} more: index.jsonl has no file for them", markup=False)


def _question(db: Database, choice: Choice, sql: str | None) -> tuple[list[str], str]:
    """Names of what is written, and the SELECT that gives it; columns of bytes are left out."""
    asked = [db.known(name) for name in choice.columns] or db.columns("samples")
    found = asked if sql is None else db.question(sql)
    kept = [c for c in found if plain(c)]
    if not kept:
        raise SaladError("no column is left without bytes", "--export wav writes sounds")
    if sql is None:
        return [c.name for c in kept], choice.select(db, [plain(c) or "" for c in kept])
    limit = f" LIMIT {choice.limit}" if choice.limit is not None else ""
    return [c.name for c in kept], answer(sql, found) + limit


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as f:
        out = csv.writer(f)
        out.writerow(columns)
        for row in rows:
            stop_if_interrupted()
            count += 1
            out.writerow(["" if v is None else as_json(v) if isinstance(v, (list, dict)) else v for v in row])
    return count


def _jsonl(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as f:
        for row in rows:
            stop_if_interrupted()
            count += 1
            f.write(as_json(dict(zip(columns, row, strict=True))) + "\n")
    return count


def _sounds(db: Database, out: Path, choice: Choice) -> tuple[int, list[str]]:
    """A WAV file a row, and `index.jsonl` with the row of each, in the order asked for."""
    column = next((c for c in db.columns("samples") if c.name == "audio"), None)
    if column is None:
        raise SaladError("these rows have no column 'audio'", "--export csv or jsonl writes what they have")
    sound = _bytes(column)
    columns = [c for c in db.columns("samples") if plain(c)]
    numbered = f"(SELECT *, row_number() OVER () AS {NUMBER} FROM samples)"  # as DuckDB reads them: file by file, in order
    kept = [NUMBER, *(plain(c) or "" for c in columns)]
    found = db.ask(choice.select(db, kept, numbered))
    rows = {number: dict(zip((c.name for c in columns), row, strict=True)) for number, *row in found}
    files = _names({number: row.get("id") for number, row in rows.items()})
    written: set[int] = set()
    lost: list[str] = []
    for number, data in _stream(db, numbered, sound, rows):
        stop_if_interrupted()
        name = rows[number].get("id", f"row {number}")
        try:
            if not data:
                raise RuntimeError("no sound")
            (out / files[number]).write_bytes(to_wav(data))
            written.add(number)
        except RuntimeError as e:  # libsndfile's errors are RuntimeErrors
            lost.append(f"{name}: {e}")
    index = ({"file": files[n] if n in written else None, **row} for n, row in rows.items())
    (out / "index.jsonl").write_text("".join(as_json(line) + "\n" for line in index), encoding="utf-8")
    return len(written), lost


def _stream(db: Database, numbered: str, sound: str, rows: dict[int, Any]) -> Iterator[tuple[int, bytes | None]]:
    """Sounds of these rows as they lie in the shards, a few in memory."""
    if not rows:
        return
    upto = f"SELECT {NUMBER}, {sound} AS sound FROM {numbered} WHERE {NUMBER} BETWEEN {min(rows)} AND {max(rows)}"
    for number, data in db.ask(upto):
        if number in rows:
            yield number, data


def _bytes(column: Column) -> str:
    """SQL for a sound's bytes, in our struct or alone."""
    if column.type.id == "blob":
        return column.quoted
    if column.type.id == "struct" and any(name == "bytes" and kind.id == "blob" for name, kind in fields(column.type)):
        return f'{column.quoted}."bytes"'
    raise SaladError("the column 'audio' holds no bytes", "its files may lie beside the Parquet: play those")


def _names(ids: dict[int, object]) -> dict[int, str]:
    """A file's name for each row: its id, made safe for any file system where it is not, and no two alike in any case."""
    taken: set[str] = {"index"}
    found = {}
    for number, text_id in ids.items():
        stem = safe_name(text_id, number)
        if stem.casefold() in taken:
            stem = f"{stem}-{number}"
        taken.add(stem.casefold())
        found[number] = f"{stem}.wav"
    return found


def safe_name(text_id: object, number: int) -> str:
    """Letters, digits, minus and underscore: the id where it is no more than that, else what is left of it and its hash."""
    if text_id is None:
        return f"row-{number}"
    text = str(text_id)
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:LONGEST].strip("_-")
    if clean == text and clean and clean.lower() not in RESERVED:
        return clean
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{clean or 'row'}-{digest}"


def as_json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def _appears(out: Path) -> Iterator[Path]:
    """A hidden sibling to write to, which becomes `out` when all is done and is removed when anything fails."""
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise SaladError(f"{out} exists", "name a new file or folder, or remove it first")
    partial = out.with_name(f".{out.name}.exporting")
    try:
        _remove(partial)  # of an export that was killed
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if os.path.lexists(out):
            raise SaladError(f"{out} has appeared meanwhile", "name another one")
        os.sync()
        partial.rename(out)
    except OSError as e:
        advice = "free some space" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that, or name another place"
        raise SaladError(f"cannot write {out} ({e.strerror or e})", advice) from e
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
