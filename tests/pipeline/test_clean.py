"""Hostile and odd input becomes passages that can be spoken, or a reason."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.pipeline.clean import _letters_and_digits, clean, passages, refusal


@given(st.text(max_size=300))
def test_clean_is_nfc_and_free_of_control_characters(text: str) -> None:
    cleaned = clean(text)
    assert all(unicodedata.category(c)[0] != "C" for c in cleaned if c != "\n")
    assert clean(cleaned) == cleaned


@given(st.text(alphabet=st.one_of(st.characters(), st.characters(max_codepoint=0x100)), max_size=300))
def test_clean_goes_by_character(text: str) -> None:
    text = text.replace("\ud800", "")
    plain = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\u00ad", "")
    kept = (c for c in plain if c.isspace() or unicodedata.category(c)[0] != "C")
    assert clean(text) == "".join(c if c == "\n" else " " if c.isspace() else c for c in kept)


@given(st.text(alphabet="aZ09 .,-é²אً_", max_size=60))
def test_what_is_mostly_letters_and_digits_is_counted_alike_in_any_script(text: str) -> None:
    assert _letters_and_digits(text) == sum(map(str.isalnum, text))


def test_clean_by_example() -> None:
    assert clean("cafe\u0301\x00 so\u00adft\u200b non\u00a0break\r\n\tend\u202e") == "café soft non break\n end"


@given(st.text(alphabet="ab .,;!?\nA", max_size=400), st.integers(2, 8), st.integers(8, 20))
def test_passages_keep_every_word_in_order_and_none_is_too_long(text: str, low: int, more: int) -> None:
    high = low + more
    found = list(passages(text, low, high))
    kept = " ".join(" ".join(found).split())
    assert kept.replace(" ", "") in text.replace(" ", "").replace("\n", "") or kept == ""
    assert all(len(p.split()) <= high for p in found)


def test_short_neighbours_are_joined_and_paragraphs_are_not() -> None:
    text = "One two three. Four five six! Seven eight.\n\nNew paragraph here now."
    assert list(passages(text, 5, 20)) == ["One two three. Four five six!", "Seven eight.", "New paragraph here now."]


def test_a_long_sentence_is_cut_at_its_clauses() -> None:
    text = "one two three, four five six, seven eight nine ten eleven twelve"
    assert list(passages(text, 2, 6)) == ["one two three, four five six,", "seven eight nine ten eleven twelve"]


GOOD = "Stir the soup for three minutes, then serve it with bread and (cold) butter."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("Naïve café owners — “quoted” — say it’s 20% cheaper & better than before, by far.", None),
        ("too few words", "too short"),
        (GOOD + " word" * 90, "too long"),
        (GOOD + " " + "x" * 100_000, "overlong word"),
        (GOOD + " <b>bold</b> and **bold** and [link](x) 😀 &nbsp; at www.example.org for $9.99 or 12 km/h", None),
        (GOOD + " see https://example.org/" + "a%20b/" * 12, "address"),
        (GOOD + " for (int i = 0; i < n; ++i) { buf[i] ^= *(p + i) & 0xFF; if (!p->next) return -1; }", "code"),
        (GOOD + " שלום עולם", "other script"),
        (GOOD + " привет", "other script"),
        ("12.5 881 1.3 17 2,204 9.1 77 23.8 6 1.2 450 3 4.4", "mostly numbers"),
        ("- - - - ... , , , ; ; ; ! ! ! a b", "mostly punctuation"),
    ],
)
def test_refusals(text: str, reason: str | None) -> None:
    assert refusal(text, 12, 60) == reason


def test_a_megabyte_on_one_line_is_quick_and_split() -> None:
    found = list(passages(clean("word and another, " * 60_000), 12, 48))
    assert len(found) > 3_000
    assert max(len(p.split()) for p in found) <= 48
