"""Finding what users plug in: by file, by module, by entry point; what is wrong is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from salad import plugins
from salad.errors import SaladError
from salad.selectors.base import SELECTORS, make_selector

MINE = "class Mine:\n    name = 'mine'\n    def select(self, pool, budget, rng): ...\n"


class Point:
    """An entry point as importlib.metadata gives them."""

    def __init__(self, name: str, value: str, package: str = "somebody") -> None:
        self.name, self.value = name, value
        self.dist = type("Distribution", (), {"name": package, "version": "1.2"})()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    points: list[Point] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "salad.selectors" else [])
    return points


def test_unknown_names_suggest() -> None:
    with pytest.raises(SaladError, match=r"unknown selector 'importence'; did you mean 'importance'.*known: .*uniform"):
        make_selector("importence")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert make_selector(f"{tmp_path}/mine.py:Mine").name == "mine"
    with pytest.raises(SaladError, match=r"cannot be loaded .*Other"):
        make_selector(f"{tmp_path}/mine.py:Other")
    with pytest.raises(SaladError, match="no file"):
        make_selector("nowhere.py:Mine")


def test_a_module_of_the_folder_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strategies_here").mkdir()
    (tmp_path / "strategies_here" / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert make_selector("strategies_here.mine:Mine").name == "mine"
    assert sys.path == before
    with pytest.raises(SaladError, match="cannot be loaded"):
        make_selector("strategies_here.absent:Mine")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def broken(:\n", "fails while it is loaded .SyntaxError"),
        ("raise RuntimeError('no GPU {here}')\n", "fails while it is loaded .RuntimeError: no GPU"),
        ("import not_installed_anywhere\n", "cannot be loaded .No module named"),
        ("class Mine:\n    name = 'mine'\n", "needs a `name` and a method select"),
        ("class Mine:\n    def select(self, pool, budget, rng): ...\n", "needs a `name` and a method select"),
        ("class Mine:\n    def __init__(self, x): ...\n", "cannot be made .*select.options: x"),
    ],
)
def test_a_broken_plugin_is_one_line(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(SaladError, match=said):
        make_selector(f"{tmp_path}/mine.py:Mine")


def test_an_entry_point(installed: list[Point]) -> None:
    installed.append(Point("mine", "salad.selectors.uniform:Uniform"))
    assert make_selector("mine").name == "uniform"
    known = plugins.registered("selector", SELECTORS)
    assert known["mine"].origin == "somebody 1.2"
    assert known["uniform"].origin == "built in"


@pytest.mark.parametrize("other", ["uniform", "theirs"])
def test_a_clash_of_names_is_an_error(installed: list[Point], other: str) -> None:
    installed += [Point("theirs", "their.module:Class"), Point(other, "my.module:Class", "me")]
    with pytest.raises(SaladError, match=f"two selectors are called '{other}': .*me 1.2.*uninstall"):
        make_selector("importance")


def test_an_edited_plugin_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edited_plugin.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    names = (f"{tmp_path}/edited_plugin.py:Mine", "edited_plugin:Mine")
    first = [plugins.fingerprint("selector", name, SELECTORS) for name in names]
    assert None not in first
    (tmp_path / "edited_plugin.py").write_text(MINE + "# another\n")
    assert [plugins.fingerprint("selector", name, SELECTORS) for name in names] != first
    assert plugins.fingerprint("selector", "uniform", SELECTORS) is None
