"""Why a text cannot be said aloud, told before anything costly runs."""

from __future__ import annotations

import re

from salad.tts.speakable.markup import without_tags_and_lines

LONGEST_WORD = 30  # letters
LONGEST_ADDRESS = 60  # characters
MOST_DIGITS = 15  # in a row: a card number is read, a serial number is not
MOST_NUMBERS = 0.6  # among words, from four numbers on
MOST_SYMBOLS = 0.4  # among all characters that are not spaces
REASONS = (
    "nothing to say", "control characters", "other script", "overlong word", "encoded data", "mostly numbers",
    "mostly symbols", "address", "table", "formula", "code",
)  # fmt: skip

ONLY_WORDS = re.compile(r"[ .,;:!?'-]*+(?:[A-Za-z]{1,30}+(?![A-Za-z])[ .,;:!?'-]*+)++")  # of at most LONGEST_WORD letters
_MAY_BE_ADDRESS = re.compile(r"://|www\.|@")
_ADDRESS = re.compile(r"(?:\w{2,8}://|www\.|[\w.+-]+@[\w-]+\.)\S+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd\ue000-\uf8ff]")
_NOT_LATIN = re.compile(r"[^\W\d_A-Za-zÀ-ÖØ-öø-ɏḀ-ỿΑ-Ωα-ωϕϵªºµΩKÅℓ\uff21-\uff3a\uff41-\uff5aﬀ-ﬆ¹²³⁰⁴-⁹₀-₉¼-¾⅐-ⅿ①-⑳ʻʼʽʾʿ]")
_GREEK_WORD = re.compile(r"[Α-Ωα-ω]{3}")
_OTHER_DIGIT = re.compile(r"[^\D0-9\uff10-\uff19]")
_LONG_WORD = re.compile(rf"[^\W\d_]{{{LONGEST_WORD + 1}}}")
_ENCODED = re.compile(
    r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])[\w+/]{20,}={0,2}"  # base64
    r"|\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|\b(?=[0-9A-F]*[A-F])(?=[0-9A-F]*\d)[0-9A-F]{8,}\b"  # a hash
    r"|\b0x[0-9A-Fa-f]{3,}\b"
)
_MAY_BE_BYTES = re.compile(r"[\\%]|[ :-][0-9A-Fa-f]{2}[ :-]")
_BYTES = re.compile(r"(?:[\\%]x?[0-9A-Fa-f]{2}){3}|(?:\b[0-9A-Fa-f]{2}[ :-]){6}[0-9A-Fa-f]{2}\b")
_LONG_NUMBER = re.compile(rf"\d{{{MOST_DIGITS + 1}}}")
_NUMBER_WORD = re.compile(r"(?<!\S)[^\s\d]*\d\S*")
_NOT_LETTER = re.compile(r"[\W\d_]")
_SAID = re.compile(r"[^\W_]")
_SYMBOL = re.compile(r"[^\w\s.,;:!?'\"“”‘’–—-]|[_\t]")
_FORMULA = re.compile(
    r"\\(?:frac|sum|int|sqrt|begin|left|alpha|beta|cdot|mathbb|mathrm)\b|\$[^$\n]*[\\^_][^$\n]*\$|[A-Za-z]\^[\w{(]|[∑∫√∂∇∀∃∈]"
)
_OPERATOR = re.compile(r"[=≤≥≈∝]|(?<=[\w)]) ?[+×÷^] ?(?=[\w(])|(?<=[\d)]) ?\* ?(?=[\d(])")
_CODE = re.compile(
    r"[{}]|;\s*$|[A-Za-z_]\w*\.[A-Za-z_]\w*\(|=>|->|[!=+*:<>&|/-]=|&&|\|\||\w::\w|\+\+[;)]|^\s*(?:\$|#|>>>|//)\s?\w+[(./]"
    r"|\breturn\s+\w+[\[(;.]|\b(?:def|class|function|import|const|let|var|void|int|char|public|static|struct)\s+[\w*]+\s*[({=;:\[]"
    r"|^\s*#\s*(?:include|define|ifdef)|^\s*(?:SELECT|INSERT INTO|UPDATE)\s.*\b(?:FROM|VALUES|SET)\b|\b\w+\s?=\s?[\"'\[{(]"
    r"|\b\w{2,}\((?!e?s\))[\w*&, ]*\);|/\*|\*/|<\?|\?>",
    re.MULTILINE,
)
_MOST_OPERATORS, _MOST_CODE, _MOST_PIPES, _FEW_NUMBERS = 3, 1, 2, 3  # so many are yet no sign of it


def refusal(text: str) -> str | None:
    """The first of `REASONS` that holds, or None."""
    if ONLY_WORDS.fullmatch(text) and not _MAY_BE_ADDRESS.search(text) and not _MAY_BE_BYTES.search(text):
        return None  # as most texts, a tenth of the time
    if _CONTROL.search(text):
        return "control characters"
    if not text.isascii() and (_NOT_LATIN.search(text) or _GREEK_WORD.search(text) or _OTHER_DIGIT.search(text)):
        return "other script"
    if _MAY_BE_ADDRESS.search(text):
        addresses = _ADDRESS.findall(text)
        if any(len(a) > LONGEST_ADDRESS or "%" in a for a in addresses):
            return "address"
        text = _ADDRESS.sub(" it ", text)  # whatever is in it, it is read
    if not _SAID.search(text):
        return "nothing to say"
    if _LONG_WORD.search(text):
        return "overlong word"
    numbers = _NUMBER_WORD.findall(text)
    if any(map(_ENCODED.search, numbers)) or (_MAY_BE_BYTES.search(text) and _BYTES.search(text)):
        return "encoded data"
    if len(numbers) > _FEW_NUMBERS and sum(map(_bare, numbers)) > MOST_NUMBERS * len(text.split()):
        return "mostly numbers"
    if any(map(_LONG_NUMBER.search, numbers)):
        return "mostly numbers"
    text = without_tags_and_lines(text)
    symbols = _SYMBOL.findall(text)
    return _refusal_for_symbols(text, len(symbols)) if symbols else None


def _bare(word: str) -> bool:
    return len(_NOT_LETTER.sub("", word)) < 3


def _refusal_for_symbols(text: str, symbols: int) -> str | None:
    if text.count("|") > _MOST_PIPES or "\t" in text.strip():
        return "table"
    if _FORMULA.search(text) or len(_OPERATOR.findall(text)) > _MOST_OPERATORS:
        return "formula"
    if len(_CODE.findall(text)) > _MOST_CODE:
        return "code"
    return "mostly symbols" if symbols > MOST_SYMBOLS * (len(text) - text.count(" ")) else None
