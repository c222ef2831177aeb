"""Python and YAML on the pages: plug-ins keep their contract, the rest runs beside a finished run, configurations are valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from salad.config import Config
from salad.pipeline.benchmarks import load_benchmark
from salad.selectors.base import SELECTORS, make_selector
from salad.selectors.testing import check_selector
from salad.tts.base import make_engine
from salad.tts.testing import check_engine
from tests.docs.reading import ROOT, blocks

PLUGINS = {"docs/selectors.md", "docs/voices.md"}  # their classes are saved as files and checked below
PYTHON = [(page, code) for page, code in blocks("python") if page not in PLUGINS]


def test_the_first_strategy_of_the_page_keeps_the_contract(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader_folder)
    check_selector(lambda: make_selector("longest.py:Longest"))
    check_selector(lambda: make_selector("longest:Longest", {"most": 9.0}))


def test_the_first_engine_of_the_page_keeps_the_contract(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader_folder)
    check_engine(lambda: make_engine("hum.py:Hum", "low"), "high")


def test_every_strategy_is_on_its_page() -> None:
    page = (ROOT / "docs/selectors.md").read_text(encoding="utf-8")
    table = page[page.index("## The built-in strategies") :]
    assert re.findall(r"^\| `([a-z+-]+)` \|", table, re.MULTILINE) == list(SELECTORS)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_runs(page: str, code: str, reader_run: Path, reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader_folder)
    given: dict[str, Any] = {"wave": np.sin(np.arange(16_000, dtype=np.float32) / 20), "rate": 16_000}
    exec(compile(code, page, "exec"), given)
    if page == "docs/first-run.md":
        assert (reader_folder / "first.flac").read_bytes()[:4] == b"fLaC"
    if page == "docs/shards.md":
        assert len(given["shards"]) > 0
        assert given["shards"][0]["audio"]["bytes"][:4] == b"fLaC"


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=[page for page, _ in blocks("yaml")])
def test_yaml_is_accepted(page: str, text: str, tmp_path: Path) -> None:
    given = yaml.safe_load(text)
    if set(given) & set(Config.model_fields):
        demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
        Config.model_validate({**demo, **{key: _over(demo.get(key), value) for key, value in given.items()}})
    else:
        (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
        assert load_benchmark(str(tmp_path / "my.yaml")).dataset


def _over(below: Any, above: Any) -> Any:
    """A section of a page in place of the demo's; `natural` has one source only, so it is not mixed."""
    return {**below, **above} if isinstance(below, dict) and isinstance(above, dict) and "recordings" not in above else above
