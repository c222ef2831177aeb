"""The bench with tiny models: what is measured is kept, done once, and starts from one Stage I."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evidence import stage_one
from evidence.__main__ import run_arms
from evidence.arms import CONFIG, Arm, Bench, Sizes
from evidence.parts import IMPORTANCE, UNIFORM
from evidence.results import Results
from evidence.tables import Evidence, even
from evidence.texts import DOMAINS, pool_sources, split_texts
from salad import assets
from salad.config import load_config
from salad.errors import RunInUse
from tests.fakes import WORDS, write_config


@pytest.fixture
def bench(tmp_path: Path, fake_models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    def text_file(domain: str) -> Path:
        words = list(WORDS.values())[DOMAINS.index(domain) % len(WORDS)].split()
        texts = [f"{domain} {' '.join(words[i % 7 :] + words[: i % 7])} number {i}.".capitalize() for i in range(400)]
        path = tmp_path / f"{domain}.parquet"
        pq.write_table(pa.table({"text": texts}), path)
        return path

    monkeypatch.setattr(assets, "text_file", text_file)
    config = write_config(
        tmp_path, fake_models, rounds=1, control=False, natural={"domains": ["recipes"], "seconds": 60},
        probe={"per_cluster": 3, "heldout": 2}, select={"budget": 60, "near": 1.0},
    )  # fmt: skip
    return Bench(tmp_path / "bench", config, Sizes(passages=200, heard=40, each=8, items=4), voice=None)


def test_the_larger_configuration_asks_the_same_of_other_models() -> None:
    sources = {"pool.sources": pool_sources(Path("texts"), 80, 12_000, 1_100)}
    small, large = (load_config(CONFIG.with_name(name), sources).model_dump() for name in ("config.yaml", "larger.yaml"))
    assert {key for key in small if small[key] != large[key]} == {"name", "models", "student", "train"}
    assert {key for key in small["models"] if small["models"][key] != large["models"][key]} == {"lm", "encoder"}


def test_documents_that_measure_are_in_no_pool(bench: Bench, tmp_path: Path) -> None:
    folder = split_texts(tmp_path / "split")
    for domain in DOMAINS:
        measure, choose = (
            set(pq.read_table(folder / part / f"{domain}.parquet")["text"].to_pylist()) for part in ("evaluation", "pool")
        )
        assert not measure & choose
        assert len(measure | choose) == 400
        assert 20 <= len(measure) <= 60
    limits = {s["domain"]: s["limit"] for s in pool_sources(folder, 80, 12_000, 1_100)}
    assert limits == {"recipes": 10_700, "medicine": 600, "law": 600, "security": 600, "encyclopedia": 600}


def test_arms_start_from_one_student_and_are_measured_once(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evidence.__main__.FULL", 60)
    results = Results(tmp_path / "results")
    arms = [Arm(80, None, 60, 1), Arm(80, "uniform", 60, 1), Arm(80, "importance", 60, 1), Arm(80, "uniform", 60, 2)]
    arms.append(Arm(80, "uniform", 60, 1, 2, (("train.round_steps", 2),)))
    run_arms(bench, results, "some", arms, None)
    rows = list(results.rows("arms"))
    assert [row["arm"] for row in rows] == [arm.name for arm in arms]
    assert len({row["stage_one"] for row in rows}) == 1 == len(list(results.rows("stage_one_students")))
    assert len({str(row["students"]) for row in rows}) == len(rows), "two arms came to the very same student"
    assert rows[0]["spent"] == {"seconds": 0.0, "texts": 0, "by_domain": {}}
    assert all(57 <= row["spent"]["seconds"] <= 63 for row in rows[1:4])
    assert [len(row["students"]) for row in rows] == [1, 1, 1, 1, 2]
    texts = next(results.rows("evaluation"))
    assert all(len(row["students"][-1]["D"]) == len(texts["ids"]) for row in rows)
    assert set(texts["domain"]) == set(DOMAINS)
    assert all(row["students"][-1]["D_taught"] == row["students"][-1]["D"] for row in rows), "here both voices are one"
    assert all(row["wall"]["training"] > 0 for row in rows)

    capsys.readouterr()
    run_arms(bench, results, "some", arms, None)
    assert capsys.readouterr().out == ""
    assert len(list(results.rows("arms"))) == len(arms)

    idle = Bench(tmp_path / "idle", bench.config, bench.sizes, None)
    run_arms(idle, results, "some", arms, None)
    assert not idle.folder.exists(), "where nothing is missing nothing is spoken either"

    found = Evidence(results)
    uniform = found.group(80, UNIFORM, 60)
    assert sorted(seed for _, seed in uniform.keys) == [1, 2]
    difference = found.difference(found.group(80, IMPORTANCE, 60), uniform, even())
    assert difference is not None
    assert difference.low is None, "one pair has no interval"


def test_a_second_process_is_told_what_the_first_is_at(bench: Bench) -> None:
    with bench.at_work("x"), pytest.raises(RunInUse, match="at x"), bench.at_work("x"):
        pass


def test_a_curve_goes_on_where_it_was_stopped(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_one, "SEEDS", (1,))
    monkeypatch.setattr(stage_one, "ALPHAS", (1.0, 0.0))
    monkeypatch.setattr(stage_one, "DECAY", 1)
    results, again = Results(tmp_path / "results"), Results(tmp_path / "again")
    monkeypatch.setattr(stage_one, "STEPS", (2, 4))
    stage_one.measure_curves(bench, results)
    monkeypatch.setattr(stage_one, "STEPS", (2, 4, 6))
    stage_one.measure_curves(bench, results)
    rows = list(results.rows("stage-one"))
    assert [(row["alpha"], row["steps"]) for row in rows] == [(1.0, 2), (1.0, 4), (0.0, 2), (0.0, 4), (1.0, 6), (0.0, 6)]
    assert all(any(f > 1e-6 for f in row["F"]) for row in rows), "an LM that trains has not moved"

    stage_one.measure_curves(Bench(tmp_path / "elsewhere", bench.config, bench.sizes, None), again)
    alike = {(row["alpha"], row["steps"]): row["M"] for row in again.rows("stage-one")}
    assert alike == {(row["alpha"], row["steps"]): row["M"] for row in rows}, "stopping changed a curve"
