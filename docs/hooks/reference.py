"""The two pages of the site that nobody writes: every configuration key, from its model, and every command, from its help.

A page says where: `<!-- every key -->` in docs/configuration.md, `<!-- every command -->` in docs/commands.md. What a key means
stands once, as the comment beside it in salad/config.py: pydantic's docstrings of attributes would double that page's lines.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

KEYS, COMMANDS = "<!-- every key -->", "<!-- every command -->"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", ByteSize: "bytes, such as `8 GiB`"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    if KEYS in markdown:
        from salad.config import Config

        markdown = markdown.replace(KEYS, "\n".join(key_tables(Config)))
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_pages())
    return markdown


# -- keys ------------------------------------------------------------------------------------------------------


@dataclass
class Key:
    path: str  # dotted, `[]` after a list
    kind: str
    default: str
    meaning: str


@dataclass
class Part:
    """A section of the configuration: its keys, and everywhere that the same section may stand."""

    path: str
    about: str
    keys: list[Key] = field(default_factory=list)
    also: list[str] = field(default_factory=list)


def parts(model: type[BaseModel]) -> list[Part]:
    """The sections below `model`, each once, in the order of the page that it is written on."""
    found: dict[type[BaseModel], Part] = {}
    _collect(model, "", found)
    return list(found.values())


def _collect(model: type[BaseModel], path: str, found: dict[type[BaseModel], Part]) -> None:
    if model in found:
        found[model].also.append(path)
        return
    found[model] = part = Part(path, inspect.getdoc(model) or "")
    said = meanings(model)
    below: list[tuple[type[BaseModel], str]] = []
    for name, info in model.model_fields.items():
        at = f"{path}.{name}" if path else name
        inner, listed = _section(info.annotation)
        kind = f"{'list of ' if listed else ''}[section](#{_anchor(at, listed)})" if inner else _kind(info.annotation)
        part.keys.append(Key(at, f"{kind}{_bounds(info)}", _default(info, inner is not None), said.get(name, "")))
        if inner:
            below.append((inner, at + ("[]" if listed else "")))
    for inner, at in below:
        first = found.get(inner)
        _collect(inner, at, found)
        if first is not None:
            key = next(k for k in part.keys if k.path == at.removesuffix("[]"))
            key.kind = re.sub(r"\(#.*?\)", f"(#{_anchor(first.path)})", key.kind)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The comment beside each field, or the comment lines right above it."""
    source = inspect.getsource(model)
    comments = {t.start[0]: t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    (found,) = ast.parse(source).body
    said = {}
    for node in getattr(found, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            beside = comments.get(node.end_lineno or node.lineno)
            above = [comments[n] for n in _lines_above(node.lineno, comments)]
            said[node.target.id] = " ".join(t.string.lstrip("# ").strip() for t in ([beside] if beside else above))
    return said


def _lines_above(line: int, comments: dict[int, tokenize.TokenInfo]) -> list[int]:
    first = line
    while first - 1 in comments and not comments[first - 1].line.split("#")[0].strip():
        first -= 1
    return list(range(first, line))


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model that a field holds, if any, and whether it holds a list of them."""
    for each in (annotation, *get_args(annotation)):
        if inspect.isclass(each) and issubclass(each, BaseModel):
            return each, get_origin(annotation) is list
    return None, False


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if one is type(None) else _kind(one) for one in inside)
    if origin is list:
        return f"list of {_kind(inside[0])}s"
    if origin is dict:
        return "keys of its own"
    if origin is tuple:
        return f"`[low, high]`, {_kind(inside[0])}s"
    return PLAIN.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _bounds(info: FieldInfo) -> str:
    said = []
    for rule in info.metadata:
        said += [f"{sign} {getattr(rule, name):g}" for name, sign in BOUNDS.items() if hasattr(rule, name)]
        if getattr(rule, "min_length", None):
            said.append(f"at least {rule.min_length}")
        if pattern := getattr(rule, "pattern", None):
            said.append(f"`{pattern}`")
    return f", {', '.join(said)}" if said else ""


def _default(info: FieldInfo, section: bool) -> str:
    if info.is_required():
        return "**must be given**"
    value = info.get_default(call_default_factory=True)
    if section and value is not None and value != []:
        return "below"
    return f"`{json.dumps(value.value if isinstance(value, Enum) else value, ensure_ascii=False)}`"


def _anchor(path: str, listed: bool = False) -> str:
    return f"section-{path.replace('[]', '')}" if path else "section-top"


def key_tables(model: type[BaseModel]) -> Iterator[str]:
    """A heading, the section's own words and a table of its keys, for every section."""
    for part in parts(model):
        title = f"`{part.path}`" if part.path else "The top level"
        yield f"\n## {title} {{ #{_anchor(part.path)} }}\n\n{plain(part.about)}\n"
        if part.also:
            yield f"The same keys in {', '.join(f'`{path}`' for path in part.also)}.\n"
        yield '<div class="keys" markdown>\n'
        yield "| key | type and allowed values | default | meaning |\n|---|---|---|---|"
        for key in part.keys:
            shown = key.path.rsplit(".", 1)[-1]
            anchor = key.path.replace("[]", "")
            meaning = plain(key.meaning.replace("None:", "null:"))
            yield f"| `{shown}`{{ #{anchor} title='{key.path}' }} | {key.kind} | {key.default} | {meaning} |"
        yield "\n</div>"


def plain(text: str) -> str:
    """Words of the source as Markdown that shows them as they are, but for `code` and the names of pages, which become links."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    pieces[::2] = [re.sub(r"([\\*_\[\]<>|{}#])", r"\\\1", piece) for piece in pieces[::2]]
    return re.sub(r"(?<![\w/])docs/(\w+)\.md", r"[\1](\1.md)", "".join(pieces))


# -- commands --------------------------------------------------------------------------------------------------


def command_pages() -> str:
    """Markdown of what `salad --help` and `salad COMMAND --help` say, by `typer utils docs`; without its title."""
    asked = [sys.executable, "-m", "typer", "salad.cli", "utils", "docs", "--name", "salad"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    return said.split("\n", 1)[1]
