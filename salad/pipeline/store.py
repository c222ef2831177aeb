"""The run directory: which artefacts are valid, who works on it, and with which configuration it was written.

Here it lies on a local disk; `remote.py` has the same for a run directory on object storage or any other fsspec URL.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import salad
from salad import artifact
from salad.artifact import Manifest
from salad.config import Config
from salad.errors import RunInUse, SaladError

# Keys that may change between two commands on one run: they do not alter any artefact.
FREE_KEYS = ("runs_dir", "rounds", "train.save_steps", "train.launch", "control", "evaluate", "storage", "compute")
CONFIG = "_run.json"
LAST_ERROR = "_last_error.json"
LOCK = ".lock"
PATIENCE = 0.5  # seconds in which a lock that somebody only looks at is free again


class Store:
    """Artefacts below `root`, each named by its path, e.g. "round-000/selection"."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._lock: TextIO | None = None

    def __str__(self) -> str:
        """Where the run lies, for people."""
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where the artefact's files are, once they are there: see `fetch`."""
        return self.root / name

    def published(self, name: str) -> Manifest | None:
        """The manifest of an artefact, or None where there is none. No other byte is read."""
        return artifact.read_manifest(self.path(name))

    def manifest(self, name: str) -> Manifest:
        """The manifest of a published artefact; SaladError when there is none."""
        found = self.published(name)
        if found is None:
            raise SaladError(f"run {self} has no valid '{name}'", "run `salad run` to produce it")
        return found

    def valid(self, name: str, key: str | None = None) -> Manifest | None:
        """The manifest when the artefact is of this key (None: of any) and whole: every byte is read."""
        found = self.published(name)
        if found is None or found.key != (key or found.key):
            return None
        return None if artifact.damage(self.path(name), found) else found

    def damage(self, name: str, key: str) -> str | None:
        """What is wrong with the bytes of an artefact of this key; None where there is none, or it is whole."""
        found = self.published(name)
        return artifact.damage(self.path(name), found) if found and found.key == key else None

    def fetch(self, name: str) -> None:
        """Make sure that the files of a published artefact are at `path`."""

    def has(self, name: str) -> bool:
        """Whether an artefact is published; if so its files are at `path`."""
        if self.published(name) is None:
            return False
        self.fetch(name)
        return True

    def publish(self, name: str, manifest: Manifest, build: Callable[[Path], dict[str, Any]]) -> Manifest:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        return artifact.publish(self.path(name), manifest, build)

    def adopt(self, name: str, donor: Store, manifest: Manifest) -> None:
        """Take over a whole artefact of another run, as it is: hard links where the disk has them, and the manifest last."""

        def bring(file: str, path: Path) -> None:
            try:
                path.hardlink_to(donor.path(name) / file)
            except OSError:  # another disk
                shutil.copyfile(donor.path(name) / file, path)

        donor.fetch(name)
        artifact.take_over(self.path(name), manifest, bring)

    # -- files of the run that are no artefacts ------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A loose file of the run; None where it is missing or no mapping."""
        try:
            found = json.loads((self.root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """A reader sees the whole file or the one before."""
        artifact.sync_json(self.root / name, value)

    def remove(self, name: str) -> None:
        """A file, if there is one, and the folders that are empty without it."""
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.relative_to(self.root).parents[:-1]:
            with suppress(OSError):  # not empty
                (self.root / folder).rmdir()

    def files(self) -> dict[str, int]:
        """Every file below the run by its name, and its size."""
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                found[path.relative_to(self.root).as_posix()] = path.lstat().st_size
        return found

    def digest(self, file: str) -> str | None:
        """`artifact.checksum` of a file where the run lies; None where there is none."""
        path = self.root / file
        return artifact.checksum(path) if path.is_file() else None

    def free(self) -> int | None:
        """Bytes free where the run lies; None where nobody can say."""
        return shutil.disk_usage(self.root).free

    # -- who works on it -----------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process a run. The kernel drops the lock with the process, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a+", encoding="utf-8") as f:
            if not _locked(f):
                raise in_use(self, _holder(f))
            self._lock = f
            self.at_work(None)
            try:
                yield
            finally:
                self._lock = None
                f.truncate(0)

    def holder(self) -> dict[str, Any] | None:
        """Who works on the run now: `process`, `host`, `command`, and the `stage` it is at `since` a time. None: nobody."""
        try:
            with (self.root / LOCK).open("r", encoding="utf-8") as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _holder(f)
        except OSError:
            pass
        return None

    def at_work(self, stage: str | None) -> None:
        """Let others see at which stage the holder of the lock is."""
        if self._lock is not None:
            with suppress(OSError):  # the disk is full: what it does then is of more interest
                self._lock.seek(0)
                self._lock.truncate()
                json.dump(myself(stage), self._lock)
                self._lock.flush()

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """While a stage is built: others see it, and what ends it is remembered until a stage is built again."""
        self.at_work(stage)
        try:
            yield
        except Exception as e:
            message = str(e) if isinstance(e, SaladError) else f"unexpected {type(e).__name__}: {e}"
            self._remember(stage, message)
            raise
        finally:
            self.at_work(None)
        self.remove(LAST_ERROR)

    def _remember(self, stage: str, message: str) -> None:
        with suppress(OSError, SaladError):  # the disk is full, the network gone: what stopped the stage says more
            self.write_json(LAST_ERROR, {"stage": stage, "error": message, "time": time.time()})

    # -- the configuration ---------------------------------------------------------------------------------

    def bind(self, config: Config) -> None:
        """Remember the configuration of the run, or refuse one that differs from what is remembered."""
        new = json.loads(config.model_dump_json())
        old = (self.read_json(CONFIG) or {}).get("config")
        if old is not None and (changed := list(_differences(old, new))):
            raise SaladError(
                f"run {self} was written with another configuration ({'; '.join(changed[:4])})",
                "restore the configuration, or start another run with --name NEW",
            )
        self.write_json(CONFIG, {"config": new, "salad": salad.__version__})

    def config(self) -> Config:
        """The configuration that the run was written with."""
        try:
            return Config.model_validate((self.read_json(CONFIG) or {})["config"])
        except (ValueError, KeyError) as e:
            raise SaladError(f"{self} is not a run of salad", "name a folder below runs/, or start one with `salad run`") from e


def open_store(place: str, options: dict[str, Any] | None = None) -> Store:
    """The store of a run directory: a local path, or any fsspec URL.

    options: `storage` of the configuration; None: those with which this machine last worked on the run.
    """
    place = place.removeprefix("file://")
    if "://" not in place:
        return Store(place)
    from salad.pipeline.remote import RemoteStore

    return RemoteStore(place, options)


def here(place: str) -> Path:
    """The local path of what lies at a path, or at the URL of a run or of something in it, which is fetched."""
    place = place.removeprefix("file://")
    if "://" not in place:
        return Path(place)
    from salad.pipeline.remote import fetch_below

    return fetch_below(place)


def myself(stage: str | None = None) -> dict[str, Any]:
    """This process, as others shall see it."""
    command = Path(sys.argv[0]).name
    return {"process": os.getpid(), "host": socket.gethostname(), "command": command, "stage": stage, "since": time.time()}


def in_use(store: Store, holder: dict[str, Any] | None) -> RunInUse:
    """The refusal of a second process, which names the first."""
    known = holder and {"process", "host", "command"} <= holder.keys()
    who = f"process {holder['process']} on {holder['host']} ({holder['command']})" if holder and known else "another process"
    return RunInUse(f"run {store} is in use by {who}", "wait for it, stop it, or use --name for another run")


def _locked(f: TextIO) -> bool:
    """Whether the lock was free, looked at again for a moment: `holder` borrows it to see who has it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(PATIENCE / 10)


def _holder(f: TextIO) -> dict[str, Any]:
    """Who holds the lock. It says so just after it has the lock: until then the file may name one that is gone, or nobody."""
    found: dict[str, Any] = {}
    for _ in range(20):
        f.seek(0)
        with suppress(ValueError):  # caught while it was written
            found = json.loads(f.read())
            if found.get("host") != socket.gethostname() or Path("/proc", str(found.get("process"))).exists():
                break
        time.sleep(0.05)
    return found


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        name = prefix + key
        a, b = old.get(key), new.get(key)
        if name in FREE_KEYS or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, name + ".")
        else:
            yield f"{name}: {json.dumps(a)[:60]} -> {json.dumps(b)[:60]}"
