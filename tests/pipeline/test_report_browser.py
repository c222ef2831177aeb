"""The report in a browser, from disk: it draws, plays, sorts, filters, searches and colours, and hostile texts are text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from salad.pipeline.report import PAGES, sample_table, write_report
from salad.pipeline.report.look import templates
from tests.browser import until
from tests.pipeline import test_report as small

pytestmark = pytest.mark.slow
EXTREME = [
    "w" * 100_000,
    "\u202eثلاثة\u202c",
    "**bold** [link](javascript:alert(1)) ![x](http://127.0.0.1:9/x.png)",
    "🎧" * 50 + " words",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(small.publish(tmp_path_factory.mktemp("runs")))


def texts(tab: Any) -> list[str]:
    """Of the rows in view."""
    found: list[str] = tab.locator("#rows .text").all_inner_texts()
    return found


def column(tab: Any, label: str) -> list[str]:
    found: list[str] = tab.locator(f'#rows td[data-label="{label}"]').all_inner_texts()
    return found


def count(tab: Any) -> str:
    found: str = tab.locator("#count").inner_text()
    return found


def open_samples(tab: Any, index: Path, fragment: str = "") -> None:
    tab.goto((index.parent / "samples.html").as_uri() + fragment)
    tab.wait_for_selector("body[data-loaded]")


def test_every_page_draws_its_figures_and_has_its_own_title(index: Path, tab: Any) -> None:
    for name, _ in PAGES:
        tab.goto((index.parent / name).as_uri())
        assert tab.title().startswith("small"), "a text of the data ran as a script"
        assert tab.title().endswith("SALAD")
        if name in ("index.html", "map.html"):
            for figure in small.figures_of(index.parent / name):
                tab.wait_for_selector(f"#{figure}.js-plotly-plot .main-svg")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(index: Path, browser: Any, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    try:
        page = context.new_page()
        for name, _ in PAGES:
            page.goto((index.parent / name).as_uri())
            page.wait_for_timeout(200)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
    finally:
        context.close()


def test_a_sound_plays_and_its_words_light_up(index: Path, tab: Any) -> None:
    open_samples(tab, index)
    assert tab.locator("audio").count() == 0, "nothing is loaded before it is played"
    tab.evaluate(
        "globalThis.lit = new Set(); new MutationObserver((all) => all.forEach(({ target }) => {"
        " if (target.className === 'on') lit.add(target.textContent); }))"
        ".observe(document.querySelector('#rows'), { subtree: true, attributes: true, attributeFilter: ['class'] })"
    )
    tab.locator(".play").first.click()
    until(tab, "document.querySelector('.detail audio').currentTime > 0.05")
    until(tab, "document.querySelector('.detail audio').ended && !document.querySelector('.detail mark.on')")
    assert tab.evaluate("[...lit]") == [small.HOSTILE[0][:5]]
    tab.keyboard.press("j")
    until(tab, "document.querySelector('.detail audio').src.endsWith('000/001.flac')")
    until(tab, "document.querySelector('.detail audio').currentTime > 0.05")


def test_sorting_filtering_and_searching(index: Path, tab: Any) -> None:
    open_samples(tab, index)
    assert count(tab) == "28 of 28 texts"
    tab.get_by_role("button", name="CER").click()
    assert column(tab, "CER")[:2] == ["0.063", "0.063"]
    tab.get_by_role("button", name="CER").click()
    assert column(tab, "CER")[:3] == ["0.750", "0.750", "0.500"]
    assert column(tab, "CER")[-1] == "–", "what is not known comes last either way"
    assert tab.locator('th[data-sort="cer"]').get_attribute("aria-sort") == "descending"
    tab.select_option("#status", "turned down")
    assert count(tab) == "4 of 28 texts"
    assert set(column(tab, "why")) == {"not understood", "over budget"}
    tab.select_option("#round", "1")
    assert count(tab) == "2 of 28 texts"
    tab.get_by_role("button", name="Clear").click()
    assert count(tab) == "28 of 28 texts"
    tab.fill("#search", "NUMBER 3 plain")
    until(tab, "document.querySelector('#count').textContent.startsWith('2 ')")
    assert set(texts(tab)) == {"plain words number 3 are read and then heard"}
    tab.fill("#search", "no such word")
    until(tab, "document.querySelector('#count').textContent.startsWith('0 ')")
    assert texts(tab) == []


def test_a_link_opens_what_it_names(index: Path, tab: Any) -> None:
    open_samples(tab, index, f"#q={5:032x}&round=0")
    assert count(tab) == "1 of 28 texts"
    assert tab.locator("#search").input_value() == f"{5:032x}"
    assert tab.locator("#round").input_value() == "0"


def test_the_keyboard_reaches_everything(index: Path, tab: Any) -> None:
    open_samples(tab, index)
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.innerText")
        )
    assert reached >= {"status", "round", "domain", "cluster", "voice", "clear", "play", "text", "CER", "seconds"}
    tab.locator(".text").nth(4).focus()
    tab.keyboard.press("Enter")
    assert tab.locator(".detail").count() == 1
    assert tab.locator(".detail .whole").inner_text() == small.texts()[4]["text"]


def test_the_map_is_coloured_and_tells_what_is_pointed_at(index: Path, tab: Any) -> None:
    tab.goto((index.parent / "map.html").as_uri())
    points = tab.locator("#map .points path")
    points.first.wait_for()
    assert points.count() == 12
    colours = "paths => [...new Set(paths.map(path => path.style.fill))].length"
    assert points.evaluate_all(colours) == 1, "all were chosen in one round"
    tab.select_option("#colour", "domain")
    assert tab.locator("#legend bdi").all_inner_texts() == sorted([small.DOMAIN, "kitchen"])
    assert points.evaluate_all(colours) == 2
    tab.select_option("#colour", "D")
    tab.wait_for_selector("#map .colorbar")
    tab.select_option("#colour", "cluster")
    assert tab.locator("#legend bdi").all_inner_texts() == ["0", "1"]
    tab.fill("#find", "plain words")
    until(tab, "document.querySelector('#found').textContent !== ''")
    assert tab.locator("#found").inner_text() == "8 of 12"
    tab.evaluate("tell(points.text.findIndex((text) => text.startsWith('<script>')))")
    assert tab.locator("#about p").first.inner_text() == small.HOSTILE[0]
    box = points.nth(2).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(tab, "document.querySelector('#about p').innerText.startsWith('\"quotes')")
    tab.get_by_role("link", name="Listen to it").click()
    tab.wait_for_selector("body[data-loaded]")
    assert set(texts(tab)) == {small.HOSTILE[2]}


def fabricated(n: int) -> Iterator[dict[str, Any]]:
    words = "pour stir simmer fold clinical finding of the law shall apply without prejudice memory buffer".split()
    for i in range(n):
        text = EXTREME[i] if i < len(EXTREME) else " ".join(words[(i * k + k) % len(words)] for k in range(1, 25)) + f" {i}"
        yield {
            "round": i % 4, "id": f"{i:032x}", "text": text, "domain": ("law", "recipes", None)[i % 3], "cluster": i % 128,
            "reason": f"cluster {i % 128}: 4 % of the budget", "voice": "heart", "rejected": None, "heard": text[:80], "rank": i,
            "probability": 1e-5, "predicted_divergence": (i * 7919 % 1000) / 250, "predicted_se": 0.25, "cer": i % 50 / 100,
            "seconds": 2.5 + i % 9, "spans": [[0, min(20, len(text)), 0.0, 2.0]], "audio": None,
        }  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples page of 50,000 texts, without sounds."""
    out = tmp_path_factory.mktemp("large")
    written = sample_table.write_samples(fabricated(50_000), out)
    assert len(written.parts) == 25
    page = templates().get_template("samples.html")
    html = page.render(name="large", pages=PAGES, samples=written, speech=([], []), voices=([], []))
    (out / "samples.html").write_text(html, encoding="utf-8")
    (out / "samples.js").write_bytes((Path(sample_table.__file__).parent / "samples.js").read_bytes())
    return out / "samples.html"


def test_fifty_thousand_texts_can_be_used_within_three_seconds(large: Path, tab: Any) -> None:
    took = []
    while not took or (min(took) >= 3 and len(took) < 4):  # others may have the processors for a while
        started = time.monotonic()
        tab.goto("about:blank")
        tab.goto(large.as_uri(), wait_until="commit")
        tab.wait_for_selector("#rows tr")
        tab.get_by_role("button", name="seconds").click()
        tab.wait_for_selector('th[data-sort="seconds"][aria-sort="ascending"]')
        took.append(time.monotonic() - started)
    assert min(took) < 3, took
    tab.wait_for_selector("body[data-loaded]")
    assert count(tab) == "50,000 of 50,000 texts"
    assert tab.locator("#rows tr").count() == 50, "only what is in view are elements"
    asked = "change({ q: 'simmer 777', sort: '-predicted_divergence' })"
    at = tab.evaluate(f"[performance.now(), {asked}, performance.now()]")
    assert at[2] - at[0] < 1000
    assert 0 < tab.evaluate("shown.length") < 5000
    expected = [float(value) for value in column(tab, "expected D")]
    assert expected == sorted(expected, reverse=True)


def test_extreme_texts_are_text(large: Path, tab: Any) -> None:
    tab.goto(large.as_uri())
    tab.wait_for_selector("body[data-loaded]")
    for i, text in enumerate(EXTREME):
        tab.evaluate(f"show({i}, false)")
        assert tab.locator(".detail .whole").evaluate("p => p.textContent") == text
        assert tab.locator(".detail mark").evaluate("m => m.textContent") == text[:20], "characters, not halves of them"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
