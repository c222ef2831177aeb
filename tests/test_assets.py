"""A model by name: where it is looked for, and what is said when it is nowhere."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from salad import assets
from salad.errors import SaladError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))


def package(folder: Path, made: list[str]) -> assets.Packaged:
    """A packaged asset whose conversion is recorded in `made`."""

    def make(source: Path, out: Path) -> None:
        made.append(source.name)
        (out / "model.txt").write_text("weights")

    return assets.Packaged("some-package", "json", make)  # `json` stands for an installed module


def test_a_folder_wins(tmp_path: Path) -> None:
    assert assets.model_folder(str(tmp_path)) == tmp_path
    assert assets.where(str(tmp_path)) == f"local folder {tmp_path}"


def test_converted_once_and_again_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setitem(assets.MODELS, "org/model", package(tmp_path, made))
    folder = assets.model_folder("org/model")
    assert (folder / "model.txt").read_text() == "weights"
    assert assets.model_folder("org/model") == folder
    assert made == ["json"]
    (folder / "model.txt").write_text("weight")
    assert (assets.model_folder("org/model") / "model.txt").read_text() == "weights"
    assert made == ["json", "json"]


def test_missing_everywhere_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SaladError, match=r"'org/none' cannot be had: not in the cache, no asset package has it, and the hub said"
    ):
        assets.model_folder("org/none")
    assert assets.where("org/none") is None
    with pytest.raises(SaladError, match=r"model folder ./none does not exist"):
        assets.model_folder("./none")
    monkeypatch.setitem(assets.MODELS, "org/absent", assets.Packaged("absent-package", "no_such_module", lambda a, b: None))
    with pytest.raises(SaladError, match="its package absent-package is not installed"):
        assets.model_folder("org/absent")
    monkeypatch.setitem(assets.TEXTS, "absent", assets.Packaged("absent-package", "no_such_module", lambda a, b: None))
    with pytest.raises(SaladError, match="needs the package absent-package"):
        assets.text_file("absent")


def test_a_model_that_does_not_load_is_named(tmp_path: Path) -> None:
    class Loader:
        @staticmethod
        def from_pretrained(folder: str, **options: Any) -> None:
            raise ValueError("header too small")

    with pytest.raises(SaladError, match=r"cannot be loaded \(ValueError: header too small\)"):
        assets.load_pretrained(Loader, str(tmp_path))


def test_two_that_want_a_packaged_asset_at_once_make_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    quick = package(Path(), made).make

    def slow(source: Path, out: Path) -> None:
        quick(source, out)
        time.sleep(0.3)

    monkeypatch.setitem(assets.MODELS, "org/slow", assets.Packaged("some-package", "json", slow))
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(assets.model_folder, ["org/slow", "org/slow"])
    assert made == ["json"]
    assert one == other
    assert (one / "model.txt").read_text() == "weights"


@pytest.mark.slow
@pytest.mark.parametrize("name", assets.TEXTS)
def test_packaged_texts(name: str) -> None:
    import pyarrow.parquet as pq

    texts = pq.read_table(assets.text_file(name))["text"].to_pylist()
    assert len(texts) > 50
    assert sum(len(t.split()) for t in texts) > 100_000
    assert not any("\x00" in t for t in texts)
