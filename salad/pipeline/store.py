"""The run directory: which artefacts are valid, who works on it, and with which configuration it was written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import salad
from salad import artifact
from salad.artifact import Manifest
from salad.config import Config
from salad.errors import SaladError

# Keys that may change between two commands on one run: they do not alter any artefact.
FREE_KEYS = ("runs_dir", "rounds", "train.save_steps", "train.launch", "control", "evaluate")


@dataclass(frozen=True)
class Store:
    """Artefacts below `root`, each named by its path, e.g. "round-000/selection"."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / name

    def manifest(self, name: str) -> Manifest:
        """The manifest of a published artefact; SaladError when there is none."""
        found = artifact.read_manifest(self.path(name))
        if found is None:
            raise SaladError(f"run {self.root} has no valid '{name}'", "run `salad run` to produce it")
        return found

    def valid(self, name: str, key: str | None = None) -> Manifest | None:
        """The manifest when the artefact is whole (every checksum) and, if asked, of this key."""
        found = artifact.read_manifest(self.path(name))
        if found is None or (key is not None and found.key != key):
            return None
        return None if artifact.damage(self.path(name), found) else found

    def damage(self, name: str, key: str) -> str | None:
        """What is wrong with the bytes of an artefact of this key; None where there is none, or it is whole."""
        found = artifact.read_manifest(self.path(name))
        return artifact.damage(self.path(name), found) if found and found.key == key else None

    def publish(self, name: str, manifest: Manifest, build: Callable[[Path], dict[str, Any]]) -> Manifest:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        return artifact.publish(self.path(name), manifest, build)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process a run. The kernel drops the lock with the process, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+", encoding="utf-8") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise SaladError(
                    f"run {self.root} is in use by {_holder(f)}", "wait for it, stop it, or use --name for another run"
                ) from e
            f.truncate(0)
            f.write(f"process {os.getpid()} on {socket.gethostname()} ({Path(sys.argv[0]).name})")
            f.flush()
            yield

    def bind(self, config: Config) -> None:
        """Remember the configuration of the run, or refuse one that differs from what is remembered."""
        path = self.root / "_run.json"
        new = json.loads(config.model_dump_json())
        try:
            old = json.loads(path.read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError):
            old = None
        if old is not None and (changed := list(_differences(old, new))):
            raise SaladError(
                f"run {self.root} was written with another configuration ({'; '.join(changed[:4])})",
                "restore the configuration, or start another run with --name NEW",
            )
        artifact.sync_json(path, {"config": new, "salad": salad.__version__})

    def config(self) -> Config:
        """The configuration that the run was written with."""
        try:
            return Config.model_validate(json.loads((self.root / "_run.json").read_text(encoding="utf-8"))["config"])
        except (OSError, ValueError, KeyError) as e:
            raise SaladError(
                f"{self.root} is not a run of salad", "name a folder below runs/, or start one with `salad run`"
            ) from e


def _holder(f: TextIO) -> str:
    """Who holds the lock. It writes its name just after it has the lock: until then the file may name one that is gone."""
    said = ""
    for _ in range(20):
        f.seek(0)
        said = f.read().strip()
        named = re.match(rf"process (\d+) on {re.escape(socket.gethostname())}\b", said)
        if said and not (named and _is_gone(int(named[1]))):
            return said
        time.sleep(0.05)
    return said or "another process"


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


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
