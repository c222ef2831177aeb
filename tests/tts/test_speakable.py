"""Text to speakable text: what English readers say, what is refused, and what holds for any text at all."""

from __future__ import annotations

import re
import string
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.tts.speakable import Spoken, is_plain, numbers, refuse, speakable
from salad.tts.speakable.refuse import REASONS

CASES = [
    line.split("\t")
    for line in (Path(__file__).parent / "speakable.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
SAID = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ .,;:!?'-]+")
needs_library = pytest.mark.skipif(not find_spec("normt2s"), reason="pip install 'normt2s>=0.7,<0.8'")


def by_words(text: str) -> str:
    """Lower case, without punctuation, and without the British "and" after a hundred."""
    text = re.sub(r"[^\w\s]", "", re.sub(r"[-–—_']", " ", text.lower()))
    return " ".join(re.sub(r"\b(hundred|thousand|million) and\b", r"\1", text).split())


@needs_library
@pytest.mark.parametrize(("kind", "text", "readings"), [(k, t, r) for k, t, *r in CASES], ids=[t for _, t, *_ in CASES])
def test_reads_as_people_do(kind: str, text: str, readings: list[str]) -> None:
    spoken = speakable(text)
    assert spoken.problem is None
    assert by_words(spoken.text) in {by_words(r) for r in readings}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nothing to say"),
        (" \n ", "nothing to say"),
        ("...", "nothing to say"),
        ("🎉 🎉", "nothing to say"),
        ("a bell\x07 rings", "control characters"),
        ("half a \ud800 pair", "control characters"),
        ("the Arabic word الدرة", "other script"),
        ("from Greek ζωή, life", "other script"),
        ("the year ٢٠٢٤", "other script"),
        ("it is " + "a" * 31 + " long", "overlong word"),
        ("commit deadbeef12345678 broke it", "encoded data"),
        ("key aGVsbG8gd29ybGQgdGhpcyBpcw0K1 leaked", "encoded data"),
        ("id 123e4567-e89b-12d3-a456-426614174000 is new", "encoded data"),
        ("at address 0x7ffe", "encoded data"),
        ("serial 12345678901234567890", "mostly numbers"),
        ("12 34 56 78 and 90", "mostly numbers"),
        ("it %$# &*^ @!~ was", "mostly symbols"),
        ("see https://example.com/a/very/long/path/that/nobody/would/read/aloud/to/anyone", "address"),
        ("a | b | c | d", "table"),
        (r"so $\frac{a}{b}$ holds", "formula"),
        ("a = b = c = d = e", "formula"),
        ("if (x == 1) { return f(x); }", "code"),
        ("int main() { puts(s); }", "code"),
        ("SELECT * FROM users WHERE id = 5;", "code"),
    ],
)
def test_refuses(text: str, problem: str) -> None:
    assert speakable(text) == Spoken("", problem)
    assert problem in REASONS


@pytest.mark.parametrize(
    "text",
    [
        "It was a bright cold day, and the clocks were striking.",
        "don't stop: well-known words; no others!",
        "  spaces stay  ",
        "NASA and the FBI",
        "I gave it to the U.S. for good",
    ],
)
def test_plain_text_comes_back_as_it_is(text: str) -> None:
    assert is_plain(text)
    assert speakable(text) == Spoken(text, None)


@pytest.mark.parametrize("text", ["saw Dr. Smith", "Henry VIII", "wait... what", "now -- or never", "see example.com", "a" * 31])
def test_letters_alone_do_not_make_it_plain(text: str) -> None:
    assert not is_plain(text)


def test_no_library_for_text_without_numbers() -> None:
    script = (
        "import sys; from salad.tts.speakable import speakable; "
        "speakable('Plain words.'); speakable('Dr. “Who” (a café) & co — <b>bold</b>'); speakable('x = {1};'); "
        "print('normt2s' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_says_how_to_get_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers._library.cache_clear()
    monkeypatch.setitem(sys.modules, "normt2s", None)
    with pytest.raises(SaladError, match="pip install"):
        speakable("room 5")
    numbers._library.cache_clear()


@needs_library
def test_a_slip_of_the_library_costs_one_reading_and_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(text: str) -> str:
        raise AttributeError("no match")

    monkeypatch.setattr(numbers._library(), "normalize", stumble)
    assert speakable("room 12 b").text == "room one two b"


@needs_library
@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        ("[word](/wɜːd/) and [[ipa]]", None),
        ("[word](/phonemes/)", "word"),
        ('<speak><break time="9s"/>hello</speak>', "hello"),
        ("&lt;break time=9/&gt; hello", "hello"),
        ("{{template}} hello", None),
        ("hello `rm -rf /` there", "hello rm rf there"),
        ("hello ========== _____ there", "hello there"),
        ("hello ../../etc/passwd", "hello dot dot slash dot dot slash etc slash passwd"),
    ],
)
def test_nothing_acts_as_markup(hostile: str, said: str | None) -> None:
    spoken = speakable(hostile)
    assert spoken.text == (said or "") or said is None
    assert spoken.problem or SAID.fullmatch(spoken.text)


# Pieces that the rules know, put together in ways that nobody wrote them for.
PIECES = [
    *" \n\t.,;:!?'-–—…/|*_`#@&%+=<>~^()[]{}\"“”’$€£°§©™×→½²³⅓µαЖ日🎉\x00\u200b", *string.digits, "the", "Dr.", "e.g.", "No.",
    "St.", "Oct.", "VIII", "Henry", "Chapter", "I", "V", "km/h", "kg", "in.", "a.m.", "pm", "1984", "80s", "3rd", "12/25/1999",
    "2024-03-15", "9:05", "1/2", "$9.99", "bn", "10-15", "555-1234", "https://", "www.", "example.com", "a@b.org", "[12]", "**",
    "<b>", "&amp;", "&lt;", "x", "é", "ﬁ", "...", "U.S.", "C++", "1e5", "007", "and", "%", "word", "\\frac", "İ", "ǆ", "ª", "Å",
    "\u0308", "ﬀ",
]  # fmt: skip
texts = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=14).map("".join)) | st.lists(
    st.sampled_from(PIECES), max_size=14
).map(" ".join)


@needs_library
@settings(max_examples=400, deadline=None, derandomize=True)
@given(texts)
def test_any_text(text: str) -> None:
    spoken = speakable(text)
    assert spoken == speakable(text)
    if spoken.problem:
        assert spoken.text == ""
        assert spoken.problem in REASONS
        return
    assert SAID.fullmatch(spoken.text)  # so no digit either
    assert any(c.isalpha() for c in spoken.text)
    assert speakable(spoken.text) == spoken


@needs_library
@pytest.mark.parametrize(
    "unit", ["1", "1-", "(", "a.", "1/2 ", "&amp;", "<b ", "[a", "$1,", "*", "'", "1:", "x1", "I", "é", "www.", "a@", "- ", "1."]
)
def test_time_grows_with_length_and_no_faster(unit: str) -> None:
    from time import perf_counter

    def seconds(n: int) -> float:
        started = perf_counter()
        speakable("so " + unit * n)
        return perf_counter() - started

    speakable("warm 1")
    assert min(seconds(4000), seconds(4000)) < 1.0


PIECES = ["be", "ad", "fa", "word", "Some", "www.", "abc.", "%", "0", "é", "a" * 31, "...", "---", "'", "_", "@"]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, *" " * 8, *"-:.,!"]), max_size=40).map("".join))
def test_plain_text_is_refused_no_more_and_no_less_for_being_looked_at_briefly(text: str) -> None:
    brief = refuse.refusal(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refuse, "ONLY_WORDS", re.compile(r"(?!)"))
        patched.setattr(refuse, "_MAY_BE_BYTES", re.compile(""))
        assert refuse.refusal(text) == brief


def test_words_that_may_be_bytes_are_looked_at_closely() -> None:
    assert refuse.refusal("be ad be ad be ad fa") == "encoded data"
    assert refuse.refusal("see www." + "abc." * 20) == "address"
