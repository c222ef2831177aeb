"""Short forms, symbols and punctuation: what stands for a word, or for a pause, without being a number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MONTHS = {
    "Jan": "January", "Feb": "February", "Mar": "March", "Apr": "April", "Jun": "June", "Jul": "July", "Aug": "August",
    "Sep": "September", "Sept": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
_WITHIN = {  # a sentence goes on after these
    "e.g": "for example", "i.e": "that is", "vs": "versus", "approx": "approximately", "cf": "compare", "viz": "namely",
    "a.k.a": "also known as", "w.r.t": "with respect to", "dept": "department", "govt": "government", "Assn": "Association",
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "Gen": "General", "Sen": "Senator", "Gov": "Governor",
    "Rep": "Representative", "Capt": "Captain", "Col": "Colonel", "Lt": "Lieutenant", "Sgt": "Sergeant", "Rev": "Reverend",
    "Mt": "Mount", "Ft": "Fort", "Univ": "University", "ca": "circa",
}  # fmt: skip
_LAST = {  # may end a sentence, whose full stop then stays
    "etc": "et cetera", "et al": "et al", "Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited",
    "Corp": "Corporation", "Co": "Company", "Bros": "Brothers", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road",
    "a.m": "AM", "p.m": "PM", "A.M": "AM", "P.M": "PM", "Ph.D": "PhD", "M.D": "MD", **MONTHS,
}  # fmt: skip
_BY_PLACE = {"St": ("Saint", "Street"), "Dr": ("Doctor", "Drive")}  # before a name; after one, and not before another
_BEFORE_NUMBER = {
    "no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "vol": "volume", "ch": "chapter", "sec": "section",
    "p": "page", "pp": "pages", "art": "article", "para": "paragraph", "eq": "equation", "c": "circa",
}  # fmt: skip
_SLASHED = {"w/o": "without", "w/": "with", "b/c": "because", "c/o": "care of", "24/7": "twenty-four seven", "and/or": "and or"}
_SYMBOLS = {
    "&": "and", "%": "percent", "‰": "per thousand", "+": "plus", "=": "equals", "<": "is less than", ">": "is greater than",
    "≤": "is at most", "≥": "is at least", "≠": "is not", "≈": "is about", "±": "plus or minus", "×": "times",
    "÷": "divided by", "²": "squared", "³": "cubed", "√": "the square root of", "∞": "infinity", "°": "degrees", "µ": "mu",
    "@": "at", "§": "section", "¶": "paragraph", "©": "copyright", "€": "euros", "£": "pounds", "¥": "yen", "¢": "cents",
    "→": "to", "⇒": "gives", "↑": "up", "↓": "down",
}  # fmt: skip
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_QUOTES = str.maketrans(
    dict.fromkeys('“”„‟"«»‹›″') | dict.fromkeys("‘’‚‛`´ʻʼʽʾʿ′", "'") | dict.fromkeys("‐‑−⁃", "-")  # gone, one kind, one kind
)
_COMPATIBLE = re.compile("[ﬀ-ﬆ\uff01-\uff5eªº№℃℉₀-₉Ⅰ-ⅿ①-⑳ℓKÅΩ\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_POWER = re.compile("(?<=\\d)[⁻⁰¹⁴-⁹][⁻⁰¹²³⁴-⁹]*")
_VULGAR = re.compile("(\\d?)([¼½¾⅐-⅞])")
_GREEK = re.compile("[Α-Ωα-ωϕϵ]")


def _with_capitals(forms: dict[str, str]) -> dict[str, str]:
    return forms | {k[0].upper() + k[1:]: v[0].upper() + v[1:] for k, v in forms.items()}


def one_of(forms: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))


def _after_one_of(forms: Iterable[str]) -> str:
    """What matches right after one of the forms and its full stop; each look back must be of one length."""
    by_length: dict[int, list[str]] = {}
    for form in forms:
        by_length.setdefault(len(form), []).append(re.escape(form))
    return "|".join(rf"(?<=\b(?:{'|'.join(same)})\.)" for same in by_length.values())


_ANYWHERE = {**_with_capitals(_WITHIN), **_LAST}
ENDS_SHORT_FORM = _after_one_of([*_ANYWHERE, *_BY_PLACE])
_SHORT = re.compile(rf"(?<![\w.])({one_of(_ANYWHERE)})\.(?=(\s+[A-Z]|\W*$)?)")
_PLACED = re.compile(rf"(\b[A-Z]\w+ )?\b({one_of(_BY_PLACE)})\.(?=(\s+[A-Z])?)")
_COUNTERS = _with_capitals(_BEFORE_NUMBER)
_COUNTED = re.compile(rf"(?<![\w.])({one_of(_COUNTERS)})\.\s?(?=\d)")
_SLASH = re.compile(rf"(?<![\w/])(?:{one_of(_SLASHED)})(?![\w/])|\s?/\s?")
_PER = re.compile(r"(?<=\w)\s?/\s?(?=(?:day|week|month|year|hour|minute|second|person|dose|mile|night|kg|kilogram)s?\b)")
_ENDING = re.compile(r"(?<=\w)\((s|es|d|r)\)")
_COPYRIGHT = re.compile(r"copyright\s?(?:\([cC]\)|©)|©(?=\s?copyright)|(?<!\w)\([cC]\)(?= \d{4})", re.IGNORECASE)
_SHARP = re.compile(r"(?<=\b[CF])#(?!\w)")
_PLACEHOLDER = re.compile(r"(?<![\w)])<(?=[A-Za-z/])|(?<=[A-Za-z/\"'])>(?!\w)")  # "<your name>"
_ABOUT = re.compile(r"~\s?(?=[\w$€£])")
_SYMBOL = re.compile(f"[{re.escape(''.join(_SYMBOLS))}]")
_TRAILING_OFF = re.compile(r"\s?(?:\.\.+|…)\s?(?=[a-z])")
_PAUSE = re.compile(r"\s*(?:[—―–()\[\]{}|•·∙\\]|--+|(?<=\s)-(?=\s))\s*")
_STRAY = re.compile(r"(?<!\w)'(?!\w)|(?<![^\W\d_])-+|-+(?![^\W\d_])")
_RUN_ON = re.compile(r"(?<=[a-z])\.(?=[A-Z][a-z])")
_TIGHT_COMMA = re.compile(r"(?<=\w),(?=\w)")
_SPACE_BEFORE = re.compile(r"\s+(?=[.,;:!?])")
_MARKS = re.compile(r"[.,;:!?](?:\s?[.,;:!?])+\s?")
_STRONGER = ",;:.!?"


def plain_marks(text: str) -> str:
    """Quotation marks out, apostrophes and hyphens of one kind, ligatures and full-width letters as usual ones."""
    text = text.translate(_QUOTES)
    if text.isascii():
        return text
    text = _POWER.sub(lambda m: "^" + unicodedata.normalize("NFKC", m.group()).replace("−", "-"), text)
    text = _INVISIBLE.sub("", text)
    text = _VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}".lstrip().replace("⁄", "/"), text)
    return _COMPATIBLE.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text)


def read_short_forms(text: str) -> str:
    """Abbreviations that end in a full stop, written out."""
    if "." in text:
        text = _SHORT.sub(lambda m: _ANYWHERE[m[1]] + ("." if m[2] is not None and m[1] in _LAST else ""), text)
        text = _COUNTED.sub(lambda m: _COUNTERS[m[1]] + " ", text)
        text = _PLACED.sub(_by_place, text)
    return text


def _by_place(m: re.Match[str]) -> str:
    before, (as_title, as_road) = m[1] or "", _BY_PLACE[m[2]]
    if m[3] or not before:  # a name follows, or none stands before
        return before + as_title
    return before + as_road + ("." if m.end() == len(m.string) else "")


def read_symbols(text: str) -> str:
    """Symbols as words, where a reader would say them; a Greek letter by its name."""
    if "(" in text:
        text = _ENDING.sub(r"\1", text)
    if "©" in text:
        text = _COPYRIGHT.sub("copyright", text)
    if "/" in text:
        text = _SLASH.sub(lambda m: _SLASHED.get(m.group(), " "), _PER.sub(" per ", text))
    if "#" in text:
        text = _SHARP.sub(" sharp", text)
    if "<" in text or ">" in text:
        text = _PLACEHOLDER.sub(" ", text)
    text = _ABOUT.sub(" about ", text)
    text = _GREEK.sub(lambda m: f" {unicodedata.name(m.group(), '').split()[-1].lower()} ", text)
    return _SYMBOL.sub(lambda m: f" {_SYMBOLS[m.group()]} ", text)


def as_pauses(text: str) -> str:
    """Brackets, dashes and ellipses as commas; none where nothing stands before or after."""
    return _PAUSE.sub(lambda m: ", " if m.start() and m.end() < len(m.string) else "", _TRAILING_OFF.sub(", ", text))


def tidy(text: str) -> str:
    """One mark where several stand together, single spaces, and no hyphen or apostrophe that belongs to no word."""
    text = _TIGHT_COMMA.sub(", ", _RUN_ON.sub(". ", _STRAY.sub(" ", text)))
    text = _SPACE_BEFORE.sub("", " ".join(text.split()))
    return _MARKS.sub(_strongest, text).lstrip(",;:.!? ").rstrip()


def _strongest(m: re.Match[str]) -> str:
    return max(m.group(), key=_STRONGER.find) + (" " if " " in m.group() else "")
