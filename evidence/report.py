"""`python -m evidence report`: the tables in docs/evidence.md and the README, and the plots, of the rows alone.

Text between `<!-- evidence: NAME -->` and `<!-- end -->` is written here; what stands around it is ours to write. A test holds
that what is there is what the rows give.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from evidence import budgets, curves, headline, plots, students, tables
from evidence.results import PUBLISHED, Results
from evidence.tables import NOTHING, Evidence

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs/evidence.md", ROOT / "README.md")
BLOCK = re.compile(r"(<!-- evidence: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def blocks() -> dict[str, Callable[[Evidence], str]]:
    """What can stand in a page, by name."""
    return {
        "stage-one": lambda found: shown("D, M and F by steps", "stage-one", curves.table(found)),
        "growth": curves.growth,
        "fits": curves.fits,
        "selection": tables.selection,
        "by-domain": tables.by_domain,
        "students": students.students,
        "told": students.told,
        "budgets": lambda found: shown("D by seconds of speech", "budgets", budgets.table(found)),
        "needs": budgets.needs,
        "choosing": tables.choosing,
        "leaning": lambda found: shown("D less uniform's by how much of the speech is new", "leaning", tables.leaning(found)),
        "rounds": tables.rounds,
        "longer": tables.longer,
        "ablations": tables.ablations,
        "cost": tables.cost,
        "machines": tables.machines,
        "headline": headline.headline,
    }


def shown(what: str, plot: str, table: str) -> str:
    """A plot and its table; the table alone where there is nothing to draw."""
    return table if table == NOTHING else f"![{what}](figures/evidence-{plot}.svg)\n\n{table}"


def written(page: str, found: Evidence) -> str:
    """The page with every block as the rows give it. KeyError for a block that nothing makes."""
    made = blocks()
    return BLOCK.sub(lambda block: f"{block[1]}{made[block[2]](found)}\n{block[4]}", page)


def write(results: Results) -> Path:
    """Of the published rows into the repository's pages; of others into a page of their own beside them. The page's path."""
    found = Evidence(results)
    ours = results.folder.resolve() == PUBLISHED.resolve()
    page, figures = (PAGES[0], ROOT / "docs/figures") if ours else (results.folder / "evidence.md", results.folder / "figures")
    for source, to in zip(PAGES, PAGES, strict=True) if ours else [(PAGES[0], page)]:
        to.write_text(written(source.read_text(encoding="utf-8"), found), encoding="utf-8")
    for draw in (plots.against_uniform, plots.by_budget, plots.leaning, plots.stage_one):
        draw(found, figures)
    return page
