"""The built site in a browser: opened from disk, it asks nobody for anything, finds words, and shows every key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from salad.config import Config
from tests.docs.reading import ROOT, hook

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it: broken links, anchors and pages without a place end it (but not with --quiet)."""
    pytest.importorskip("material", reason="mkdocs-material is in the extra `dev`")
    folder = tmp_path_factory.mktemp("site")
    asked = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_asks_for_anything_and_nothing_goes_wrong(site: Path, tab: Any) -> None:
    pages = sorted(p for p in site.glob("*.html") if p.name != "404.html")
    pages += sorted(site.glob("repository/configs/*.html"))
    assert len(pages) > 20
    for each in pages:
        tab.goto(each.as_uri())
        assert tab.locator("h1").count() == 1, each


def test_nothing_in_the_files_names_an_address_to_load_from(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//", re.IGNORECASE)
    for each in site.rglob("*.html"):
        assert not loads.search(each.read_text(encoding="utf-8")), each


def test_the_search_finds_a_word_from_disk(site: Path, tab: Any) -> None:
    tab.goto((site / "index.html").as_uri())
    tab.locator("input.md-search__input").click()
    tab.keyboard.type("target_ess")
    tab.locator(".md-search-result__link[href*='configuration.html']").first.click()  # waits for it, and fails without
    tab.wait_for_url("**/configuration.html*")


def test_the_reference_has_every_key_at_its_address(site: Path, tab: Any) -> None:
    tab.goto((site / "configuration.html").as_uri())
    ids = set(tab.locator("[id]").evaluate_all("all => all.map(e => e.id)"))
    keys = [key for part in hook("reference").parts(Config) for key in part.keys]
    assert len(keys) > 120
    assert {key.path.replace("[]", "") for key in keys} <= ids
    rows = tab.locator(".keys tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.innerText.trim()))")
    assert len(rows) == len(keys)
    assert all(all(row) for row in rows)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(site: Path, browser: Any, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    try:
        page = context.new_page()
        for name in ("index", "first-run", "concepts", "configuration", "results"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        bright = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])) > 384
        assert bright == (scheme == "light")
    finally:
        context.close()


def test_make_docs_says_what_to_open() -> None:
    done = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'echo "Open file://{ROOT}/site/index.html"' in done.stdout
