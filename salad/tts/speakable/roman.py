"""Roman numerals where they are certain: "Henry VIII" is the 8th, "Chapter IV" is 4, "(iii)" is (3); "I", "MIX" and "XL" stay."""

from __future__ import annotations

import re

_NAMED = (  # a ruler or pope; what else carries a Roman numeral counts
    "Henry|Louis|George|Edward|Charles|James|William|Richard|Elizabeth|Mary|John|Paul|Pius|Leo|Benedict|Gregory|Innocent|Clement"
    "|Urban|Boniface|Sixtus|Julius|Alexander|Nicholas|Peter|Catherine|Ivan|Philip|Frederick|Napoleon|Francis|Ferdinand|Christian"
    "|Wilhelm|Robert|Constantine|Theodosius|Justinian|Ptolemy|Cleopatra|Darius|Xerxes|Ramesses|Otto|Olaf|Haakon|Harald|Stephen"
    "|Alfonso|Carlos|Pedro|Leopold|Baldwin|Sigismund|Victor|Albert|Conrad|Rudolf|Maximilian|Gustav|Margaret|Ludwig|Casimir|Basil"
)
_COUNTING = (
    "Chapter|Part|Book|Volume|Section|Act|Scene|Article|Title|Appendix|Type|Phase|Stage|Class|Grade|Level|War|Factor|Schedule|Annex"
    "|Table|Figure|Category|Group|Mark|Apollo|Canto|Psalm|Bowl|Lesson|Unit|Rule|Step|Episode|Saturn|Windows|Corps|Canto|Division"
    "|type|phase|stage|class|grade|chapter|part|book|volume|section|act|scene|article|factor|level|category|group|schedule"
)
# After a first letter of IVXLC, what makes it look like a numeral ("II", "V"; "I" only where nobody means themselves).
REST = r"(?:[IVXLC]+\b|(?<=\b[VX])\b|(?<=\b(?:War|ter|art|ook|ume|Act|ype|ase|age|ass) I)\b)"
_ROMAN = r"(?=[IVXLC])(?:C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?<=[IVXLC])"
_NAMED_ROMAN = re.compile(rf"\b({_NAMED}) (?![CLX]\b|I\s+(?!of\b|was\b|had\b|and\b|to\b|in\b)[a-z])({_ROMAN})\b(?!\.\w)")
_COUNTED_ROMAN = re.compile(rf"\b({_COUNTING}) (?![CLX]\b)({_ROMAN})\b(?!['.]\w)")
_CAPITAL_ROMAN = re.compile(r"(?<=[a-z] )(II|III|VII|VIII|XIII)\b(?!['.]\w)")
_ENUMERATOR = re.compile(r"(?<!\w)\((i{1,3}|iv|vi{0,3}|ix|xi{0,3}|xiv|xvi{0,3})\)")
_MAY_BE = re.compile(r"\b[IVXLC]" + REST)
_VALUE = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def to_arabic(text: str) -> str:
    if _MAY_BE.search(text):
        text = _NAMED_ROMAN.sub(lambda m: f"{m[1]} the {_nth(_value(m[2]))}", text)
        text = _COUNTED_ROMAN.sub(lambda m: f"{m[1]} {_value(m[2])}", text)
        text = _CAPITAL_ROMAN.sub(lambda m: str(_value(m[1])), text)
    return _ENUMERATOR.sub(lambda m: f"({_value(m[1].upper())})", text) if "(" in text else text


def _value(roman: str) -> int:
    values = [_VALUE[c] for c in roman]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def _nth(n: int) -> str:
    """1st, 2nd, 3rd, 11th, 21st"""
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
