"""What the pages say is what the result files give: whoever changes one without the other is told here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evidence.parts import PARTS
from evidence.report import BLOCK, PAGES, ROOT, blocks, written
from evidence.results import Results
from evidence.tables import Evidence


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_number_is_that_of_the_result_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert BLOCK.search(text), "the page has no block that the rows make"
    assert written(text, Evidence(Results())) == text, "run `python -m evidence report`"


def test_a_changed_number_is_seen() -> None:
    page = PAGES[0].read_text(encoding="utf-8")
    block = next(b for b in BLOCK.finditer(page) if re.search(r"\d\.\d\d\d", b[0]))
    number = re.search(r"\d\.\d\d(\d)", block[0])
    assert number
    at = block.start() + number.start(1)
    changed = page[:at] + str((int(number[1]) + 1) % 10) + page[at + 1 :]
    assert written(changed, Evidence(Results())) == page != changed


def test_every_block_is_shown_somewhere_and_every_plot_exists() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert {block[2] for page in pages for block in BLOCK.finditer(page)} == set(blocks())
    for name in re.findall(r"figures/(evidence-[a-z-]+\.svg)", "".join(pages)):
        assert (ROOT / "docs/figures" / name).exists()


def test_no_two_arms_share_a_name_and_none_is_measured_twice() -> None:
    arms = {arm for of_part in PARTS.values() for arm in of_part()}
    names = {arm.name for arm in arms}
    assert len(names) == len(arms)
    measured = [(row["arm"], row["stage_one"]) for row in Results().rows("arms")]
    assert len(measured) == len(set(measured))
    assert {name for name, _ in measured} <= names
    assert f"{len(names)} arms" in PAGES[0].read_text(encoding="utf-8"), "how many `make reproduce` takes"
