"""Links that work on GitHub work on the site: a file of the repository that a page links to becomes a page of its own.

`../configs/demo.yaml` is shown as its text, `../examples/custom_selector` as its README.md, a Markdown file as itself; what those
link to in turn as well.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

BELOW = "repository"  # where such pages stand on the site
LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
SOURCES: dict[str, str] = {}  # of such pages, the file that each shows
LEXERS = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "sh"}


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for every file outside docs/ that a page links to."""
    root = Path(config.docs_dir).parent
    docs = Path(config.docs_dir).name
    waiting = [(f"{docs}/{f.src_uri}", Path(str(f.abs_src_path)).read_text("utf-8")) for f in files.documentation_pages()]
    seen = set()
    while waiting:
        place, text = waiting.pop()
        for target in targets(text, place):
            found = file_meant(root, target)
            if found is None or found in seen or found.startswith(f"{docs}/"):
                continue
            seen.add(found)
            content = (root / found).read_text("utf-8")
            SOURCES[page_of(found)] = found
            files.append(
                File.generated(config, page_of(found), content=shown(found, content), inclusion=InclusionLevel.NOT_IN_NAV)
            )
            if found.endswith(".md"):
                waiting.append((found, content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Point such links at those pages."""
    root, docs = Path(config.docs_dir).parent, Path(config.docs_dir).name
    uri = page.file.src_uri
    place = SOURCES.get(uri, f"{docs}/{uri}")
    if not place.endswith(".md"):
        return markdown

    def on_site(target: str) -> str:
        found = file_meant(root, posixpath.normpath(posixpath.join(posixpath.dirname(place), target)))
        if found is None:
            return target  # mkdocs says that it leads nowhere
        wanted = found.removeprefix(f"{docs}/") if found.startswith(f"{docs}/") else page_of(found)
        return posixpath.relpath(wanted, posixpath.dirname(uri) or ".")

    return outside_fences(markdown, lambda text: LINK.sub(lambda m: f"{m[1]}{_rewritten(m[2], on_site)}{m[3] or ''}{m[4]}", text))


def _rewritten(target: str, on_site: Callable[[str], str]) -> str:
    return target if ":" in target or target.startswith("/") else on_site(target)


def targets(text: str, place: str) -> Iterator[str]:
    """Paths in the repository that a page at `place` links to, its code left out."""
    for _, target, _, _ in LINK.findall(FENCE.sub("", text)):
        if ":" not in target and not target.startswith("/"):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(place), target))


def file_meant(root: Path, target: str) -> str | None:
    """The file of the repository that a link means: of a folder its README.md. None where there is none."""
    if target.startswith(".."):
        return None
    found = root / target
    if found.is_dir():
        found, target = found / "README.md", f"{target}/README.md"
    return target if found.is_file() else None


def page_of(path: str) -> str:
    return f"{BELOW}/{path.removesuffix('.md')}.md"


def shown(path: str, content: str) -> str:
    """A page that shows the file; of code the search knows nothing."""
    if path.endswith(".md"):
        return content
    fence = "`" * (max([2, *map(len, re.findall(r"`+", content))]) + 1)
    block = f"{fence}{LEXERS.get(Path(path).suffix, 'text')}\n{content.rstrip()}\n{fence}"
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{block}\n"


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """`change` applied to everything but fenced code."""
    pieces, at = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*pieces, change(markdown[at:])])
