"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from salad.selectors.base import SELECTORS, make_selector
from salad.selectors.testing import check_selector

PAGE = (Path(__file__).parents[1] / "docs" / "selectors.md").read_text(encoding="utf-8")


def test_the_first_strategy_of_the_page_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "longest.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    check_selector(lambda: make_selector("longest.py:Longest"))
    check_selector(lambda: make_selector("longest:Longest", {"most": 9.0}))


def test_every_strategy_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## The built-in strategies") :]
    assert re.findall(r"^\| `([a-z+-]+)` \|", table, re.MULTILINE) == list(SELECTORS)
