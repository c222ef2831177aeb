"""The pictures of docs/report.md: the four pages of a run's report in headless Chromium.

.venv/bin/python bench/screenshots.py runs/demo docs/figures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGES = {"story": "index", "map": "map", "samples": "samples", "machine": "machine"}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=QUIET)
        tab = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        for name, page in PAGES.items():
            tab.goto((given.run / "report" / f"{page}.html").absolute().as_uri())
            tab.wait_for_timeout(1000)
            if name == "map":
                tab.evaluate("tell(points.round.findIndex((round) => round !== null))")
            elif name == "samples":
                tab.locator(".text").nth(1).click()
                tab.evaluate("window.scrollTo(0, 0); document.querySelector('.detail mark').classList.add('on')")
            tab.screenshot(path=given.out / f"report-{name}.png")
            print(given.out / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
