"""Files behind any fsspec URL, one call each: tried again when the network fails, and errors that a person can act on.

Nothing here relies on a listing: what exists is asked for by its name, so a store whose listings lag behind does no harm.
What must stay secret (`storage` options) never stands in an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from salad.artifact import file_digest
from salad.errors import NetworkError, SaladError, told

T = TypeVar("T")
TRIES = 5
PAUSE = 0.5  # seconds before the second try, then twice as long each time
BLOCK = 1 << 22


class RemoteFiles:
    """url: of a folder. options: of its fsspec file system; `${NAME}` in their values is read from the environment."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self._secrets: list[str] = []
        scheme = url.partition("://")[0]
        try:
            filled = {name: self._fill(value) for name, value in options.items()}
            self.fs, self.base = url_to_fs(url, use_listings_cache=False, **filled)
        except ImportError as e:
            raise SaladError(f"{url}: {e}", f"install the package that knows {scheme}://, e.g. s3fs, gcsfs, adlfs") from e
        except ValueError as e:
            raise SaladError(f"{url} cannot be opened ({self._told(e)})", "name a path, or a URL that fsspec knows") from e

    def read(self, name: str) -> bytes | None:
        """The whole file; None where there is none."""
        return self._found(name, lambda path: bytes(self.fs.cat_file(path)))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        return self._found(name, lambda path: int(self.fs.info(path)["size"]))

    def digest(self, name: str) -> str | None:
        """`artifact.checksum` of a file, streamed; None where there is none."""

        def read(path: str) -> str:
            with self.fs.open(path, "rb", block_size=BLOCK) as f:
                return file_digest(f)

        return self._found(name, read)

    def write(self, name: str, data: bytes) -> None:
        self._into(name, lambda path: self.fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; False where it is. Two at once: exactly one is told True, where the
        storage can do that (Amazon's and its like, local disks); elsewhere the last one's bytes stay: look again."""
        try:
            self._into(name, lambda path: self.fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def put(self, local: Path, name: str) -> None:
        """Upload a file (in parts where it is large)."""
        self._into(name, lambda path: self.fs.put_file(str(local), path))

    def get(self, name: str, local: Path) -> None:
        """Download a file. FileNotFoundError where there is none."""
        local.parent.mkdir(parents=True, exist_ok=True)
        self._again(name, lambda path: self.fs.get_file(path, str(local)))
        with local.open("r+b") as f:
            os.fsync(f.fileno())

    def remove(self, name: str) -> None:
        """A file, if there is one."""
        self._found(name, self.fs.rm_file)

    def list(self) -> dict[str, int]:
        """Every file below the URL and its size, as far as the storage's listing knows by now."""
        found = self._again("", lambda path: self.fs.find(path, detail=True))
        return {p[len(self.base) :].lstrip("/"): int(info["size"] or 0) for p, info in found.items()}

    def _found(self, name: str, call: Callable[[str], T]) -> T | None:
        try:
            return self._again(name, call)
        except FileNotFoundError:
            return None

    def _into(self, name: str, call: Callable[[str], T]) -> T:
        try:
            return self._again(name, call)
        except FileNotFoundError as e:
            raise SaladError(f"{self.url} cannot be written to ({self._told(e)})", "create the bucket, or name another") from None

    def _again(self, name: str, call: Callable[[str], T]) -> T:
        """Call with the file's path until the network lets it through."""
        path = f"{self.base}/{name}" if name else self.base
        for attempt in range(TRIES):
            try:
                return call(path)
            except (FileNotFoundError, FileExistsError):
                raise
            except PermissionError as e:
                raise SaladError(
                    f"{self.url}/{name}: access denied ({self._told(e)})", "check the credentials in the environment"
                ) from None
            except Exception as e:  # every storage has errors of its own
                failed = self._told(e)
            if attempt < TRIES - 1:
                time.sleep(PAUSE * 2**attempt)
        raise NetworkError(
            f"{self.url}/{name} cannot be reached ({failed})", "check the network, then run the same command again"
        )

    def _fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: self._fill(v) for k, v in value.items()}
        if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
            return value
        name = value[2:-1]
        if name not in os.environ:
            raise SaladError(f"storage names ${{{name}}}, which is not in the environment", f"export {name}=…")
        self._secrets.append(os.environ[name])
        return os.environ[name]

    def _told(self, error: BaseException) -> str:
        text = told(error)
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text
