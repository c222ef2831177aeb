"""URLs, e-mail addresses, paths, file names and dotted identifiers, said part by part: "example dot com slash docs"."""

from __future__ import annotations

import re

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_URL = re.compile(r"(?:(?:https?|ftp|git|ssh)://|(?=www\.))[^\s<>\"'()\[\]{}|\\]+(?<![.,;:!?])", re.IGNORECASE)
_BARE = re.compile(r"(?<![\w@.])(?:[A-Za-z0-9-]{1,63}\.)+(?:com|org|net|edu|gov|info|io|dev|ai|co\.uk)(?:/[\w./-]*\w|/)?(?!\w)")
_ENDINGS = "html?|py|txt|pdf|jpe?g|png|zip|exe|js|css|md|xml|json|csv|mp\\d"
_DOTTED = re.compile(rf"(?<=[A-Za-z_]{{2}})\.(?=[a-z]{{2}})|(?<=\w)\.(?=(?:{_ENDINGS})\b)")
_PATH = re.compile(r"(?<![\w/.])(?:\.{1,2}/|/(?=\w[\w.-]*/))[\w./-]*(?<![.-])")
_SAID = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", "?": "question mark", "=": "equals", "&": "and",
    "#": "hash", ":": "colon", "~": "tilde", "+": "plus", "%": "percent",
}  # fmt: skip
_MARK = re.compile(r"[^\w]|_")


def read(text: str) -> str:
    """`text` with the marks inside its addresses written as words; "https://" and "www." are not said."""
    if "/" in text:
        text = _PATH.sub(lambda m: _MARK.sub(_say_mark, m.group()), text)
    if "." not in text:
        return text
    if "@" in text:
        text = _EMAIL.sub(lambda m: _spell(m.group()), text)
    text = _BARE.sub(lambda m: _spell(m.group()), _URL.sub(lambda m: _spell(m.group()), text))
    return _DOTTED.sub(" dot ", text)


def _spell(address: str) -> str:
    return _MARK.sub(_say_mark, address.split("://", 1)[-1].removeprefix("www.").removesuffix("/"))


def _say_mark(m: re.Match[str]) -> str:
    return f" {_SAID.get(m.group(), '')} "
