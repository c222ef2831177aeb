"""The generated pages have every key and every command, each with a meaning; links lead somewhere, hostile words stay words."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from salad.config import Config, load_config
from tests.docs.reading import ROOT, hook

reference, links = hook("reference"), hook("links")
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def written(data: Any, path: str = "") -> set[str]:
    """The dotted keys of a configuration, without the numbers of lists."""
    if isinstance(data, dict) and path not in ("storage", "select.options"):
        below = [written(value, f"{path}.{key}" if path else key) for key, value in data.items()]
        return set().union(*below) | ({path} if path else set())
    if isinstance(data, list):
        return {path}.union(*(written(value, path) for value in data))
    return {path}


@pytest.mark.parametrize("part", reference.parts(Config), ids=lambda p: p.path or "top")
def test_every_section_and_every_key_has_a_meaning(part: Any) -> None:
    assert part.about
    for key in part.keys:
        assert key.meaning, f"{key.path}: say beside it in salad/config.py what it means, on one line"
        assert key.kind
        assert key.default


def test_every_key_that_is_written_anywhere_is_there() -> None:
    parts = reference.parts(Config)
    known = {k.path.replace("[]", "") for p in parts for k in p.keys}
    for part in parts:
        for place in part.also:
            known |= {k.path.replace(part.path, place, 1).replace("[]", "") for k in part.keys}
    demo, paper = (load_config(ROOT / "configs" / name).model_dump(mode="json") for name in ("demo.yaml", "qwen2.5-3b.yaml"))
    assert written(demo) | written(paper) <= known


def test_types_bounds_and_defaults_are_the_models() -> None:
    table = "\n".join(reference.key_tables(Config))
    row = {m[1]: m[0] for m in re.finditer(r"^\| `\w+`\{ #([\w.]+) .*$", table, re.MULTILINE)}
    assert "| number, ≥ 0 | `5.0` |" in row["select.gamma"]
    assert "**must be given**" in row["train.decay_steps"]
    assert "`importance-diverse`" in row["select.selector"].replace('"', "")
    assert "`frozen`, `lora`, `full`" in row["student.lm"]
    assert "number or `null`, > 0, ≤ 1 | `0.95`" in row["select.near"]
    assert "[section](#section-speech.voices)" in row["speech.heldout_voice"]
    assert "(training.md)" in row["train.launch"]


class Hostile(BaseModel):
    """<script>alert(1)</script> and [x](http://x) | *a* {0.__class__}"""

    key: Literal["a", "b"] = Field("a")  # "><img src=x onerror=alert(1)> [red] `code`


def test_what_stands_in_the_source_is_shown_as_it_is() -> None:
    import markdown

    page = "\n".join(reference.key_tables(Hostile))
    shown = markdown.markdown(page, extensions=["tables", "attr_list", "md_in_html"])
    assert "<script" not in shown
    assert "<img" not in shown
    assert 'href="http' not in shown
    assert "<em>" not in shown
    assert "[red] <code>code</code>" in shown
    assert shown.count("<td>") == 4


def test_comments_above_a_key_count_too() -> None:
    assert "names of the linear layers" in reference.meanings(type(Config.model_fields["student"].default.lora))["targets"]


def test_every_command_is_there_with_its_options() -> None:
    page = reference.command_pages()
    for command in ("run", "round", "status", "verify", "gc", "inspect", "export", "simulate", "eval", "plan", "doctor", "serve"):
        assert f"## `salad {command}`" in page
    for option in ("--selector", "--max-new-tokens", "--strategies", "--debug"):
        assert option in page


# -- links -----------------------------------------------------------------------------------------------------


def test_links_to_files_of_the_repository_become_links_to_their_pages() -> None:
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="selectors.md"))
    text = "[a](../examples/custom_selector) [b](../configs/demo.yaml) [c](plan.md#x) [d](https://x.y/z) [e](nowhere.md)\n"
    fence = "```\n[f](../configs/demo.yaml)\n```\n"
    changed = links.on_page_markdown(text + fence, page=page, config=config)
    assert "[a](repository/examples/custom_selector/README.md)" in changed
    assert "[b](repository/configs/demo.yaml.md)" in changed
    assert "[c](plan.md#x) [d](https://x.y/z) [e](nowhere.md)" in changed
    assert changed.endswith(fence)


def test_no_link_leaves_the_repository() -> None:
    assert links.file_meant(ROOT, "../secret") is None
    assert list(links.targets("[a](../../outside) [b](/etc/passwd)", "docs/x.md")) == ["../outside"]


def test_links_of_the_repository_lead_to_files() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ):
        place = page.relative_to(ROOT).as_posix()
        for target in links.targets(page.read_text(encoding="utf-8"), place):
            assert (ROOT / target).exists(), f"{place} links to {target}"


def test_a_page_that_shows_code_cannot_end_its_block() -> None:
    shown = links.shown("a.py", "x = '''\n```\n````\n'''")
    assert "`````python\n" in shown
    assert shown.rstrip().endswith("\n`````")


def test_every_page_has_its_place() -> None:
    entries = [page for group in SITE["nav"] for below in group.values() for entry in below for page in entry.values()]
    assert {p.name for p in (ROOT / "docs").glob("*.md")} <= set(entries)


def test_nothing_is_fetched_by_configuration() -> None:
    assert SITE["theme"]["font"] is False
    assert [p for p in SITE["extra"]["polyfills"] if not Path(ROOT, "docs", p).is_file()] == []
