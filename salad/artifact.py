"""A published folder: data files, and `_manifest.json` written last. Without a valid one it does not exist.

Work happens in a hidden sibling, `.NAME.partial`; publishing syncs it and renames it in one step. A partial
folder of the same key is handed to the next attempt, so a stage can keep the shards it had finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from salad.errors import SaladError
from salad.memory import peak_memory

MANIFEST = "_manifest.json"
PARTIAL_KEY = "_partial_key"
FULL = 1 << 16  # bytes free
MAKE_ROOM = "free some space and run the same command again; everything published before is intact"


@dataclass(frozen=True)
class Manifest:
    """What an artefact is: its key names everything that its bytes depend on."""

    stage: str
    key: str
    config: dict[str, Any]  # the part of the configuration that matters
    inputs: dict[str, str]  # artefact name -> its key
    code_version: str
    seed: int
    seconds: float  # wall time of the build that published it
    peak_bytes: int | None = None  # of memory during that build, its workers' included; None: not measured
    meta: dict[str, Any] = field(default_factory=dict)  # counts and other small results
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> bytes, checksum, rows


def make_key(**parts: Any) -> str:
    """16 hex digits of SHA-256 over canonical JSON of everything the bytes depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def checksum(path: Path) -> str:
    """XXH3-128 of a file: against corruption, not against an adversary."""
    with path.open("rb") as f:
        return file_digest(f)


def file_digest(f: BinaryIO) -> str:
    """`checksum` of an open file."""
    import xxhash

    h = xxhash.xxh3_128()
    while block := f.read(1 << 20):
        h.update(block)
    return "xxh3:" + h.hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest, or None where it is missing, unreadable, or of another format."""
    try:
        return parse_manifest((folder / MANIFEST).read_bytes())
    except OSError:
        return None


def parse_manifest(data: bytes) -> Manifest | None:
    """A manifest's bytes; None where they are none."""
    try:
        found = Manifest(**json.loads(data))
    except (ValueError, TypeError):
        return None
    return found if _well_formed(found) else None


def _well_formed(manifest: Manifest) -> bool:
    """JSON of another shape is no manifest."""
    words = (manifest.stage, manifest.key, manifest.code_version)
    maps = (manifest.config, manifest.inputs, manifest.meta, manifest.files)
    if not all(isinstance(w, str) for w in words) or not all(isinstance(m, dict) for m in maps):
        return False
    return all(isinstance(facts, dict) and {"bytes", "checksum"} <= facts.keys() for facts in manifest.files.values())


def artefact_files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder that match, in order: of an artefact those that its manifest names, whatever else lies there."""
    found = read_manifest(folder)
    if found is None:
        return sorted(folder.glob(pattern))
    return [folder / name for name in sorted(found.files) if PurePosixPath(name).match(pattern)]


def inside(file: str) -> PurePosixPath:
    """A file's name out of a manifest, which anybody may have written: never outside its folder."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise SaladError(f"a manifest names the file '{file}'", "it was not written by salad: do not use this run")
    return path


def damage(folder: Path, manifest: Manifest) -> str | None:
    """The first file that is missing or altered, or None. Reads every byte."""
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != facts["bytes"] or checksum(path) != facts["checksum"]:
            return f"{path} is not what was published (size or checksum differs)"
    return None


def sync_json(path: Path, value: Any) -> None:
    """Write JSON durably: a reader sees the whole file or none."""
    tmp = path.with_name(path.name + ".tmp")
    try:
        with tmp.open("w", encoding="utf-8") as f:
            json.dump(value, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        tmp.replace(path)
    except OSError:  # the disk is full
        tmp.unlink(missing_ok=True)
        raise


def publish(folder: Path, manifest: Manifest, build: Callable[[Path], dict[str, Any]]) -> Manifest:
    """Run `build(partial_folder) -> meta`, then publish what it wrote as `folder`. Atomic.

    A partial folder left by a killed build of the same key is passed on as it is, or published where the build was at
    its end; one of another key is removed first. Names starting with "." or "_" are scratch and do not get published.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with _full_disk_is_told(folder):
        whole = _finished(partial, manifest.key) or _build(partial, manifest, build)
        for scratch in filter(_is_scratch, partial.iterdir()):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
        replace_folder(partial, folder)
    return whole


def take_over(folder: Path, manifest: Manifest, bring: Callable[[str, Path], None]) -> None:
    """Publish as `folder` what was published elsewhere: `bring(file, path)` puts each of its files at a path. Atomic."""
    new = folder.with_name(f".{folder.name}.fetched")
    shutil.rmtree(new, ignore_errors=True)
    with _full_disk_is_told(folder):
        new.mkdir(parents=True)
        for file in manifest.files:
            path = new / inside(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            bring(file, path)
        sync_json(new / MANIFEST, asdict(manifest))
        replace_folder(new, folder)


@contextmanager
def _full_disk_is_told(folder: Path) -> Iterator[None]:
    """What fails for want of room while `folder` is written becomes a SaladError that says so."""
    try:
        yield
    except Exception as e:
        if disk_is_full(e, folder.parent):
            raise SaladError(f"the disk is full while writing {folder}", MAKE_ROOM) from e
        raise


def _finished(partial: Path, key: str) -> Manifest | None:
    """What an earlier, killed attempt had built to the end and only not published."""
    found = read_manifest(partial)
    return found if found and found.key == key and not damage(partial, found) else None


def _build(partial: Path, manifest: Manifest, build: Callable[[Path], dict[str, Any]]) -> Manifest:
    """Build in the partial folder, and write the manifest there: from then on only the renaming is left."""
    import time

    started = time.perf_counter()
    key_file = partial / PARTIAL_KEY
    if not key_file.exists() or key_file.read_text() != manifest.key:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        key_file.write_text(manifest.key)
    with peak_memory() as peak:
        meta = build(partial)
    files = {}
    for path in sorted(p for top in partial.iterdir() if not _is_scratch(top) for p in (top, *top.rglob("*")) if p.is_file()):
        with path.open("rb") as f:
            os.fsync(f.fileno())
        files[path.relative_to(partial).as_posix()] = {
            "bytes": path.stat().st_size,
            "checksum": checksum(path),
            **({"rows": _rows(path)} if path.suffix == ".parquet" else {}),
        }
    # What an earlier attempt of the same build had spent is not known; this is the last attempt's time.
    seconds = round(time.perf_counter() - started, 3)
    measured = {"seconds": seconds, "peak_bytes": peak.bytes}
    whole = Manifest(**{**asdict(manifest), "meta": meta, "files": files, **measured})
    sync_json(partial / MANIFEST, asdict(whole))
    return whole


def _is_scratch(path: Path) -> bool:
    return path.name.startswith((".", "_")) and path.name != MANIFEST


def disk_is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Writers of their own (safetensors, Arrow) say it in words, not always in an errno; torch's says only that it failed.

    folder: where it was written to. What failed while not a file more would fit there failed for that.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
        return True
    return folder is not None and not isinstance(error, SaladError) and shutil.disk_usage(folder).free < FULL


def replace_folder(new: Path, folder: Path) -> None:
    """Put a whole new folder in the place of the old one, durably."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    fd = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    shutil.rmtree(old, ignore_errors=True)


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
