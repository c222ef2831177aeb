"""The page of a comparison: opens from disk, asks no network, draws its figures, and nothing of the data acts in it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from salad.errors import SaladError
from salad.pipeline import comparison
from salad.pipeline.comparison import page
from salad.pipeline.stages import existing_run
from tests.side_by_side import publish

HOSTILE = "<img src=x onerror=alert(1)>[x](http:x){0.__class__}\u202eevil"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, another strategy's, and one with a hostile name, other held-out texts and another teacher."""
    top = tmp_path_factory.mktemp("side by side")
    publish(top / "runs", "one", gap=0.3)
    publish(top / "runs", "two", falls={"round-001": 1.7}, select__selector="uniform", chosen=range(4, 14), gap=0.4)
    third = publish(top / "runs", "three", rounds=1, heldout="z", models__lm="<script>alert(3)</script>", seed=2)
    third.store.root.rename(top / "runs" / HOSTILE)
    runs = [existing_run(str(top / "runs" / name)) for name in ("one", "two", HOSTILE)]
    page.write(top / "out" / "comparison", comparison.compare(runs))
    return top


def html_of(folder: Path) -> str:
    return (folder / "out" / "comparison" / "index.html").read_text(encoding="utf-8")


def figures_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_figures_are_valid_and_each_has_its_place(folder: Path) -> None:
    html = html_of(folder)
    figures = figures_of(html)
    wanted = {f"{m}-{x}" for m in ("D", "M", "F", "gap-0") for x in ("seconds", "rounds")}
    assert set(figures) == wanted | {"difference", "domains", "overlap"}
    for id_, figure in figures.items():
        go.Figure(figure)
        assert html.count(f'id="{id_}"') == 1
    lines = [trace for trace in figures["D-seconds"]["data"] if "lines" in trace["mode"]]
    assert [trace["name"] for trace in lines][:2] == ["one", "two"]
    assert lines[0]["x"] == [0.0, 60.5, 121.0]
    assert all(high > 0 for high in lines[0]["error_y"]["array"])
    controls = [trace["name"] for trace in figures["D-rounds"]["data"] if trace["mode"] == "markers"]
    assert controls[0] == "control of one"
    assert len(controls) == 2  # the first two share theirs


def test_nothing_of_the_data_is_markup(folder: Path) -> None:
    html = html_of(folder)
    assert "<img" not in html
    assert "<b onclick" not in html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(3)&lt;/script&gt;" in html
    text = json.dumps(figures_of(html), ensure_ascii=False)
    assert not set("<>&\u202e") & set(text)


def test_what_is_unfair_stands_before_everything_else(folder: Path) -> None:
    html = html_of(folder)
    first = html.index("These runs differ in: teacher, held-out texts")
    assert first < html.index("Their D is not the same measure") < html.index("is worse than one after round 1")
    assert html.index("is worse than one after round 1") < html.index("<table")


def test_the_same_runs_give_the_same_page(folder: Path, tmp_path: Path) -> None:
    runs = [existing_run(str(folder / "runs" / name)) for name in ("one", "two", HOSTILE)]
    page.write(tmp_path / "a", comparison.compare(runs))
    page.write(tmp_path / "b", comparison.compare(runs))
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_a_page_replaces_a_page_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    found = comparison.compare([existing_run(str(folder / "runs" / name)) for name in ("one", "two")])
    out = tmp_path / "comparison"
    page.write(out, found)
    (out / "stray.txt").touch()
    page.write(out, found)
    assert not (out / "stray.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(SaladError, match="is not empty and no comparison"):
        page.write(tmp_path / "mine", found)
    with pytest.raises(SaladError, match="is a file"):
        page.write(tmp_path / "mine" / "thesis.tex", found)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_report_on_this_disk_is_linked(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "one", tmp_path / "a b#c")
    run = existing_run(str(tmp_path / "a b#c"))
    stage = run.stages[-1]
    run.execute(type(stage)("report", lambda out, _: _page(out), stage.depends, stage.inputs))
    found = comparison.compare([run, existing_run(str(folder / "runs" / "two"))])
    assert page.report_link(found.sides[0], tmp_path / "comparison") == "../a%20b%23c/report/index.html"
    assert page.report_link(found.sides[1], tmp_path / "comparison") is None


def _page(out: Path) -> dict[str, Any]:
    (out / "index.html").write_text("<p>report</p>")
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_opens_from_disk_in_a_browser(folder: Path, browser: Any, width: int, scheme: str) -> None:
    asked: list[str] = []
    said: list[str] = []
    opened = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = opened.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto((folder / "out" / "comparison" / "index.html").as_uri())
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
    assert said == []
    assert {url.split("/")[-1] for url in asked} == {"index.html", "plotly.min.js", "figures.js"}
    assert all(url.startswith("file://") for url in asked)
    assert tab.evaluate("document.querySelectorAll('.js-plotly-plot').length") == len(figures_of(html_of(folder)))
    drawn = "[...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelector('.points path, .hm image')).length"
    assert tab.evaluate(drawn) == len(figures_of(html_of(folder)))
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    opened.close()
