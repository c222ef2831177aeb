"""The pool from files: every format, every refusal counted, errors that name the source."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salad.config import Config, Interleave, load_config
from salad.errors import SaladError
from salad.pipeline.clean import clean, passages, refusal
from salad.pipeline.models import Models
from salad.pipeline.pool import build_pool, read_pool
from salad.pipeline.script import write_script

TEXT = "Stir the soup for {} minutes, then serve it with bread and some cold butter."


@pytest.fixture
def base(fake_config_path: Path) -> Config:
    return load_config(fake_config_path)


def build(base: Config, tmp_path: Path, source: dict[str, Any], **pool: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(meta, rows) of a pool of one source."""
    data = base.model_dump(mode="json")
    data["pool"] = {**data["pool"], "sources": [source], **pool}
    out = tmp_path / "pool"
    out.mkdir(exist_ok=True)
    meta = build_pool(out, Models(Config.model_validate(data)), lambda n: None)
    return meta, read_pool(out).to_pylist()


def write(tmp_path: Path, texts: list[Any], kind: str = "jsonl", column: str = "text") -> str:
    path = tmp_path / f"in.{kind}"
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps({column: t}) + "\n" for t in texts), encoding="utf-8")
        case "parquet":
            pq.write_table(pa.table({column: pa.array(texts, pa.string())}), path)
        case "txt":
            path.write_text("\n".join(texts), encoding="utf-8")
    return str(path)


NUMBERS = ("two", "three", "four", "five")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_every_file_format(base: Config, tmp_path: Path, kind: str) -> None:
    meta, rows = build(base, tmp_path, {"dataset": write(tmp_path, [TEXT.format(n) for n in NUMBERS], kind)})
    assert [r["text"] for r in rows] == [TEXT.format(n) for n in NUMBERS]
    assert meta["passages"] == 4
    assert len({r["id"] for r in rows}) == 4
    assert all(r["est_seconds"] > 0 and r["n_words"] == 15 for r in rows)


def test_hostile_rows_are_refused_by_reason_and_good_ones_kept(base: Config, tmp_path: Path) -> None:
    good = [TEXT.format(n) for n in NUMBERS]
    bad = [
        None, "", "\x00\x00", "word " * 200_000 + "x" * 50, "-----,;;;;!!!!-----,;;; " * 6 + good[0], good[2] + " שלום",
        good[0], good[0] + "\x00\u200b",
    ]  # fmt: skip
    meta, rows = build(base, tmp_path, {"dataset": write(tmp_path, [*good, *bad], "parquet")})
    texts = [r["text"] for r in rows]
    assert texts[:4] == good
    assert all(set(t.split()) <= {"word"} for t in texts[4:]), "of the rest only the long row gives passages"
    assert meta["refused"]["null"] == 1
    assert meta["refused"]["mostly punctuation"] >= 1
    assert meta["refused"]["other script"] >= 1
    assert meta["refused"]["duplicate"] >= 2


def test_near_duplicates_go(base: Config, tmp_path: Path) -> None:
    long = "After that wash all of the pots and pans with hot water and a little soap, dry them with a clean cloth, "
    long += "and put them away in the cupboard above the sink, one by one."
    texts = [long, long.replace("cupboard", "cellar"), TEXT.format("two")]
    meta, rows = build(base, tmp_path, {"dataset": write(tmp_path, texts)}, near_duplicate=0.5)
    assert meta["refused"]["near duplicate"] == 1
    assert meta["passages"] == len(rows) == 2


def test_only_duplicates_leave_one_and_nothing_is_an_error(base: Config, tmp_path: Path) -> None:
    assert build(base, tmp_path, {"dataset": write(tmp_path, [TEXT.format("two")] * 50)})[0]["passages"] == 1
    with pytest.raises(SaladError, match="pool is empty: every passage was refused"):
        build(base, tmp_path, {"dataset": write(tmp_path, ["no"] * 5)})


def test_errors_name_the_source_and_what_is_there(base: Config, tmp_path: Path) -> None:
    path = write(tmp_path, [TEXT.format("two")], column="body")
    with pytest.raises(SaladError, match=r"has no column 'text'.*its columns: body"):
        build(base, tmp_path, {"dataset": path})
    with pytest.raises(SaladError, match="cannot be opened"):
        build(base, tmp_path, {"dataset": str(tmp_path / "missing.parquet")})
    with pytest.raises(SaladError, match="unknown packaged text 'recipe'; did you mean 'recipes'"):
        build(base, tmp_path, {"dataset": "packaged:recipe"})
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(SaladError, match=r"broken.parquet' cannot be"):
        build(base, tmp_path, {"dataset": str(broken)})


def test_limit_and_domain(base: Config, tmp_path: Path) -> None:
    source = {"dataset": write(tmp_path, [TEXT.format(n) for n in NUMBERS]), "limit": 2, "domain": "soup"}
    meta, rows = build(base, tmp_path, source)
    assert meta["domains"] == {"soup": 2}
    assert [r["domain"] for r in rows] == ["soup", "soup"]


def test_the_estimate_is_that_of_the_planned_spans(base: Config, tmp_path: Path) -> None:
    meta, (row,) = build(base, tmp_path, {"dataset": write(tmp_path, [TEXT.format("two")])})
    chars = [len(said) for said in write_script(row, base, base.speech.voices).said]
    rate = meta["rates"]["tone"]
    assert row["est_seconds"] == pytest.approx(sum(rate["per_span"] + rate["per_char"] * n for n in chars), rel=1e-5)


def test_a_passage_whose_plan_has_it_read_to_its_end_is_refused(base: Config, tmp_path: Path) -> None:
    """By the paper's spans of 10 to 30 words a third of the short texts had no sound and cost nothing: no selection began."""
    base = base.model_copy(update={"interleave": Interleave()})
    texts = [TEXT.format(w) for w in "one two three four five six seven eight nine ten eleven twelve".split()]
    meta, rows = build(base, tmp_path, {"dataset": write(tmp_path, texts)})
    assert 0 < meta["refused"]["nothing to be heard"] < len(texts)
    assert len(rows) == len(texts) - meta["refused"]["nothing to be heard"]
    assert all(r["n_heard"] > 0 and r["est_seconds"] > 0 for r in rows)


def test_the_pool_is_what_a_plain_loop_over_its_texts_gives(base: Config, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = 'stir the warm soup, www.example.com 42 3.5% café Dr. be ad\tfa\u200b naïve (see {x}) "No!" it\'s - שלום'.split(" ")
    drawn = [" ".join(rng.choice(words, rng.integers(1, 90), p=_plainly(len(words)))) for _ in range(600)]
    texts = [t.replace(" see", ".\n\nSee").replace(" it's", ". It's") for t in drawn] + drawn[:50]
    source = write(tmp_path, texts)
    meta, rows = build(base, tmp_path, {"dataset": source, "domain": "soup"})

    low, high, rate = base.pool.min_words, base.pool.max_words, meta["rates"]["tone"]
    expected, seen, refused = [], set(), Counter()
    for passage in (p for t in texts for p in passages(clean(t), low, high)):
        reason = refusal(passage, low, high) or ("duplicate" if passage in seen else None)
        if reason:
            refused[reason] += 1
            continue
        seen.add(passage)
        text_id = hashlib.blake2b(passage.encode(), digest_size=16).hexdigest()
        script = write_script({"id": text_id, "text": passage}, base, base.speech.voices)
        seconds = sum(max(rate["per_span"] + rate["per_char"] * len(said), 0.1) for said in script.said)
        heard = sum(len(passage[a:b].split()) for a, b in script.ranges)
        facts = (
            text_id,
            passage,
            tmp_path.joinpath("in.jsonl").as_posix(),
            "soup",
            len(passage.split()),
            heard,
            np.float32(seconds),
        )
        expected.append(facts)
    assert [tuple(row.values()) for row in rows] == expected
    assert meta["refused"] == refused
    assert {"other script", "code", "too short", "duplicate"} <= set(refused)
    assert len(rows) > 300


def _plainly(n: int) -> np.ndarray:
    """Odds of words: the first four in most places."""
    odds = np.full(n, 0.08 / (n - 4))
    odds[:4] = 0.92 / 4
    return odds
