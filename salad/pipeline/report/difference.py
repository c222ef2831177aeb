"""What was said beside what an ASR heard, character by character: the errors that the character error rate counts."""

from __future__ import annotations

from typing import Any

from salad.tts.quality import normal_form

SAME, MISSED, ADDED = "same", "missed", "added"
SHORTEST = 4  # characters: what two wordings share between two differences is part of them if it is shorter

Piece = tuple[str, str]  # characters, and which of the three


def differences(said: str, heard: str) -> list[Piece]:
    """The heard wording in its normal form, what was said in place of it before what was heard; spaces do not count."""
    from rapidfuzz.distance import Levenshtein

    a, b = normal_form(said).strip(), normal_form(heard).strip()
    in_a, in_b = ([*(i for i, c in enumerate(text) if c != " "), len(text)] for text in (a, b))
    found: list[Piece] = []
    done = 0  # characters of b
    for same, (a0, a1), (b0, b1) in _runs(Levenshtein.opcodes(a.replace(" ", ""), b.replace(" ", ""))):
        start, end = in_b[b0], in_b[b1 - 1] + 1 if b1 > b0 else in_b[b0]
        found.append((b[done:start], SAME))
        if not same and a1 > a0:
            first, last = in_a[a0], in_a[a1 - 1] + 1
            if b1 == b0:  # nothing stands in its place: a space goes with it
                first, last = (first, in_a[a1]) if start < len(b) else (in_a[a0 - 1] + 1 if a0 else 0, last)
            found.append((a[first:last], MISSED))
        found.append((b[start:end], SAME if same else ADDED))
        done = end
    return _joined(found)


def _runs(opcodes: Any) -> list[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """(whether both are the same there, from where to where in the one, in the other), in turn."""
    codes = [(o.tag == "equal", (o.src_start, o.src_end), (o.dest_start, o.dest_end)) for o in opcodes]
    runs: list[tuple[bool, tuple[int, int], tuple[int, int]]] = []
    for i, (same, a, b) in enumerate(codes):
        same = same and (i in (0, len(codes) - 1) or a[1] - a[0] >= SHORTEST)
        if runs and runs[-1][0] == same:
            _, before_a, before_b = runs.pop()
            a, b = (before_a[0], a[1]), (before_b[0], b[1])
        runs.append((same, a, b))
    return runs


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Without empty pieces, neighbours of one kind made one."""
    found: list[Piece] = []
    for text, kind in pieces:
        if not text:
            continue
        if found and found[-1][1] == kind:
            text = found.pop()[0] + text
        found.append((text, kind))
    return found
