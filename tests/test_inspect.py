"""`salad inspect`: what it says is what pyarrow reads, what it writes is what it says, and it can do nothing else."""

from __future__ import annotations

import csv
import datetime
import decimal
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import yaml

from salad import audio
from salad.errors import SaladError
from salad.inspect.database import Database, plain, type_name
from salad.inspect.places import find
from salad.inspect.write import safe_name
from salad.pipeline import shards
from tests.pipeline.speech_folder import RATE, speech_rows, write_folder, write_run

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "[x](http://x)", "[red]", "[/]", "{0.__class__}",
    "x" * 100_000,
    "\u202edenwo\u202c", "\x1b]0;owned\x07\x1b[2J", "../../owned", "/etc/owned", "a\nb\x00c", "'; DROP VIEW samples; --", "CON",
    "index", "", " ", "%s%n", "é", "e\u0301",
)  # fmt: skip

Command = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of ten texts, and a selection of the first."""
    run = write_run(tmp_path_factory.mktemp("runs") / "demo")
    names = ("id", "text", "source", "domain", "cluster", "rank", "probability", "selector", "reason", "round")
    (run / "round-000/selection").mkdir()
    rows = [{n: row[n] for n in names} for row in speech_rows(12)]
    pq.write_table(pa.Table.from_pylist(rows), run / "round-000/selection/selection.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:3]), run / "round-000/selection/reserve.parquet")
    return run


@pytest.fixture
def rejecting(tmp_path: Path) -> Path:
    """A speech folder with several reasons."""
    folder = write_folder(tmp_path / "speech", speech_rows(9), rejected=0)
    reasons = ["silent", "silent", "not understood", *["budget met before its turn"] * 4]
    rows = [{"id": f"{i:031x}f", "text": f"No {i}", "seconds": 1.5, "rejected": reason} for i, reason in enumerate(reasons)]
    shards.write_rejected(rows, folder / "rejected.parquet")
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Shards whose every text column is hostile, in files and a folder that are no better."""
    folder = tmp_path / "[a]* {b} '$(touch owned)' ;?"
    rows = []
    for i, row in enumerate(speech_rows(len(HOSTILE))):
        words = dict.fromkeys(("id", "text", "domain", "voice", "reason", "selector", "engine", "source", "heard"), HOSTILE[i])
        rows.append({**row, **words, "spans": [{**row["spans"][0], "spoken": HOSTILE[i], "text": HOSTILE[i]}, row["spans"][1]]})
    return write_folder(folder, rows, per_shard=7)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")


def one_line(salad: Command, *arguments: str, status: int = 1) -> str:
    """The error of a command that must fail on one line, without a word of Python."""
    said = salad(*arguments, status=status)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(line + "\n")
    assert "Traceback" not in said
    assert "salad://" not in said
    return line


def answers(salad: Command, path: Path, sql: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What SQL gives, exactly."""
    out = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    salad("inspect", str(path), "--sql", sql, "--export", "jsonl", "--out", str(out))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


# -- what a path holds -----------------------------------------------------------------------------------------


def test_every_kind_of_path(salad: Command, run: Path, tmp_path: Path) -> None:
    first = run / "round-000"
    for path, rows, said in (
        (run, 20, "run demo, 2 rounds: speech"),
        (first, 10, "round-000 of run demo: speech"),
        (first / "speech", 10, "speech of round-000 of run demo: speech"),
        (first / "speech/data", 10, "speech"),
        (first / "speech/data/train-00001-of-00002.parquet", 2, "speech"),
        (first / "speech/rejected.parquet", 2, "texts that were turned down"),
        (first / "selection", 12, "selection of round-000 of run demo: a selection"),
    ):
        shown = salad("inspect", str(path))
        assert f"{path}  {said}" in shown
        assert f"\n{rows} texts · " in shown
    moved = shutil.copytree(first / "speech", tmp_path / "elsewhere")
    (moved / "_manifest.json").unlink()
    assert "\n10 texts · 2 files · " in salad("inspect", str(moved))
    assert "speech of" not in salad("inspect", str(moved))


def test_rounds_are_told_apart(salad: Command, run: Path) -> None:
    shown = salad("inspect", str(run))
    for r in range(2):
        table = pq.read_table(run / f"round-{r:03d}/speech/data")
        cer, seconds = pc.mean(table["cer"]).as_py(), pc.sum(table["seconds"]).as_py()
        assert re.search(rf"round-{r:03d} +10 +{seconds:.1f} +3 +{cer:.1%} +1\.500 +2 *\n", shown)


def test_a_round_that_only_chose_and_a_run_that_did_not(salad: Command, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "demo")
    shutil.rmtree(copy / "round-000/speech")
    assert "round-000 of run demo, not spoken yet: a selection" in salad("inspect", str(copy / "round-000"))
    assert "run demo, 1 round: speech\n10 texts" in salad("inspect", str(copy)), "rounds that speak, as long as one does"
    shutil.rmtree(copy / "round-001")
    assert "run demo, 1 round, not spoken yet: a selection\n12 texts" in salad("inspect", str(copy))
    shutil.rmtree(copy / "round-000")
    assert f"look at {copy}/probe" in one_line(salad, "inspect", str(copy))


def test_a_control_stands_beside(salad: Command, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "demo")
    write_folder(copy / "round-000/_control/speech", speech_rows(4), rejected=3)
    shown = salad("inspect", str(copy / "round-000"))
    assert "10 texts · " in shown
    assert re.search(r"Control.*_control: 4 texts, 0\.\d s of speech\n+Turned down  3 texts", shown)
    assert re.search(r"round-000 .* 4 texts, 0\.\d s\n", salad("inspect", str(copy)))
    (copy / "control/checkpoint").mkdir(parents=True)
    assert "Control" not in salad("inspect", str(copy)), "Stage I data alone chooses no text"


def test_nothing_to_look_at(salad: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no Parquet at all, though it is called so")
    assert "holds no Parquet file" in one_line(salad, "inspect", str(tmp_path / "empty"))
    assert "holds no Parquet file" in one_line(salad, "inspect", str(tmp_path / "nowhere"))
    assert "text.parquet cannot be read" in one_line(salad, "inspect", str(tmp_path / "text.parquet"))


def test_a_manifest_that_names_other_folders(salad: Command, run: Path, tmp_path: Path) -> None:
    speech = shutil.copytree(run / "round-000/speech", tmp_path / "speech")
    shutil.copy(run / "round-001/speech/rejected.parquet", tmp_path / "secret.parquet")
    manifest = json.loads((speech / "_manifest.json").read_text())
    facts = next(iter(manifest["files"].values()))
    for name in ("../data/x.parquet", str(tmp_path / "data/y.parquet")):
        manifest["files"][name] = facts
    (tmp_path / "data").mkdir()
    for name in ("x", "y"):
        shutil.copy(tmp_path / "secret.parquet", tmp_path / f"data/{name}.parquet")
    (speech / "_manifest.json").write_text(json.dumps(manifest))
    assert "\n10 texts · 2 files" in salad("inspect", str(speech))
    manifest["files"]["data/gone.parquet"] = facts
    (speech / "_manifest.json").write_text(json.dumps(manifest))
    assert "gone.parquet is missing" in one_line(salad, "inspect", str(speech))


# -- what it says ----------------------------------------------------------------------------------------------


def test_the_overview_counts_what_is_there(salad: Command, run: Path) -> None:
    speech = run / "round-000/speech"
    table = pq.read_table(speech / "data")
    shown = salad("inspect", str(speech))
    size = sum(p.stat().st_size for p in (speech / "data").iterdir())
    assert f"10 texts · 2 files · {size / 1000:.0f} kB · {pc.sum(table['seconds']).as_py():,.1f} s of speech" in shown
    for name in table.column_names:
        assert re.search(rf"^{name} ", shown, re.MULTILINE)
    assert "list of struct of text" in shown
    assert "character error rate of an ASR on the spans" in shown
    for voice in ("v0", "v1"):
        rows = table.filter(pc.equal(table["voice"], voice))
        seconds, cer = pc.sum(rows["seconds"]).as_py(), pc.mean(rows["cer"]).as_py()
        assert re.search(rf"{voice} +{rows.num_rows} +{seconds:.1f} +[█▏▎▍▌▋▊▉]+ +{cer:.1%} +1\.500", shown)
    assert re.search(r"selector +uniform everywhere", shown)
    assert "Turned down  2 texts" in shown
    assert "Take 9 kg of flour & stir it gently." in shown


def test_largest_first_and_the_rest_summed(salad: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clusters, seconds = rng.integers(0, 30, 400), rng.random(400).astype(np.float32)
    pq.write_table(
        pa.table({"id": [f"{i:x}" for i in range(400)], "cluster": clusters, "seconds": seconds}), tmp_path / "x.parquet"
    )
    shown = salad("inspect", str(tmp_path))
    sums = sorted(((float(seconds[clusters == c].sum()), int((clusters == c).sum()), c) for c in range(30)), reverse=True)
    lines = re.findall(r"^(\d+|22 more) +(\d+) +([\d.]+) *(?:[█▏▎▍▌▋▊▉]+)? *$", shown.partition("\ncluster ")[2], re.MULTILINE)
    assert [(int(c), int(n), float(s)) for c, n, s in lines[:8]] == [(c, n, pytest.approx(s, abs=0.06)) for s, n, c in sums[:8]]
    rest = sums[8:]
    assert lines[8] == ("22 more", str(sum(n for _, n, _ in rest)), f"{sum(s for s, *_ in rest):.1f}")


def test_turned_down_and_never_reached_are_two_things(salad: Command, rejecting: Path) -> None:
    shown = salad("inspect", str(rejecting))
    assert "Turned down  3 texts · the turn of 4 never came" in shown
    assert re.search(r"silent +2 +3\.0\nnot understood +1 +1\.5", shown.replace(" \n", "\n"))


def test_conditions_orders_and_columns(salad: Command, run: Path) -> None:
    shown = salad(
        "inspect", str(run), "--where", "voice = 'v1' AND cluster <> 0", "--sort", "cluster,-rank", "--columns", "rank,cluster"
    )
    rows = [(r["rank"], r["cluster"]) for r in speech_rows(20) if r["voice"] == "v1" and r["cluster"]]
    expected = sorted(rows, key=lambda r: (r[1], -r[0]))
    assert [tuple(map(int, m)) for m in re.findall(r"^ *(\d+) +(\d+) *$", shown, re.MULTILINE)] == expected[:10]
    assert f"{len(rows)} of them · " in shown
    assert "Columns" not in shown
    last = salad("inspect", str(run), "--sort", "cer", "--sort=-rank", "--limit", "1", "--columns", "RANK", "--columns", "cer")
    assert re.search(r"^ *18 +0 *$", last, re.MULTILINE), "nulls come last, and names are known in any case"
    whole = salad("inspect", str(run), "--columns", "id,text", "--limit", "1")
    assert f"{0:032x}" in whole


def test_a_condition_may_ask_other_tables(salad: Command, run: Path) -> None:
    shown = salad(
        "inspect", str(run / "round-000"), "--where", "id IN (SELECT id FROM reserve) -- and no other", "--columns", "rank"
    )
    assert re.findall(r"^ *(\d+) *$", shown, re.MULTILINE) == ["0", "1", "2"]
    assert "3 of them" in shown


def test_sql_sees_three_tables(salad: Command, run: Path, tmp_path: Path) -> None:
    by_voice = answers(salad, run, "SELECT voice, sum(seconds) AS s FROM samples GROUP BY voice ORDER BY voice", tmp_path)
    table = pq.read_table([*(run / "round-000/speech/data").iterdir(), *(run / "round-001/speech/data").iterdir()])
    for row in by_voice:
        mine = table.filter(pc.equal(table["voice"], row["voice"]))
        assert row["s"] == pytest.approx(pc.sum(mine["seconds"]).as_py(), rel=1e-6)
    unspoken = "SELECT count(*) AS n FROM selection ANTI JOIN samples USING (id)"
    assert answers(salad, run / "round-000", unspoken, tmp_path) == [{"n": 2}]
    assert answers(salad, run / "round-000", unspoken + "; -- and no more", tmp_path) == [{"n": 2}]
    assert answers(salad, run / "round-000", "SELECT count(*) AS n FROM rejected", tmp_path) == [{"n": 2}]
    assert "the first 3 rows" in salad("inspect", str(run), "--sql", "FROM samples SELECT rank", "--limit", "3")
    assert "no rows" in salad("inspect", str(run), "--sql", "SELECT rank FROM samples WHERE false")
    assert "column_name" in salad("inspect", str(run), "--sql", "DESCRIBE samples")


def test_scores_are_two_tables(salad: Command, tmp_path: Path) -> None:
    probes = pa.table({"id": ["a", "b"], "cluster": [0, 1], "divergence": [1.0, 2.0], "n_positions": [9, 9], "cer": [0.1, None]})
    clusters = pa.table({"cluster": [0, 1], "p_target": [0.25, 0.75], "flag": ["", "cer"]})
    (tmp_path / "scores").mkdir()
    pq.write_table(probes, tmp_path / "scores/probes.parquet")
    pq.write_table(clusters, tmp_path / "scores/clusters.parquet")
    assert "scores of texts\n2 texts" in salad("inspect", str(tmp_path / "scores"))
    sql = "SELECT sum(divergence * p_target) AS d FROM samples JOIN clusters USING (cluster)"
    assert answers(salad, tmp_path / "scores", sql, tmp_path) == [{"d": 1.75}]


def test_no_sound_is_read_for_counts(salad: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all bytes that are sounds, next to none are touched: neither by the overview, nor by a condition, nor by SQL."""
    from salad.inspect import database

    rng = np.random.default_rng(0)
    rows = [{**row, "audio": {"bytes": rng.bytes(40_000), "path": "x"}} for row in speech_rows(100)]
    path = tmp_path / "x.parquet"
    shards.write_speech(rows, path)
    meta = pq.read_metadata(path)
    chunks = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
    audio_bytes = [c for c in chunks if c.path_in_schema == "audio.bytes"]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in audio_bytes]
    sounds = [(start, start + c.total_compressed_size) for start, c in zip(starts, audio_bytes, strict=True)]
    assert sum(end - begin for begin, end in sounds) > 3_900_000
    touched = 0

    class Watched(database._Reader):
        def read(self, size: int) -> bytes:
            nonlocal touched
            at = self.tell()
            touched += sum(max(0, min(end, at + size) - max(begin, at)) for begin, end in sounds)
            return super().read(size)

    monkeypatch.setattr(database, "_Reader", Watched)
    monkeypatch.setattr(database, "PATTERN", {"/"})  # every file is read through it
    salad("inspect", str(path))
    salad("inspect", str(path), "--where", "cer > 0", "--sort", "seconds")
    salad("inspect", str(path), "--sql", "SELECT voice, sum(seconds) FROM samples GROUP BY voice")
    assert touched < 100_000
    salad("inspect", str(path), "--sql", "SELECT sum(octet_length(audio.bytes)) FROM samples")
    assert touched > 3_900_000, "it is noticed when they are read"


# -- shards of others, and shards that are damaged -------------------------------------------------------------


def test_old_shards_beside_new_ones(salad: Command, tmp_path: Path) -> None:
    rows = speech_rows(6)
    (tmp_path / "data").mkdir()
    shards.write_speech(rows[:3], tmp_path / "data/train-00000-of-00002.parquet")
    old = pa.Table.from_pylist([{k: r[k] for k in ("id", "text", "audio", "spans")} for r in rows[3:]])
    pq.write_table(old, tmp_path / "data/train-00001-of-00002.parquet")
    assert "\n6 texts · 2 files" in salad("inspect", str(tmp_path))
    assert answers(salad, tmp_path, "SELECT count(*) AS n, count(voice) AS v FROM samples", tmp_path) == [{"n": 6, "v": 3}]
    salad("inspect", str(tmp_path), "--export", "wav", "--out", str(tmp_path / "wav"))
    assert len(list((tmp_path / "wav").glob("*.wav"))) == 6


def test_seconds_follow_from_the_spans(salad: Command, tmp_path: Path) -> None:
    rows = speech_rows(3)
    pq.write_table(
        pa.Table.from_pylist([{k: r[k] for k in ("id", "text", "audio", "spans")} for r in rows]), tmp_path / "x.parquet"
    )
    assert (
        f"3 texts · 1 file · {(tmp_path / 'x.parquet').stat().st_size / 1000:.0f} kB · {sum(r['seconds'] for r in rows):.1f} s"
        in salad("inspect", str(tmp_path))
    )


def test_any_parquet(salad: Command, tmp_path: Path) -> None:
    """Types, names and values of others, of which some would be SQL."""
    odd = pa.table(
        {
            'na"me; DROP VIEW samples': ["a", "b"],
            "Seconds": ["long", "longer"],
            "cer": ["bad", None],
            "when": pa.array([datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)] * 2, pa.timestamp("us", "UTC")),
            "price": pa.array([decimal.Decimal("1.25"), None]),
            "blob": [b"\x00\xff", None],
            "deep": [[{"b": b"x", "n": 1}], []],
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "nan": [float("nan"), float("inf")],
            "domain": pa.nulls(2, pa.string()),
            "filename": ["f", "g"],
            "file_row_number": [7, 8],
            "[bold]x": [True, None],
        }
    )
    (tmp_path / "foreign/deeper").mkdir(parents=True)
    pq.write_table(odd, tmp_path / "foreign/deeper/x.parquet")
    shown = salad("inspect", str(tmp_path / "foreign"))
    assert "Parquet\n2 rows · 1 file" in shown
    assert 'na"me; DROP VIEW samples' in shown
    assert "[bold]x" in shown
    salad("inspect", str(tmp_path / "foreign"), "--export", "jsonl", "--out", str(tmp_path / "rows.jsonl"))
    first, second = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert first["when"].startswith("2026-01-02 00:00:00")
    assert (first["price"], first["nan"], second["nan"], second["cer"]) == ("1.25", None, None, None)
    assert (first["map"], first["filename"], second["file_row_number"]) == ({"k": 1}, "f", 8)
    assert not {"blob", "deep"} & first.keys()
    assert "have no column 'id'" in one_line(salad, "inspect", str(tmp_path / "foreign"), "--play", "a")
    out = ("--export", "wav", "--out", str(tmp_path / "wav"))
    assert "have no column 'audio'" in one_line(salad, "inspect", str(tmp_path / "foreign"), *out)
    assert not (tmp_path / "wav").exists()


def test_empty_and_null(salad: Command, tmp_path: Path) -> None:
    shards.write_speech([], tmp_path / "empty.parquet")
    shown = salad("inspect", str(tmp_path))
    assert "\n0 texts · 1 file" in shown
    assert "no rows" in shown
    assert "no rows" in salad("inspect", str(tmp_path), "--where", "cer > 9")
    assert "no id begins with 'a'" in one_line(salad, "inspect", str(tmp_path), "--play", "a")
    salad("inspect", str(tmp_path), "--export", "wav", "--out", str(tmp_path / "wav"))
    assert [p.name for p in (tmp_path / "wav").iterdir()] == ["index.jsonl"]
    (tmp_path / "nulls").mkdir()
    pq.write_table(
        pa.table({n: pa.nulls(3, pa.string()) for n in ("id", "text", "domain", "audio")}), tmp_path / "nulls/x.parquet"
    )
    assert "3 rows" in salad("inspect", str(tmp_path / "nulls"))


@pytest.mark.parametrize("how", ["cut", "empty", "foot", "middle"])
def test_damaged_files_are_named(salad: Command, run: Path, tmp_path: Path, how: str) -> None:
    speech = shutil.copytree(run / "round-000/speech", tmp_path / "speech")
    (speech / "rejected.parquet").unlink()
    (speech / "_manifest.json").unlink()
    file = speech / "data/train-00001-of-00002.parquet"
    data = bytearray(file.read_bytes())
    if how == "middle":
        footer = int.from_bytes(data[-8:-4], "little") + 8
        data[4:-footer] = b"\xff" * (len(data) - footer - 4)
    file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "foot": data[:-9] + b"123456789", "middle": data}[how])
    out = ("--export", "wav", "--out", str(tmp_path / "wav"))
    for arguments in ([], ["--sql", "SELECT text FROM samples"], ["--export", "jsonl", "--out", str(tmp_path / "x.jsonl")], out):
        named = file.parent if how == "middle" else file  # what pages hold is not DuckDB's to name
        assert f"{named} cannot be read" in one_line(salad, "inspect", str(speech), *arguments)
    assert not [p for p in tmp_path.iterdir() if "wav" in p.name and p.name.startswith(".")]


def test_files_that_do_not_go_together(salad: Command, tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [{"bytes": b"x"}]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"audio": [1.5]}), tmp_path / "b.parquet")
    line = one_line(salad, "inspect", str(tmp_path))
    assert str(tmp_path) in line


# -- errors ----------------------------------------------------------------------------------------------------


def test_errors_are_one_line_and_know_what_was_meant(salad: Command, run: Path) -> None:
    at = str(run)
    for arguments, said in (
        (["--where", "cerr > 0.1"], "no column 'cerr'; did you mean 'cer'?"),
        (["--sort", "secnds"], "no column 'secnds'; did you mean 'seconds'?"),
        (["--columns", "id,txt"], "no column 'txt'; did you mean 'text'?"),
        (["--sql", "SELECT voize FROM samples"], "no column 'voize'; did you mean 'voice'?"),
        (["--sql", "SELECT voice FROM sample"], "no table 'sample'; did you mean 'samples'?"),
        (["--sql", "SELCT 1"], 'syntax error at or near "SELCT"'),
        (["--where", "cer >"], "SQL: syntax error"),
        (["--where", "cer > 'x'"], "SQL: "),
        (["--sql", "SELECT frobnicate(1)"], "frobnicate does not exist"),
        (["--sql", "SELECT 1; SELECT 2"], "the SQL is not one SELECT"),
        (["--sql", "SELECT 1", "--where", "true"], "--sql does not go with --where"),
        (["--play", "a", "--sql", "SELECT 1"], "--play does not go with --sql"),
        (["--export", "cvs", "--out", "x"], "unknown format 'cvs'; did you mean 'csv'?"),
        (["--export", "csv"], "--export and --out go together"),
        (["--export", "wav", "--out", "x", "--columns", "id"], "--export wav does not go with --columns"),
    ):
        assert said in one_line(salad, "inspect", at, *arguments)


# -- it only reads ---------------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_sql_reads_these_files_and_nothing_else(salad: Command, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "demo")
    shard = next((copy / "round-000/speech/data").iterdir())
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nhunter2\n")
    before = digests(tmp_path)
    over = "(FORMAT parquet, USE_TMP_FILE false)"
    for sql in (
        f"COPY (SELECT 1) TO '{shard}' {over}",
        f"COPY (SELECT 1) TO '{tmp_path}/new.csv'",
        f"WITH t AS (COPY (SELECT 1) TO '{shard}' {over}) SELECT * FROM t",
        f"WITH t AS (COPY (SELECT 1) TO 'salad://0' {over}) SELECT * FROM t",
        f"WITH t AS (COPY (SELECT 1) TO 'salad://99' {over}) SELECT * FROM t",
        f"WITH t AS (COPY (SELECT 1) TO '{tmp_path}/new.csv') SELECT * FROM t",
        "WITH t AS (INSERT INTO samples SELECT * FROM samples RETURNING *) SELECT * FROM t",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM '{shard}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
        f"ATTACH '{tmp_path}/new.db'",
        f"EXPORT DATABASE '{tmp_path}/new'",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "INSTALL httpfs", "LOAD httpfs", "SET threads = 1", "PRAGMA version", "CREATE TABLE x AS SELECT 1", "DROP VIEW samples",
        "SELECT * FROM os", "SELECT * FROM sql", "CALL pragma_version()", "EXPLAIN ANALYZE SELECT 1",
    ):  # fmt: skip
        line = one_line(salad, "inspect", str(copy), "--sql", sql)
        assert "hunter2" not in line, sql
    for where in ("true); DROP VIEW samples; SELECT (1", f"true) UNION ALL (SELECT * FROM read_csv('{secret}')"):
        one_line(salad, "inspect", str(copy), "--where", where)
    assert digests(tmp_path) == before


def test_threads_read_what_is_there(tmp_path: Path) -> None:
    """DuckDB's threads share a file: each has its own place in it."""
    rng = np.random.default_rng(0)
    sounds = [rng.bytes(20_000) for _ in range(600)]
    pq.write_table(pa.table({"n": range(600), "b": sounds}), tmp_path / "x.parquet", row_group_size=16, compression="none")
    with Database({"samples": [tmp_path / "x.parquet"]}) as db:
        for _ in range(3):
            assert [b for (b,) in db.ask("SELECT b FROM samples")] == sounds


# -- play ------------------------------------------------------------------------------------------------------


def fake_player(folder: Path, name: str, status: int = 0) -> Path:
    """A program that keeps what it is asked to play."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/bin/sh\nfor last; do :; done\n/bin/cp "$last" "{folder}/{name}.wav"\nexit {status}\n')
    program.chmod(0o755)
    return folder


def test_play_by_the_start_of_an_id(salad: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "id": f"{row['rank']:x}{row['id'][1:]}"} for row in speech_rows(4)]
    rows[1]["heard"] = "take number one | and bake it hell"
    folder = write_folder(tmp_path / "speech", rows)
    fake_player(tmp_path / "bin", "ffplay", status=1)
    monkeypatch.setenv("PATH", str(fake_player(tmp_path / "bin", "aplay")))
    shown = salad("inspect", str(folder), "--play", "10")
    assert "⟨Take 1 kg of flour & stir it gently.⟩ Then wait for an hour, ⟨and bake it well.⟩" in " ".join(shown.split())
    assert "take number 1 of flour and stir it gently" in shown
    assert "and bake it hell" in shown
    played, rate = sf.read(tmp_path / "bin/aplay.wav", dtype="int16")
    expected, _ = sf.read(io.BytesIO(rows[1]["audio"]["bytes"]), dtype="int16")
    assert rate == RATE
    assert np.array_equal(played, expected), "sample for sample, by the first program that plays"


def test_play_without_a_program(salad: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "it's speech", speech_rows(3))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = salad("inspect", str(folder), "--play", f"{1:032x}", status=1)
    assert "⟨and bake it well.⟩" in " ".join(said.split()), "the text comes first"
    command = said.partition("take the file: ")[2]
    assert f"--where \"id = '{1:032x}'\" --export wav --out sounds" in command
    monkeypatch.chdir(tmp_path)
    salad(*shlex.split(command)[1:])
    assert (tmp_path / f"sounds/{1:032x}.wav").is_file(), "the command that it names works"


def test_play_what_is_not_one(salad: Command, rejecting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    at = str(rejecting)
    several = one_line(salad, "inspect", at, "--play", "0000")
    assert f"several ids begin with '0000': {0:032x}, {1:032x}" in several
    assert "no id begins with 'zz'" in one_line(salad, "inspect", at, "--play", "zz")
    assert "no id begins with '%'" in one_line(salad, "inspect", at, "--play", "%")
    assert "no id begins with '\" OR" in one_line(salad, "inspect", at, "--play", "\" OR 1=1 --'")
    assert "has no sound: it was turned down before it was spoken" in salad("inspect", at, "--play", f"{2:031x}f", status=1)


def test_play_of_what_does_not_decode(salad: Command, tmp_path: Path) -> None:
    row = speech_rows(1)[0]
    folder = write_folder(tmp_path / "speech", [{**row, "audio": {"bytes": b"fLaC and then nothing", "path": "x"}}], rejected=0)
    assert "cannot be decoded" in salad("inspect", str(folder), "--play", "0", status=1)


# -- export ----------------------------------------------------------------------------------------------------


def test_csv_and_jsonl_are_the_rows(salad: Command, run: Path, tmp_path: Path) -> None:
    speech = run / "round-000/speech"
    ours = sorted(speech_rows(10), key=lambda r: -r["rank"])[:4]
    order = ("--sort=-rank", "--limit", "4")
    salad("inspect", str(speech), *order, "--export", "jsonl", "--out", str(tmp_path / "rows.jsonl"))
    salad("inspect", str(speech), *order, "--export", "csv", "--out", str(tmp_path / "rows.csv"))
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as f:
        cells = list(csv.DictReader(f))
    for line, row, flat in zip(lines, ours, cells, strict=True):
        assert list(line) == list(flat) == pq.read_schema(speech / "data/train-00000-of-00002.parquet").names
        assert line["spans"] == json.loads(flat["spans"]) == row["spans"]
        assert line["audio"] == json.loads(flat["audio"]) == {"path": row["audio"]["path"]}
        assert (line["text"], flat["text"]) == (row["text"], row["text"])
        assert line["cer"] is None if row["cer"] is None else line["cer"] == row["cer"], "0.1, not 0.10000000149"
        assert (line["predicted_se"], flat["predicted_se"]) == (None, "nan")
    salad("inspect", str(speech), "--columns", "id,cer", "--export", "csv", "--out", str(tmp_path / "two.csv"))
    assert (tmp_path / "two.csv").read_text().splitlines()[0] == "id,cer"


def test_wav_is_the_sound(salad: Command, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep/er/wav"
    salad("inspect", str(run), "--where", "rank >= 5", "--sort=-rank", "--limit", "7", "--export", "wav", "--out", str(out))
    lines = [json.loads(line) for line in (out / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["rank"] for line in lines] == list(range(19, 12, -1))
    for line, row in zip(lines, sorted(speech_rows(20), key=lambda r: -r["rank"])[:7], strict=True):
        assert line["file"] == f"{row['id']}.wav"
        assert sf.info(out / line["file"]).subtype == "PCM_16"
        wave, rate = sf.read(out / line["file"], dtype="float32")
        ours, _ = audio.from_bytes(row["audio"]["bytes"])
        assert rate == RATE
        assert np.array_equal(wave, ours), "bit for bit"
    assert len(list(out.iterdir())) == 8


def test_sounds_of_any_kind_and_of_none(salad: Command, tmp_path: Path) -> None:
    def encoded(kind: str, subtype: str) -> bytes:
        buffer = io.BytesIO()
        sf.write(buffer, np.linspace(-1.5, 1.5, 4000), 8000, format=kind, subtype=subtype)
        return buffer.getvalue()

    sounds = {"float": encoded("WAV", "FLOAT"), "ogg": encoded("OGG", "VORBIS"), "noise": b"\x00" * 50, "null": None, "no": b""}
    pq.write_table(pa.table({"id": list(sounds), "audio": list(sounds.values())}), tmp_path / "x.parquet")
    said = salad("inspect", str(tmp_path), "--export", "wav", "--out", str(tmp_path / "wav"))
    assert "2 sounds and index.jsonl" in said
    for name in ("noise", "null", "no"):
        assert f"without a sound: {name}: " in said
    index = {line["id"]: line["file"] for line in map(json.loads, (tmp_path / "wav/index.jsonl").read_text().splitlines())}
    assert index == {"float": "float.wav", "ogg": "ogg.wav", "noise": None, "null": None, "no": None}
    wave, _ = sf.read(tmp_path / "wav/float.wav", dtype="int16")
    assert (wave.min(), wave.max()) == (-32767, 32767), "clipped, not wrapped"


def test_nothing_is_overwritten_and_nothing_half_done_is_left(
    salad: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from salad.inspect import write

    for to in ("csv", "jsonl", "wav"):
        (tmp_path / "there").mkdir()
        assert "there exists" in one_line(salad, "inspect", str(run), "--export", to, "--out", str(tmp_path / "there"))
        (tmp_path / "there").rmdir()
        (tmp_path / "there").symlink_to(tmp_path / "nowhere")
        assert "there exists" in one_line(salad, "inspect", str(run), "--export", to, "--out", str(tmp_path / "there"))
        (tmp_path / "there").unlink()

    def full(value: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "as_json", full)
    for to in ("csv", "jsonl", "wav"):
        line = one_line(salad, "inspect", str(run), "--export", to, "--out", str(tmp_path / "out"))
        assert "free some space" in line
    assert list(tmp_path.iterdir()) == []


def test_the_same_id_twice_and_names_that_differ_by_case(salad: Command, tmp_path: Path) -> None:
    rows = [{**row, "id": name} for row, name in zip(speech_rows(4), ("a", "A", "a", "index"), strict=True)]
    folder = write_folder(tmp_path / "speech", rows)
    salad("inspect", str(folder), "--export", "wav", "--out", str(tmp_path / "wav"))
    lines = [json.loads(line) for line in (tmp_path / "wav/index.jsonl").read_text().splitlines()]
    names = [line["file"] for line in lines]
    assert len({name.lower() for name in names}) == 4
    for name, row in zip(names, rows, strict=True):
        assert np.array_equal(sf.read(tmp_path / "wav" / name, dtype="float32")[0], audio.from_bytes(row["audio"]["bytes"])[0])


@pytest.mark.parametrize("text_id", HOSTILE)
def test_any_id_gives_a_harmless_name(text_id: str) -> None:
    name = safe_name(text_id, 3)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name)
    assert name.lower() not in ("con", "nul")


# -- hostile texts ---------------------------------------------------------------------------------------------


def test_hostile_texts_are_text(
    salad: Command, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    at = str(hostile)
    before = {p.name for p in tmp_path.iterdir()}
    said = [
        salad("inspect", at, "--limit", "99"),
        salad("inspect", at, "--columns", "id,text,heard", "--limit", "99"),
        salad("inspect", at, "--sql", "SELECT * FROM samples", "--limit", "99"),
        salad("inspect", at, "--sql", 'SELECT 1 AS "[red]x\x1b[2J"'),
        salad("inspect", at, "--where", "id = '[red]' OR '\x1b[2J' = id"),
        *(salad("inspect", at, "--play", text_id, status=1) for text_id in HOSTILE if text_id),
        one_line(salad, "inspect", at, "--where", '"[red]\x1b[2J" > 1'),
    ]
    for one in said:
        assert {c for c in one if not c.isprintable() and c != "\n"} == set()
    assert "[red]" in said[0]
    assert "{0.__class__}" in said[1]
    assert max(map(len, said[0].splitlines())) < 1000
    salad("inspect", at, "--export", "wav", "--out", "wav")
    salad("inspect", at, "--export", "jsonl", "--out", "rows.jsonl")
    salad("inspect", at, "--export", "csv", "--out", "rows.csv")
    assert {p.name for p in tmp_path.iterdir()} - before == {"wav", "rows.jsonl", "rows.csv"}
    names = [p.name for p in (tmp_path / "wav").iterdir()]
    assert len(names) == len(HOSTILE) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) for name in names)
    assert [json.loads(line)["text"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == list(HOSTILE)
    csv.field_size_limit(1_000_000)
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as f:
        assert [row["id"] for row in csv.DictReader(f)] == list(HOSTILE)


# -- light, and the same on every terminal ---------------------------------------------------------------------


def test_nothing_heavy_is_imported(run: Path, tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "datasets", "pyarrow.dataset", "pandas", "scipy", "faiss", "prefect")
    for arguments in (
        [], ["--where", "cer > 0"], ["--sql", "SELECT 1 AS x"], ["--play", f"{1:032x}"],
        ["--export", "wav", "--out", str(tmp_path / "wav")], ["--export", "csv", "--out", str(tmp_path / "rows.csv")],
    ):  # fmt: skip
        code = (
            f"import sys; sys.argv = {['salad', 'inspect', str(run), *arguments]!r}\n"
            "from salad.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            f"print('imported:', [m for m in {heavy} if m in sys.modules])"
        )
        env = {**os.environ, "PATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=env)
        assert done.stdout.splitlines()[-1] == "imported: []", done.stdout + done.stderr
        assert [line for line in done.stderr.splitlines() if not line.startswith("error: nothing here plays")] == []


@pytest.mark.parametrize("width", ["40", "80", "400"])
def test_any_width(salad: Command, run: Path, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert "20 texts" in salad("inspect", str(run))
    assert "predicted_divergence" in salad("inspect", str(run), "--sql", "SELECT * FROM samples", "--limit", "2")


def test_types_are_called_as_in_the_documentation(tmp_path: Path) -> None:
    from salad.pipeline.schema import speech_schema

    shards.write_speech(speech_rows(1), tmp_path / "x.parquet")
    with Database({"samples": [tmp_path / "x.parquet"]}) as db:
        simple = {c.name: type_name(c.type) for c in db.columns("samples") if c.name not in ("audio", "spans")}
        assert simple == {f.name: {"float": "float32", "double": "float64"}.get(str(f.type), str(f.type))
                          for f in speech_schema() if f.name not in ("audio", "spans")}  # fmt: skip
        assert all(plain(c) for c in db.columns("samples"))


def test_what_a_place_is_does_not_depend_on_how_it_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "round-000/speech")
    assert find(Path(".")).what == find(run / "round-000/speech").what == "speech of round-000 of run demo"
    assert find(Path("../../round-000")).samples == find(run / "round-000").samples
    with pytest.raises(SaladError, match="holds no Parquet"):
        find(Path("nothing"))


# -- the page that says all this -------------------------------------------------------------------------------


def test_every_command_of_the_page_works(salad: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs/inspect.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    (tmp_path / "runs").mkdir()
    copy = shutil.copytree(run, tmp_path / "runs/demo")
    shutil.copytree(copy / "round-000/speech", copy / "probe")
    (copy / "round-000/scores").mkdir()
    pq.write_table(pa.table({"id": ["a"], "divergence": [1.0], "n_positions": [9]}), copy / "round-000/scores/probes.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(fake_player(tmp_path / "bin", "aplay")))
    for line in commands:
        assert line.startswith("salad inspect runs/demo")
        salad(*shlex.split(re.sub(r"--play \w+", f"--play {3:032x}", line), comments=True)[1:])
    assert len(commands) > 15
    assert {"misheard", "worst.jsonl", "samples.csv", "by-cluster.csv"} <= {p.name for p in tmp_path.iterdir()}


# -- every shard folder of a run has a card, and opens ---------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Path:
    """A whole run, with probes in waves; the folder of the run."""
    from salad.config import load_config
    from salad.pipeline.stages import Run
    from tests.fakes import write_config

    run = Run(load_config(write_config(tmp_path_factory.mktemp("whole"), fake_models)))
    for stage in run.stages:
        run.execute(stage)
    return run.store.root


def speech_folders(run: Path) -> Iterator[Path]:
    yield from sorted({p.parent.parent for p in run.rglob("data/*.parquet") if not p.relative_to(run).parts[0].startswith(".")})


def check_card(folder: Path, cache: Path) -> None:
    """Its front matter is YAML that finds the shards, its numbers are theirs, and `datasets` gives their rows."""
    import datasets

    table = pq.read_table(folder / "data")
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    (config,) = matter["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    seconds = pc.sum(table["seconds"]).as_py() if "seconds" in table.column_names else None
    texts, spoken = re.findall(r"^([\d,]+) texts with ([\d,.]+) s", body, re.MULTILINE)[0]
    assert int(texts.replace(",", "")) == table.num_rows > 0
    if seconds is not None:
        assert float(spoken.replace(",", "")) == pytest.approx(seconds, abs=0.051)
    for name in table.column_names:
        assert f"| `{name}` |" in body
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(cache)).cast_column(
        "audio", datasets.Audio(decode=False)
    )
    assert loaded.num_rows == table.num_rows
    for theirs, ours in zip(loaded, table.to_pylist(), strict=True):
        assert repr(theirs) == repr(ours), "the same values, NaN too"


@pytest.mark.slow
def test_every_speech_folder_of_a_run_is_a_dataset(finished: Path, tmp_path: Path, salad: Command) -> None:
    folders = [str(folder.relative_to(finished)) for folder in speech_folders(finished)]
    assert {"probe", "probe-1/speech", "heldout", "natural", "round-000/speech", "round-001/speech"} <= set(folders)
    for folder in speech_folders(finished):
        check_card(folder, tmp_path / "cache")
        rows = sum(pq.read_metadata(p).num_rows for p in (folder / "data").iterdir())
        assert f"\n{rows} texts · " in salad("inspect", str(folder))
    for other in (
        "pool",
        "round-000",
        "round-000/scores",
        "round-000/selection",
        "probe-1",
        "round-001/metrics",
        "prepared/natural",
    ):
        assert "First rows" in salad("inspect", str(finished / other))
    assert re.search(r"run fake, 2 rounds: speech", salad("inspect", str(finished)))


def test_folders_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    """`datasets` caches a folder by its last name and its card: two rounds' `speech`, and one that was made anew, differ."""
    from salad.pipeline.natural import build_natural

    for r in range(3):
        source = write_folder(tmp_path / f"source-{r}", speech_rows(4, first=4 * r))
        folder = tmp_path / f"round-{min(r, 1)}" / "speech"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build_natural(folder, source, lambda n: None)
        check_card(folder, tmp_path / "cache")


def test_natural_shards_that_are_brought_get_a_card(tmp_path: Path) -> None:
    from salad.pipeline.natural import build_natural

    source = write_folder(tmp_path / "source", speech_rows(5))
    (tmp_path / "out").mkdir()
    build_natural(tmp_path / "out", source, lambda n: None)
    check_card(tmp_path / "out", tmp_path / "cache")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "synthetic-speech" not in card
    assert str(tmp_path) not in card
