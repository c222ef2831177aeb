"""A real headless Chromium: a pytest plug-in with fixtures for pages that open from disk and may ask nobody for anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


def until(tab: Any, expression: str, seconds: float = 20.0) -> None:
    """Wait for JavaScript to be true. (Playwright's own wait is an eval in the page, which ours forbid.)"""
    end = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra `dev`")
    found = next((path for path in BROWSERS if Path(path).exists()), None)
    if found is None:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page that keeps what it asks for beyond the disk, and what goes wrong in it; neither may be anything at the end."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    beyond, wrong = [], []
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:", "about:")) else beyond.append(r.url))
    left = "net::ERR_ABORTED"  # of what was still on its way when the next page was opened
    page.on("requestfailed", lambda r: None if r.failure == left else wrong.append(f"{r.url}: {r.failure}"))
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("dialog", lambda d: (wrong.append(f"dialog: {d.message}"), d.dismiss()))
    yield page
    page.close()
    assert (beyond, wrong) == ([], [])
