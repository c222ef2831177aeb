"""One process at a time on a run that lies where no kernel keeps a lock: a small file whose holder keeps changing it.

No clock is compared, so it does not matter whether clocks agree or jump: a lease is dead when its counter has not moved for
`DEAD` seconds of the one who waits, or when its holder was a process of this machine that is gone.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from salad.errors import SaladError
from salad.parent import lives
from salad.pipeline.remote_files import RemoteFiles

NAME = "_lock.json"
BEAT = 5.0  # seconds between two renewals
DEAD = 4 * BEAT


class Lease:
    """files: of the run. who: this process, as `store.myself` tells."""

    def __init__(self, files: RemoteFiles, who: dict[str, Any]) -> None:
        self._files, self._who = files, who
        self._token, self._beats = uuid.uuid4().hex, 0
        self._over = threading.Event()
        self._lost = False
        self._guard = threading.Lock()

    def acquire(self) -> dict[str, Any] | None:
        """None: it is ours. Else who has it. Takes up to `DEAD` seconds where somebody seems to."""
        found = self._read()
        if found is not None:
            if _alive_by_process(found) is not False and self._beats_on(found):
                return found
            self._files.remove(NAME)
        if not self._files.create(NAME, self._content()) or (self._read() or {}).get("token") != self._token:
            return self._read() or {}
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        return None

    def holder(self) -> dict[str, Any] | None:
        """Who seems to have it now; a dead one is noticed at once where it was a process of this machine."""
        found = self._read()
        return None if found is None or _alive_by_process(found) is False else found

    def show(self, who: dict[str, Any]) -> None:
        """Let others see what the holder is at."""
        self._who = who
        self._beat()

    def check(self) -> None:
        """SaladError when somebody else took it, e.g. after a long time without a network: what follows must not be published."""
        self._beat()
        if self._lost:
            raise SaladError(
                f"another process took over {self._files.url} while this one could not be reached",
                "stop one of the two and run the command again",
            )

    def release(self) -> None:
        self._over.set()
        with self._guard, suppress(SaladError):
            if (self._read() or {}).get("token") == self._token:
                self._files.remove(NAME)

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(SaladError):  # the network is gone: `check` tells whether somebody took it meanwhile
                self._beat()

    def _beat(self) -> None:
        with self._guard:
            if self._over.is_set() or self._lost:
                return
            if (self._read() or {}).get("token") != self._token:
                self._lost = True
                return
            self._beats += 1
            self._files.write(NAME, self._content())

    def _beats_on(self, found: dict[str, Any]) -> bool:
        """Whether the counter moves while one looks at it."""
        until = time.monotonic() + DEAD
        while time.monotonic() < until:
            time.sleep(BEAT / 5)
            now = self._read()
            if now is None:
                return False
            if (now.get("token"), now.get("beats")) != (found.get("token"), found.get("beats")):
                return True
        return False

    def _content(self) -> bytes:
        return json.dumps({**self._who, "token": self._token, "beats": self._beats, "machine": _machine()}).encode()

    def _read(self) -> dict[str, Any] | None:
        data = self._files.read(NAME)
        try:
            found = None if data is None else json.loads(data)
        except ValueError:
            return {}
        return found if found is None or isinstance(found, dict) else {}


def _alive_by_process(found: dict[str, Any]) -> bool | None:
    """Whether the holder lives, where it is a process of this machine; None elsewhere."""
    if found.get("machine") != _machine() or not isinstance(found.get("process"), int):
        return None
    return lives(found["process"])


def _machine() -> str:
    """This kernel since it was booted, and the container: within it process numbers mean something."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return uuid.uuid4().hex
