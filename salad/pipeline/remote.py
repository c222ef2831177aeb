"""A run directory on object storage, or behind any other fsspec URL: a local mirror to work in, and the run itself elsewhere.

Stages read and write the mirror (`$SALAD_CACHE/runs/…`), so memory maps and safetensors work as ever. An artefact is published
here first, then there: its old manifest goes, its files come, its new manifest comes last. So a reader there never sees half of
one, a killed upload leaves no artefact, and the next command uploads what is here already. On another machine an artefact is
fetched when a stage first reads it, and its checksums are compared as it arrives. The mirror may be deleted at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from salad import artifact
from salad.artifact import MANIFEST, Manifest
from salad.assets import cache_dir
from salad.config import Config
from salad.errors import SaladError
from salad.pipeline.inventory import artefacts
from salad.pipeline.lease import Lease
from salad.pipeline.remote_files import RemoteFiles
from salad.pipeline.store import CONFIG, Store, in_use, myself


class RemoteStore(Store):
    """url: of the run directory. options: of its file system (`storage` in the configuration); None: as remembered here."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.there = RemoteFiles(url.rstrip("/"), _remembered(url) if options is None else options)
        self._lease: Lease | None = None
        self._seen: dict[str, Manifest] = {}
        super().__init__(mirror_of(url))

    def __str__(self) -> str:
        return self.there.url

    def published(self, name: str) -> Manifest | None:
        """As of a local run. Who holds the lock asks once for each: nobody else changes them."""
        return self._seen.get(name) or self._look(name)

    def _look(self, name: str) -> Manifest | None:
        data = self.there.read(f"{name}/{MANIFEST}")
        found = None if data is None else artifact.parse_manifest(data)
        self._seen.pop(name, None)
        if found and self._lease is not None:
            self._seen[name] = found
        return found

    def valid(self, name: str, key: str | None = None) -> Manifest | None:
        """As of a local run; of what is not mirrored only the sizes are looked at, its bytes when it is fetched.

        What is whole in the mirror and not there (a killed upload, a manifest that got lost) is uploaded and valid.
        """
        found = self._look(name)
        if found is None or found.key != (key or found.key):
            here = super().published(name)
            if here is None or here.key != (key or here.key) or artifact.damage(self.path(name), here):
                return None
            self._upload(name, here)
            return here
        return None if self.damage(name, found.key) else found

    def damage(self, name: str, key: str) -> str | None:
        found = self.published(name)
        if found is None or found.key != key:
            return None
        for file, facts in found.files.items():
            size = self.there.size(f"{name}/{file}")
            if size != facts["bytes"]:
                return f"{self}/{name}/{file} " + ("is missing" if size is None else "has another size than was published")
        return artifact.damage(self.path(name), found) if super().published(name) == found else None

    def fetch(self, name: str) -> None:
        """Download the artefact, unless the mirror has the same. SaladError for bytes that are not those that were published."""
        found = self.manifest(name)
        if super().published(name) == found:
            return

        def bring(file: str, path: Path) -> None:
            facts = found.files[file]
            try:
                self.there.get(f"{name}/{file}", path)
            except FileNotFoundError:
                raise self._spoilt(name, f"{self}/{name}/{file} is missing") from None
            if path.stat().st_size != facts["bytes"] or artifact.checksum(path) != facts["checksum"]:
                raise self._spoilt(name, f"{self}/{name}/{file} is not what was published (size or checksum differs)")

        artifact.take_over(self.path(name), found, bring)

    def publish(self, name: str, manifest: Manifest, build: Callable[[Path], dict[str, Any]]) -> Manifest:
        made = super().publish(name, manifest, build)
        self._upload(name, made)
        return made

    def adopt(self, name: str, donor: Store, manifest: Manifest) -> None:
        super().adopt(name, donor, manifest)
        self._upload(name, manifest)

    def read_json(self, name: str) -> dict[str, Any] | None:
        data = self.there.read(name)
        try:
            found = None if data is None else json.loads(data)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        self.there.write(name, json.dumps(value, indent=1).encode())

    def remove(self, name: str) -> None:
        super().remove(name)
        self.there.remove(name)

    def files(self) -> dict[str, int]:
        return self.there.list()

    def digest(self, file: str) -> str | None:
        return self.there.digest(file)

    def bind(self, config: Config) -> None:
        super().bind(config)
        self.mirror_config()

    def mirror_config(self) -> None:
        """Keep what the run is bound to beside its mirrored artefacts."""
        self.root.mkdir(parents=True, exist_ok=True)
        artifact.sync_json(self.root / CONFIG, self.read_json(CONFIG))

    def free(self) -> int | None:
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process a run: here by the mirror's lock, elsewhere by a lease that its holder renews."""
        with super().lock():
            lease = Lease(self.there, myself())
            if (holder := lease.acquire()) is not None:
                raise in_use(self, holder)
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None
                self._seen.clear()
                lease.release()

    def holder(self) -> dict[str, Any] | None:
        return Lease(self.there, myself()).holder()

    def at_work(self, stage: str | None) -> None:
        super().at_work(stage)
        if self._lease is not None:
            self._lease.show(myself(stage))

    def _upload(self, name: str, made: Manifest) -> None:
        """Files, then the manifest. What an earlier version left beside them is named by no manifest: `salad gc`."""
        if self._lease is not None:
            self._lease.check()
        self._unpublish(name)
        for file, facts in made.files.items():
            self.there.put(self.path(name) / file, f"{name}/{file}")
            if self.there.size(f"{name}/{file}") != facts["bytes"]:
                raise SaladError(f"{self}/{name}/{file} did not arrive whole", "run the same command again: it goes on from here")
        self.there.put(self.path(name) / MANIFEST, f"{name}/{MANIFEST}")

    def _unpublish(self, name: str) -> None:
        self._seen.pop(name, None)
        self.there.remove(f"{name}/{MANIFEST}")

    def _spoilt(self, name: str, what: str) -> SaladError:
        """Un-publish an artefact whose bytes are wrong, so that the next command makes it again."""
        self._unpublish(name)
        return SaladError(what, f"it counts as unpublished now: run the same command again and '{name}' is made anew")


def mirror_of(url: str) -> Path:
    """Where a remote run is mirrored: readable, and another folder for another URL."""
    return cache_dir() / "runs" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', url)[-80:]}-{artifact.make_key(url=url.rstrip('/'))}"


def _remembered(url: str) -> dict[str, Any]:
    """`storage` of the run as this machine last worked on it; a secret stands there as ${NAME}."""
    config = (Store(mirror_of(url)).read_json(CONFIG) or {}).get("config", {})
    found = config.get("storage") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}


def fetch_below(url: str) -> Path:
    """Fetch every artefact at or below the URL of a run or of something in it; returns the local path of the same.

    SaladError where no run is at the URL or above it.
    """
    scheme, _, rest = url.partition("://")
    asked = PurePosixPath(rest.rstrip("/"))
    for root in (asked, *asked.parents[:-1]):
        store = RemoteStore(f"{scheme}://{root}")
        if store.read_json(CONFIG) is not None:
            store.mirror_config()
            below = asked.relative_to(root)
            for name in artefacts(store, store.files()):
                if PurePosixPath(name).is_relative_to(below) or below.is_relative_to(name):
                    store.fetch(name)
            return store.root / below
    raise SaladError(f"{url} is not in a run of salad", "name a run's URL, or a folder in it")
