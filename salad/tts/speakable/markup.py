"""Markdown, HTML and citation marks, whole or cut in the middle: what is written for the eye only goes, its words stay."""

from __future__ import annotations

import html
import re

_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,5}|[A-Za-z]\w{1,10});")
_BREAK = re.compile(r"</?(?:br|p|li|ul|ol|div|h[1-6]|tr|td|th|table|hr)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][\w:-]{0,20}(?:\s+[\w:-]+\s*=[^<>]{0,200})?\s*/?>|<!--[^<>]{0,200}-->")
_LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,300}(?:\s\"[^\"]{0,200}\")?\)")
_LINE_START = re.compile(r"^[ \t]*(?:(?:>[ \t]*)+|#{1,6}[ \t]+|[-*+•‣◦▪][ \t]+(?!\d+\s*=))+", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:[-*_=~]{3,}|(?:[-*_] ){2,}[-*_])[ \t]*$", re.MULTILINE)
_DRAWN = re.compile(r"[-=_*~#+]{4,}")
_TASK = re.compile(r"^\s*\[[ xX]\]\s")
_INLINE_BULLET = re.compile(r"(?<![\d)])\s[*•]\s(?![\d(])")
_EMPHASIS = re.compile(r"\*{1,3}(?=\S)|(?<=\S)\*{1,3}|~~|`+|(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)")
_CITATION = re.compile(r"\s?\[(?:\d{1,3}(?:\s?[,;–-]\s?\d{1,3}){0,9}|citation needed|edit|sic|note \d{1,2}|\^\w{1,9})\]")


def strip(text: str) -> str:
    """`text` without its markup; a link gives its label."""
    if "&" in text:
        text = _ENTITY.sub(lambda m: html.unescape(m.group()), text)
    text = without_tags_and_lines(text)
    if "[" in text:
        text = _CITATION.sub("", _TASK.sub("", _LINK.sub(r"\1", text)))
    text = _LINE_START.sub("", _RULE.sub("", text))
    return _EMPHASIS.sub("", _INLINE_BULLET.sub(", ", text))


def without_tags_and_lines(text: str) -> str:
    """Lines: "=====", "_____" and their like."""
    text = _DRAWN.sub(" ", text)
    return _TAG.sub("", _BREAK.sub(" ", text)) if "<" in text else text
