"""Our shards in the hands of `datasets`, pyarrow.dataset, DuckDB and pandas: the same types, the same values."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from salad import audio
from salad.pipeline import card
from salad.pipeline.export.facts import speech_facts
from salad.pipeline.schema import REJECTED, speech_schema
from tests.pipeline.speech_folder import RATE, speech_rows, write_folder

ROWS = speech_rows(20)
SECONDS = {voice: sum(r["seconds"] for r in ROWS if r["voice"] == voice) for voice in ("v0", "v1")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("speech") / "speech", ROWS)


def test_datasets(folder: Path, tmp_path: Path) -> None:
    files = sorted((folder / "data").iterdir())
    facts = speech_facts("test", files, [folder / "rejected.parquet"])
    (folder / "README.md").write_text(card.card(facts, front=card.shards_front(files)), encoding="utf-8")
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == len(ROWS)  # rejected.parquet stands outside
    assert loaded.features["audio"] == datasets.Audio()
    assert loaded.features["seconds"] == datasets.Value("float32")
    span = loaded.features["spans"].feature
    assert (span["text"], span["char_start"], span["audio_end"]) == tuple(map(datasets.Value, ("string", "int32", "float64")))
    for row, ours in zip(loaded.cast_column("audio", datasets.Audio(decode=False)), ROWS, strict=True):
        assert (row["id"], row["text"], row["spans"]) == (ours["id"], ours["text"], ours["spans"])
        assert row["cer"] is None if ours["cer"] is None else row["cer"] == np.float32(ours["cer"])
        wave, rate = audio.from_bytes(row["audio"]["bytes"])
        assert (len(wave), rate) == (round(ours["spans"][-1]["audio_end"] * RATE), RATE)


def test_pyarrow_dataset(folder: Path) -> None:
    found = pyarrow.dataset.dataset(folder / "data")
    assert found.schema.equals(speech_schema())
    field = pyarrow.dataset.field
    chosen = found.to_table(columns=["id", "spans"], filter=field("voice") == "v1").to_pylist()
    assert chosen == [{"id": r["id"], "spans": r["spans"]} for r in ROWS if r["voice"] == "v1"]
    spoken = found.to_table(columns={"audio_bytes": field("audio", "bytes")})["audio_bytes"]
    assert spoken.type == pa.binary()
    assert spoken.to_pylist() == [r["audio"]["bytes"] for r in ROWS]


def test_duckdb(folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    shards = f"'{folder}/data/*.parquet'"
    by_voice = duckdb.sql(f"SELECT voice, sum(seconds), count(cer) FROM {shards} GROUP BY voice ORDER BY voice").fetchall()
    assert [(v, pytest.approx(s, rel=1e-6)) for v, s in SECONDS.items()] == [row[:2] for row in by_voice]
    assert sum(row[2] for row in by_voice) == sum(r["cer"] is not None for r in ROWS)
    spans = duckdb.sql(
        f"SELECT s.spoken, s.audio_end - s.audio_start, s.char_end FROM (SELECT rank, unnest(spans) AS s FROM {shards}) "
        "ORDER BY rank, s.audio_start"
    ).fetchall()
    ours = [(s["spoken"], s["audio_end"] - s["audio_start"], s["char_end"]) for r in ROWS for s in r["spans"]]
    assert spans == ours
    kinds = dict(duckdb.sql(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {shards})").fetchall())
    assert (kinds["audio"].replace('"', ""), kinds["cluster"], kinds["cer"]) == (
        "STRUCT(bytes BLOB, path VARCHAR)",
        "INTEGER",
        "FLOAT",
    )
    ((flac,),) = duckdb.sql(f"SELECT audio.bytes FROM {shards} WHERE rank = 3").fetchall()
    assert flac == ROWS[3]["audio"]["bytes"]


def test_pandas(folder: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    table = pandas.read_parquet(folder / "data")
    assert table.groupby("voice")["seconds"].sum().to_dict() == pytest.approx(SECONDS, rel=1e-6)
    assert (table["seconds"].dtype, table["cluster"].dtype) == (np.float32, np.int32)
    assert table["cer"].isna().tolist() == [r["cer"] is None for r in ROWS]
    assert table["spans"][4][1]["text"] == ROWS[4]["spans"][1]["text"]
    assert table["audio"][4]["bytes"] == ROWS[4]["audio"]["bytes"]


def test_what_was_turned_down(folder: Path, tmp_path: Path) -> None:
    path = folder / "rejected.parquet"
    assert pq.read_schema(path).equals(REJECTED)
    ours = [(r["id"], 0.5, "silent") for r in ROWS[:2]]
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path))
    assert [(r["id"], r["seconds"], r["rejected"]) for r in loaded] == ours
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    assert list(pandas.read_parquet(path, columns=["id", "seconds", "rejected"]).itertuples(index=False, name=None)) == ours
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    assert duckdb.sql(f"SELECT id, seconds, rejected FROM '{path}'").fetchall() == ours
