"""A run directory elsewhere: the same contract as a local one, on memory and on S3 over HTTP, with a network that fails."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from salad.artifact import MANIFEST, Manifest
from salad.config import load_config
from salad.errors import NetworkError, SaladError
from salad.pipeline import lease, remote_files
from salad.pipeline.remote import RemoteStore, mirror_of
from salad.pipeline.remote_files import RemoteFiles
from salad.pipeline.stages import Run
from salad.pipeline.store import Store, here, open_store
from tests import s3
from tests.fakes import write_config
from tests.pipeline.test_store import blank, write_two

COUNT = itertools.count()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with s3.moto_server(port) as url:
        fsspec.filesystem("s3", key="x", secret="x", endpoint_url=url).mkdir("bucket")
        yield url


@pytest.fixture
def s3_storage(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, Any], s3.Mischief]]:
    """`storage` of a configuration, and what goes wrong on the way there."""
    for name, value in s3.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3.proxy(s3_server) as (url, mischief):
        yield {**s3.STORAGE, "endpoint_url": url}, mischief


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A new run's URL, and its storage options."""
    if request.param == "memory":
        return f"memory://runs/{next(COUNT)}", {}
    return f"s3://bucket/runs/{next(COUNT)}", request.getfixturevalue("s3_storage")[0]


@pytest.fixture(autouse=True)
def this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Every test begins on a machine without mirrors; call it to be on another."""

    def be(name: str) -> None:
        monkeypatch.setenv("SALAD_CACHE", str(tmp_path / name))

    be("first")
    return be


def raw(store: RemoteStore) -> RemoteFiles:
    return store.there


def remote(place: tuple[str, dict[str, Any]]) -> RemoteStore:
    store = open_store(*place)
    assert isinstance(store, RemoteStore)
    return store


def test_published_and_read_back_elsewhere(place: tuple[str, dict[str, Any]], this_machine: Callable[[str], None]) -> None:
    made = remote(place).publish("x/thing", blank(), write_two)
    assert set(remote(place).files()) == {f"x/thing/{n}" for n in (MANIFEST, "a.txt", "deep/b.bin")}
    this_machine("second")
    store = remote(place)
    assert store.valid("x/thing", "k") == made
    assert store.valid("x/thing", "other") is None
    assert not store.path("x/thing").exists(), "nobody has read it yet"
    store.fetch("x/thing")
    assert (store.path("x/thing") / "deep/b.bin").read_bytes() == b"\0\1"
    assert not store.has("nothing")
    with pytest.raises(SaladError, match="has no valid 'nothing'"):
        store.fetch("nothing")


def test_a_build_that_was_uploaded_in_part_is_no_artefact_and_is_uploaded_without_being_built(
    place: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = RemoteFiles.put

    def dies(self: RemoteFiles, local: Path, name: str) -> None:
        if name.endswith(MANIFEST):
            raise KeyboardInterrupt
        put(self, local, name)

    with monkeypatch.context() as m:
        m.setattr(RemoteFiles, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            remote(place).publish("thing", blank(), write_two)
    store = remote(place)
    assert store.published("thing") is None
    assert not store.has("thing")
    found = store.valid("thing", "k")
    assert found is not None
    assert found == store.published("thing")


def test_a_new_version_is_unpublished_until_it_is_whole(
    place: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = remote(place)
    store.publish("thing", blank("old"), write_two)
    seen: list[Manifest | None] = []
    put = RemoteFiles.put

    def look(self: RemoteFiles, local: Path, name: str) -> None:
        seen.append(remote(place).published("thing"))
        put(self, local, name)

    monkeypatch.setattr(RemoteFiles, "put", look)
    store.publish("thing", blank("new"), write_two)
    assert seen == [None, None, None], "two files and the manifest: meanwhile there is neither the old nor half of the new"
    assert store.valid("thing", "new")


@pytest.mark.parametrize("harm", ["deleted", "longer", "flipped"])
def test_harm_elsewhere_is_noticed_and_mended(
    place: tuple[str, dict[str, Any]], this_machine: Callable[[str], None], harm: str
) -> None:
    store = remote(place)
    store.publish("thing", blank(), write_two)
    file = "thing/deep/b.bin"
    raw(store).remove(file)
    if harm != "deleted":
        raw(store).write(file, {"longer": b"\0\1\2", "flipped": b"\0\0"}[harm])
    this_machine("second")
    store = remote(place)
    if harm != "flipped":  # sizes are looked at at once, bytes when they come
        assert store.valid("thing", "k") is None
        assert file in (store.damage("thing", "k") or "")
    with pytest.raises(SaladError, match=r"b\.bin is (missing|not what was published).*made anew"):
        store.fetch("thing")
    assert store.valid("thing", "k") is None
    assert not store.path("thing").exists()
    store.publish("thing", blank(), write_two)
    assert store.valid("thing", "k")
    this_machine("third")
    remote(place).fetch("thing")


def test_a_mirror_that_rots_is_made_again(place: tuple[str, dict[str, Any]]) -> None:
    store = remote(place)
    store.publish("thing", blank(), write_two)
    (store.path("thing") / "a.txt").write_text("b")
    assert store.valid("thing", "k") is None
    assert "a.txt is not what was published" in (store.damage("thing", "k") or "")


def test_a_manifest_cannot_write_outside_its_folder(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    store = remote(place)
    made = store.publish("thing", blank(), write_two)
    evil = replace(made, files={"../../../evil": made.files["a.txt"]})
    raw(store).write(f"thing/{MANIFEST}", json.dumps(evil.__dict__).encode())
    with pytest.raises(SaladError, match="do not use this run"):
        store.fetch("thing")
    assert not list(tmp_path.rglob("evil"))


def test_artefacts_are_taken_over_from_here_to_there_and_back(
    place: tuple[str, dict[str, Any]], this_machine: Callable[[str], None], tmp_path: Path
) -> None:
    local = Store(tmp_path / "local")
    made = local.publish("x/thing", blank(), write_two)
    remote(place).adopt("x/thing", local, made)
    this_machine("second")
    assert remote(place).valid("x/thing", "k") == made
    again = Store(tmp_path / "again")
    again.adopt("x/thing", remote(place), made)
    assert again.valid("x/thing", "k") == made


def test_what_is_taken_over_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "donor/run")
    made = store.publish("thing", blank(), write_two)
    evil = replace(made, files={"../../evil": made.files["a.txt"]})
    (tmp_path / "donor/evil").write_text("a")
    with pytest.raises(SaladError, match="do not use this run"):
        Store(tmp_path / "heir/run").adopt("thing", store, evil)
    assert not list((tmp_path / "heir").rglob("evil"))


# -- one process at a time -------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "DEAD", 0.8)


def test_a_second_machine_is_refused_and_told_who_holds_the_run(
    place: tuple[str, dict[str, Any]], this_machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(lease, "DEAD", 20)  # who looks goes at the first beat that it sees
    with remote(place).lock():
        this_machine("second")
        monkeypatch.setattr(lease, "_machine", lambda: "another")
        with pytest.raises(SaladError, match=rf"in use by process {os.getpid()} on "), remote(place).lock():
            pass
        holder = remote(place).holder()
        assert holder
        assert holder["process"] == os.getpid()
    assert remote(place).holder() is None
    with remote(place).lock():
        pass


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_the_lease_of_a_killed_process_is_taken_over(
    place: tuple[str, dict[str, Any]], quick: None, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its process number on this machine, else because it no longer beats."""
    if where == "here":
        monkeypatch.setattr(lease, "DEAD", 30)
    store = remote(place)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    machine = lease._machine() if where == "here" else "another"
    left = {"process": dead.pid, "host": "h", "command": "salad", "token": "t", "beats": 7, "machine": machine}
    raw(store).write(lease.NAME, json.dumps(left).encode())
    started = time.monotonic()
    with store.lock():
        assert (time.monotonic() - started > lease.DEAD) == (where == "elsewhere")
        assert (store.holder() or {})["process"] == os.getpid()


def test_who_lost_the_lease_publishes_nothing(place: tuple[str, dict[str, Any]]) -> None:
    store = remote(place)
    with store.lock():
        raw(store).write(lease.NAME, json.dumps({"token": "another's", "beats": 1}).encode())
        with pytest.raises(SaladError, match="another process took over"):
            store.publish("thing", blank(), write_two)
    assert store.published("thing") is None
    assert raw(store).read(lease.NAME), "the other's lease is the other's to remove"


def test_the_holder_is_seen_at_its_stage(place: tuple[str, dict[str, Any]]) -> None:
    store = remote(place)
    with store.lock(), store.working("round-000/speech"):
        assert (remote(place).holder() or {})["stage"] == "round-000/speech"


# -- a network that fails --------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "PAUSE", 0.01)
    monkeypatch.setattr(remote_files, "TRIES", 3)


@pytest.mark.slow
def test_connections_that_drop_in_the_middle(
    s3_storage: tuple[dict[str, Any], s3.Mischief], this_machine: Callable[[str], None], impatient: None
) -> None:
    storage, mischief = s3_storage
    place = (f"s3://bucket/runs/{next(COUNT)}", storage)

    def build(out: Path) -> dict[str, Any]:
        (out / "sound").write_bytes(bytes(range(256)) * 1000)
        return {}

    mischief.drop = 2
    made = remote(place).publish("thing", blank(), build)
    assert mischief.drop < 0, "both were dropped"
    assert sum(method == "PUT" and path.endswith("/thing/sound") for method, path in mischief.seen) >= 2
    this_machine("second")
    mischief.drop = 2
    store = remote(place)
    store.fetch("thing")
    assert mischief.drop < 0
    assert store.published("thing") == made
    assert (store.path("thing") / "sound").read_bytes() == bytes(range(256)) * 1000


@pytest.mark.slow
def test_without_a_network_one_line_says_so_and_nothing_is_built_again(
    s3_storage: tuple[dict[str, Any], s3.Mischief], impatient: None
) -> None:
    storage, mischief = s3_storage
    store = remote((f"s3://bucket/runs/{next(COUNT)}", {**storage, "config_kwargs": {"retries": {"max_attempts": 1}}}))

    def build(out: Path) -> dict[str, Any]:
        mischief.dead = True
        return write_two(out)

    with pytest.raises(NetworkError, match=r"cannot be reached .* run the same command again") as failed:
        store.publish("thing", blank(), build)
    assert "\n" not in str(failed.value)
    mischief.dead = False
    assert store.published("thing") is None
    assert store.valid("thing", "k"), "it was made; it only had to be uploaded"
    assert store.published("thing")


@pytest.mark.slow
def test_large_files_go_and_come_in_parts(
    s3_storage: tuple[dict[str, Any], s3.Mischief], this_machine: Callable[[str], None]
) -> None:
    storage, mischief = s3_storage
    place = (f"s3://bucket/runs/{next(COUNT)}", storage)
    block = os.urandom(1 << 20)

    def build(out: Path) -> dict[str, Any]:
        with (out / "large").open("wb") as f:
            for _ in range(110):
                f.write(block)
        return {}

    mischief.drop = 1  # of the parts too, one is lost on its way
    made = remote(place).publish("thing", blank(), build)
    assert any("uploads" in path and method == "POST" for method, path in mischief.seen), "not a multipart upload"
    assert sum("partNumber=" in path for _, path in mischief.seen) >= 3
    this_machine("second")
    store = remote(place)
    store.fetch("thing")
    assert store.published("thing") == made
    assert raw(store).digest("thing/large") == made.files["large"]["checksum"]


@pytest.mark.slow
def test_listings_that_lag_behind_do_no_harm(
    s3_storage: tuple[dict[str, Any], s3.Mischief], this_machine: Callable[[str], None]
) -> None:
    storage, mischief = s3_storage
    mischief.stale_listings = True
    place = (f"s3://bucket/runs/{next(COUNT)}", storage)
    store = remote(place)
    with store.lock():
        made = store.publish("thing", blank(), write_two)
        assert store.files() == {}, "the listing knows nothing"
        assert store.valid("thing", "k") == made
    this_machine("second")
    store = remote(place)
    with store.lock():
        assert store.valid("thing", "k") == made
        store.fetch("thing")
    assert (store.path("thing") / "a.txt").read_text() == "a"


@pytest.mark.slow
def test_a_bucket_that_is_not_there(s3_storage: tuple[dict[str, Any], s3.Mischief]) -> None:
    with pytest.raises(SaladError, match="no-such-bucket"):
        remote(("s3://no-such-bucket/runs/x", s3_storage[0])).publish("thing", blank(), write_two)


# -- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_run_on_s3_gives_the_bytes_of_a_local_one(
    s3_storage: tuple[dict[str, Any], s3.Mischief],
    tmp_path: Path,
    fake_models: dict[str, str],
    this_machine: Callable[[str], None],
    salad: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, mischief = s3_storage
    config = write_config(tmp_path, fake_models, rounds=1, control=False)
    salad("run", str(config))
    url = f"s3://bucket/{next(COUNT)}"
    away = tmp_path / "away.yaml"
    away.write_text(
        config.read_text().replace(f"runs_dir: {tmp_path / 'runs'}", f"runs_dir: {url}\nstorage: {json.dumps(storage)}")
    )
    mischief.drop = 5
    first = salad("run", str(away))
    assert mischief.drop < 0

    local, there = Run(load_config(config)), RemoteStore(f"{url}/fake", storage)
    for stage in local.stages[:-1]:
        ours, theirs = local.store.manifest(stage.name), there.manifest(stage.name)
        assert ours.key == theirs.key
        if stage.name.endswith(("selection", "speech", "scores", "pool", "embeddings", "clusters")):
            assert ours.files == theirs.files, f"{stage.name} has other bytes"

    this_machine("second")
    again = salad("run", str(away))
    assert again.count("   done  ") == len(local.stages), "another machine does nothing again"

    # Another one, on which nothing is remembered: options come from fsspec's own configuration.
    this_machine("third")
    monkeypatch.setitem(fsspec.config.conf, "s3", {name: os.path.expandvars(str(value)) for name, value in storage.items()})
    assert "Everything is done" in salad("status", f"{url}/fake")
    assert "all are what was published" in salad("verify", f"{url}/fake")
    spoken = local.store.manifest("round-000/speech").meta["rows"]
    assert f"\n{spoken} texts · " in salad("inspect", f"{url}/fake/round-000/speech")
    assert mirror_of(f"{url}/fake").is_relative_to(tmp_path / "third")

    # The secret went to the server alone.
    assert s3.SECRET not in first + again
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and s3.SECRET.encode() in p.read_bytes()]
    for name in there.files():
        assert s3.SECRET.encode() not in (raw(there).read(name) or b"")

    raw(there).write("round-000/selection/reserve.parquet", b"x" * there.files()["round-000/selection/reserve.parquet"])
    raw(there).write("round-000/stray", b"?")
    assert "round-000/selection/reserve.parquet is not what was published" in salad("verify", f"{url}/fake", status=1)
    assert "round-000/stray" in salad("gc", "--yes", f"{url}/fake")
    assert raw(there).read("round-000/stray") is None


def test_a_url_that_is_no_run(place: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(SaladError, match="is not in a run of salad"):
        here("memory://nothing/at/all")


def test_a_package_that_is_missing() -> None:
    with pytest.raises(SaladError, match=r"gs://.*install the package"):
        open_store("gs://bucket/runs/x", {})
