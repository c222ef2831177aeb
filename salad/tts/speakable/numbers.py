"""Numbers in words. The library normt2s (MIT) reads cardinals, ordinals, decimals, fractions, units, money, times and dates.

Here is what it leaves. Forms that it does not know are written as forms that it does ("Oct. 5", "12/25/1999", "$2bn",
"10-15"); years are told from counts, and telephone numbers from sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from salad.errors import SaladError
from salad.tts.speakable import roman
from salad.tts.speakable.words import MONTHS, one_of

_DIGITS = "zero one two three four five six seven eight nine".split()
_DECADES = "twenties thirties forties fifties sixties seventies eighties nineties".split()
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}
_UNITS = {  # that normt2s 0.7 lacks, or gives the plural "mile per hours"
    "mph": "mile per hour", "kph": "kilometer per hour", "rpm": "revolution per minute", "fps": "frame per second",
    "tsp": "teaspoon", "tbsp": "tablespoon", "Tbsp": "tablespoon", "pt": "pint", "qt": "quart", "gal": "gallon",
    "sec": "second", "secs": "second", "mins": "minute", "hr": "hour", "hrs": "hour", "wk": "week", "wks": "week", "yrs": "year",
    "mcg": "microgram", "IU": "international unit", "mEq": "milliequivalent", "bpm": "beat per minute", "kcal": "kilocalorie",
    "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second", "psi": "pound per square inch",
}  # fmt: skip
_ODD_UNITS = {  # symbol: singular, plural
    "ft²": ("square foot", "square feet"), "in²": ("square inch", "square inches"), "inches": ("inch", "inches"),
    "mmHg": ("millimeter of mercury", "millimeters of mercury"), "ppm": ("part per million", "parts per million"),
    "ppb": ("part per billion", "parts per billion"), "mi²": ("square mile", "square miles"),
    "in³": ("cubic inch", "cubic inches"), "ft³": ("cubic foot", "cubic feet"),
}  # fmt: skip

_MONTH = "|".join(dict.fromkeys(["May", *MONTHS.values()]))
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_DOTTED_UNIT = "oz|lbs?|[tT]b?sp|qt|pt|gal|ft|yd|[ckm]?m|[km]?g|ml|mL|hrs?|mins?|secs?|sq"
_RANGE = (
    rf"(?<![\w.,/:-])([$€£]?{_NUMBER}(?::\d\d)?(?:\s?(?:[ap]m|[AP]M|%|°[CF]?|[ckm]?m|[km]?g|ml|th|st|nd|rd|s|thousand|[mbtr]+illion))?)\s?[-–—]\s?"
    rf"(?=[$€£]?({_NUMBER})(?![\d-]|\s?=))"
)
_YEAR = (
    r"(?<![\d.,$€£¥#:/+-])(?<!number )\b(?:1[1-9]\d\d|20\d\d)\b(?!,\d|\.\d|:\d|-\d\d-\d\d|/|\s?[%°]"
    r"|\s?(?:[kMGT]?B|[kcmµn]?[mglLVWA]|Hz|ppm|lbs?|ft|kcal|million|billion)\b)"
)


def read(text: str) -> str:
    """`text` with its numbers in words; no digit is left."""
    text = roman.to_arabic(text)
    if not _DIGIT.search(text):
        return text
    for mark, pattern, how in _RULES:
        if mark in text:
            text = pattern.sub(how, text)
    reader = _library()
    with suppress(Exception):  # an early release of others: its slip on one text shall not end a run, digits are said one by one
        text = reader.normalize(text.replace("\\", " "))  # it does slip on LaTeX cut in the middle
    text = _DIGIT.sub(lambda m: f" {_DIGITS[int(m.group())]} ", text)
    return _HALF_DAY.sub(lambda m: f"{m[1].upper()}M", text)


_DIGIT = re.compile(r"[0-9]")
_HALF_DAY = re.compile(r"\b([ap]) m\b")


@cache
def _library() -> Any:
    """The reader, made once; about 10 ms."""
    try:
        from normt2s import Normalizer
    except ImportError as e:
        raise SaladError(
            "numbers cannot be read aloud without normt2s", "pip install 'normt2s>=0.7,<0.8' (or `make setup`)"
        ) from e
    reader = Normalizer("en", latex="keep", markdown="keep")
    for symbol, name in _UNITS.items():
        reader.add_unit(symbol, name, name.replace(" ", "s ", 1) if " per " in name else None)
    for symbol, (one, many) in _ODD_UNITS.items():
        reader.add_unit(symbol, one, many)
    return reader


def _ordinal(n: int) -> str:
    return str(_library().lang.ordinal(n))


def _digit_by_digit(m: re.Match[str]) -> str:
    return ", ".join(" ".join(group) for group in re.findall(r"\d+", m.group()))


def _iso(m: re.Match[str]) -> str:
    """12/25/1999 is American; 25/12/1999 can only be the other way round."""
    month, day, year = int(m[1]), int(m[2]), m[3]
    if month > 12:
        month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return f"{m[1]}, {m[2]}, {m[3]}"
    century = "" if len(year) == 4 else "19" if int(year) > 30 else "20"
    return f"{century}{year}-{month:02}-{day:02}"


def _day_of_month(m: re.Match[str]) -> str:
    day = int(m[1])
    return f"the {_ordinal(day)} of {m[2]}{m[3] or ''}" if 1 <= day <= 31 else m.group()


def _year(m: re.Match[str]) -> str:
    return str(_library().lang.year(int(m.group())))


def _mixed(m: re.Match[str]) -> str:
    whole, over, under = int(m[1]), int(m[2]), int(m[3])
    return str(_library().lang.mixed_fraction(whole, over, under)) if 0 < over < under else m.group()


def _over(m: re.Match[str]) -> str:
    return f"{m[1]} over {m[2]}" if int(m[1]) > int(m[2]) else m.group()


def _ratio(m: re.Match[str]) -> str:
    hours, minutes = int(m[1]), m[2]
    return m.group() if hours < 24 and len(minutes) == 2 and int(minutes) < 60 else f"{m[1]} to {m[2]}"


def _range(m: re.Match[str]) -> str:
    """From 10 to 15, from 1914 to 18; "FIPS 140-2" is none."""
    low, high = m[1], m[2]
    is_range = not (low.isdigit() and high.isdigit()) or int(low) <= int(high) or len(low) < 3 or len(high) == 2
    return f"{low} to " if is_range else f"{low} dash "


_How = str | Callable[[re.Match[str]], str]
_WRITTEN: list[tuple[str, str, _How]] = [  # what the text must contain for the rule to be tried, pattern, reading
    # Dates
    ("/", r"(?<![\d/.])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\d/])", _iso),
    ("", rf"\b({one_of(MONTHS)})\.? (?=\d)", lambda m: MONTHS[m[1]] + " "),
    ("", rf"(?:\b[Tt]he )?\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b(,? \d{{4}}\b)?", _day_of_month),
    ("s", r"(?<![\w'])'?([2-9])0'?s\b", lambda m: _DECADES[int(m[1]) - 2]),
    ("'", r"(?<=\d0)'s\b", "s"),
    # Numbers that are names: said digit by digit
    ("", r"(?<![\w.-])(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])?\d{3}[.-]\d{4}(?![\w-])", _digit_by_digit),
    ("-", r"(?<![\w-])(?!\d{4}-\d\d-\d\d(?!\d))\d+(?:-\d+){2,}(?![\w-])", _digit_by_digit),
    ("-", r"\b([A-Z]{2,})-(\d+)-(\d+)\b", r"\1 \2, \3"),
    # Money
    ("$", r"\b(?:US ?|U\.S\. ?|A|C|CA|AU|NZ|HK)\$(?=\s?\d)", "$"),
    ("", rf"([$€£¥]\s?{_NUMBER})\s?([kK]|[mM][nM]?|[bB]n?|[tT]n)\b", lambda m: f"{m[1]} {_SCALES[m[2][0].lower()]}"),
    # Units
    (".", rf"(?<=\d)(\s?)({_DOTTED_UNIT})\.(?!\s*$|\s+[A-Z])", r"\1\2"),
    (".", r"(?<=\d)[ -]?in\.(?=\s+[a-z(]|\s?[,;x×)]|$)", " inches"),
    ("sq", r"(?<=\d) ?sq (ft|in|mi|km|m|cm)\b", r" \1²"),
    ("", r"(?<=\d)(\s?)([cmk]?m|in|ft|mi)([23])\b", lambda m: f"{m[1]}{m[2]}{'²³'[int(m[3]) - 2]}"),
    ("-", r"(?<=\d)-(?=(?:[kMG]?Hz|[kmµ]?g|[cmk]m|[mcd]?[lL]|oz|lbs?|ft|[kMGT]B|[kM]?W|[mk]?V|mph|tsp|tbsp|kcal)\b)", " "),
    ("'", r"(\d)'\s?(\d{1,2})\b(?!')", r"\1 feet \2"),
    # Fractions, powers, ratios, products
    ("/", r"(?<![\d/.,])(\d{1,3})[ -](\d{1,2})/(\d{1,2})(?![\d/])", _mixed),
    ("/", r"(?<![\d/.,])(\d{2,3})/(\d{2,3})(?![\d/])", _over),
    ("", r"(\d)(?:[eE]|\s?[x×]\s?10\^?)([+-]?\d+)\b(?!\s?[x×])", r"\1 times ten to the power of \2"),
    ("²", r"(?<=\d)²", " squared"),
    ("³", r"(?<=\d)³", " cubed"),
    (":", r"(?<![\d:])(\d{1,2}):([0-5]\d):([0-5]\d)(?![\d:])", r"\1:\2 and \3 seconds"),
    (":", r"(?<![\d:.])(\d+):(\d+)(?![\d:])", _ratio),
    ("0x", r"\b0x([0-9A-Fa-f]{1,2})\b", lambda m: f"zero x {' '.join(m[1])}"),
    ("x", r"(?<=\d)\s?x\s?(?=\d)", " by "),
    ("×", r"(?<=\d)\s?×\s?(?=\d)", " by "),
    ("x", r"(?<=\d)x(?!\w)", " times"),
    (".", r"(?<![\w.])\.(?=\d)", "0."),
    # Ranges, years, and numbers that touch letters
    ("", _RANGE, _range),
    ("", _YEAR, _year),
    ("-", r"(?<=[A-Za-z])-(?=\d)", " "),
    ("", r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])(?!(?:st|nd|rd|th|s)\b)", " "),
]
_RULES = [(mark, re.compile(pattern), how) for mark, pattern, how in _WRITTEN]
