"""Publishing is all or nothing; one process a run; another configuration is refused."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad import artifact
from salad.artifact import MANIFEST, Manifest
from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline.store import Store


def blank(key: str = "k") -> Manifest:
    return Manifest("thing", key, {}, {}, "1", 0, 0.0)


def write_two(out: Path) -> dict[str, Any]:
    (out / "a.txt").write_text("a")
    (out / "deep").mkdir(exist_ok=True)
    (out / "deep/b.bin").write_bytes(b"\0\1")
    (out / "_scratch").write_text("not published")
    return {"n": 2}


def test_published_and_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.publish("x/thing", blank(), write_two)
    assert store.valid("x/thing", "k") == made
    assert store.valid("x/thing", "other") is None
    assert set(made.files) == {"a.txt", "deep/b.bin"}
    assert made.meta == {"n": 2}
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["thing"], "no scratch stays behind"


@pytest.mark.parametrize("harm", ["delete", "append", "flip", "no manifest", "cut manifest"])
def test_harm_is_noticed(tmp_path: Path, harm: str) -> None:
    store = Store(tmp_path)
    store.publish("thing", blank(), write_two)
    target = tmp_path / "thing/deep/b.bin"
    manifest = tmp_path / "thing" / MANIFEST
    match harm:
        case "delete":
            target.unlink()
        case "append":
            target.write_bytes(b"\0\1\2")
        case "flip":
            target.write_bytes(b"\0\0")
        case "no manifest":
            manifest.unlink()
        case "cut manifest":
            manifest.write_text(manifest.read_text()[:-9])
    assert store.valid("thing", "k") is None


def test_a_failed_build_publishes_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish("thing", blank("old"), write_two)

    def fails(out: Path) -> dict[str, Any]:
        (out / "a.txt").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.publish("thing", blank("new"), fails)
    assert store.valid("thing", "old")


def test_a_partial_folder_is_kept_for_the_same_key_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen: list[bool] = []

    def fails_once(out: Path) -> dict[str, Any]:
        seen.append((out / "part").exists())
        (out / "part").write_text("done")
        if len(seen) < 3:
            raise RuntimeError
        return {}

    for key in ("one", "one"):
        with pytest.raises(RuntimeError):
            store.publish("thing", blank(key), fails_once)
    store.publish("thing", blank("two"), fails_once)
    assert seen == [False, True, False]


def test_a_full_disk_is_one_line_and_harms_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish("before", blank(), write_two)

    def full(out: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SaladError, match="disk is full"):
        store.publish("thing", blank(), full)
    assert store.valid("before", "k")


def test_an_artefact_of_another_run_is_taken_over_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    made = theirs.publish("x/thing", blank(), write_two)
    with monkeypatch.context() as m:
        m.setattr(artifact.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        m.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
        with pytest.raises(SaladError, match=r"the disk is full while writing .*ours/x/thing: free some"):
            ours.adopt("x/thing", theirs, made)
    assert ours.published("x/thing") is None
    ours.adopt("x/thing", theirs, made)
    assert ours.valid("x/thing", "k") == made
    assert ours.path("x/thing").joinpath("deep/b.bin").samefile(theirs.path("x/thing") / "deep/b.bin")


def _hold(folder: str, ready: Any) -> None:
    with Store(Path(folder)).lock():
        ready.set()
        time.sleep(60)


def test_a_second_process_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(SaladError, match=f"in use by process {holder.pid}"), Store(tmp_path).lock():
            pass
        holder.kill()  # the lock goes with the process, however it ends
        holder.join()
        with Store(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.join()


def test_a_run_of_another_configuration_is_refused(fake_config_path: Path) -> None:
    config = load_config(fake_config_path)
    store = Store(config.run_dir)
    with store.lock():
        store.bind(config)
        store.bind(load_config(fake_config_path, {"rounds": 7}))  # more rounds of the same run
        with pytest.raises(SaladError, match=r"seed: 5 -> 6"):
            store.bind(load_config(fake_config_path, {"seed": 6}))
    assert store.config().seed == 5


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=4))
def test_keys_depend_on_content_not_on_order(parts: dict[str, int]) -> None:
    shuffled = dict(reversed(parts.items()))
    assert artifact.make_key(x=parts) == artifact.make_key(x=shuffled)
    assert artifact.make_key(x=parts) != artifact.make_key(x={**parts, "more": 1})
