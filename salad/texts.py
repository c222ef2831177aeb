"""Texts of several domains that come inside pip packages, as one Parquet column each.

Only data files are read; the packages are never imported. Licences: docs/licences.md.
"""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

VERSION = 2


def write(read: Callable[[Path], Iterator[str]]) -> Callable[[Path, Path], None]:
    """A maker for `salad/assets.py`: documents from the package folder to `texts.parquet`, column `text`."""

    def make(package: Path, out: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": pa.array(list(read(package)), pa.string())}), out / "texts.parquet")

    return make


def recipes(package: Path) -> Iterator[str]:
    """One document a recipe: its steps. English Wikibooks Cookbook."""
    for recipe in json.loads((package / "data/recipes_en-us.json").read_text(encoding="utf-8")).values():
        yield "\n\n".join(recipe["steps"])


def medicine(package: Path) -> Iterator[str]:
    """Definitions and comments of the Human Phenotype Ontology (OBO format)."""
    with (package / "data/hp.obo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith('def: "'):
                yield line[6 : line.rindex('"')].replace('\\"', '"').replace("\\n", " ")
            elif line.startswith("comment: "):
                yield line[9:].strip()


def law(package: Path) -> Iterator[str]:
    """English licence texts, one document each; hard-wrapped lines are joined, paragraphs kept."""
    for path in sorted((package / "data/licenses").glob("*.LICENSE")):
        header, _, text = path.read_text(encoding="utf-8").partition("\n---")
        if re.search(r"^language: (?!en)", header, re.MULTILINE):
            continue
        yield "\n\n".join(" ".join(p.split()) for p in re.split(r"\n\s*\n", text))


def security(package: Path) -> Iterator[str]:
    """Prose of the Common Weakness Enumeration: every element whose text is a sentence, history left out."""
    import xml.etree.ElementTree as ET

    (path,) = package.glob("database_v*/cwec_v*.xml")
    for element in ET.parse(path).getroot().iter():
        text = " ".join((element.text or "").split())
        if text.endswith(".") and not element.tag.endswith(("Modification_Comment", "Body_Text_Code")):
            yield text


def encyclopedia(package: Path) -> Iterator[str]:
    """Articles of an English Wikipedia dump, as plain paragraphs."""
    import xml.etree.ElementTree as ET

    import mwparserfromhell

    (path,) = package.glob("test/test_data/enwiki-latest-pages-articles1.xml-*-shortened.bz2")
    with bz2.open(path) as f:
        for _, element in ET.iterparse(f):
            if element.tag.endswith("}text"):
                if element.text and not element.text.startswith("#REDIRECT"):
                    yield mwparserfromhell.parse(_without_tables(element.text)).strip_code()
                element.clear()


def _without_tables(wikitext: str) -> str:
    """Drop tables, galleries and footnotes, which the parser would turn into word salad."""
    wikitext = re.sub(r"<ref[^>/]*/>|<ref.*?</ref>|<gallery.*?</gallery>", "", wikitext, flags=re.S)
    wikitext = re.sub(r"\{\|.*?\|\}", "", wikitext, flags=re.S)
    return re.sub(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\]]*\]\])*\]\]", "", wikitext)
