"""The accounting against what was measured, what is exact by definition, and what a small run really wrote."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from salad import cli
from salad.config import Config, load_config
from salad.errors import SaladError
from salad.pipeline.clean import clean, passages, refusal
from salad.pipeline.stages import Run
from salad.plan import machine, plan, show, supply
from salad.plan.machine import CORE, DECODING, STEADY, Machine, has_bfloat16
from tests.fakes import write_config
from tests.test_cli import one_line_error, salad

ROOT = Path(__file__).parents[2]
TWO_CORES = Machine("cpu", 2, 2 * CORE, STEADY, DECODING)  # with bfloat16, whatever this machine has
# Seconds of the sums in docs/results.md, "The demo", two cores of an EPYC: speech is TTS and ASR together.
MEASURED = {"pool": 20, "embeddings": 82, "speech": 102, "features": 65, "metrics": 41, "training": 158, "scores": 13}
WITHIN = 1.5


@pytest.fixture(scope="module")
def demo() -> Config:
    return load_config(ROOT / "configs/demo.yaml")


@pytest.fixture(scope="module")
def paper() -> Config:
    return load_config(ROOT / "configs/qwen2.5-3b.yaml")


@pytest.mark.parametrize("stage", MEASURED)
def test_the_demo_takes_what_it_was_seen_to_take(demo: Config, stage: str) -> None:
    found = sum(r.amount for r in plan(demo, TWO_CORES).rows if r.part == "time" and r.what.partition(":")[0] == stage)
    assert MEASURED[stage] / WITHIN < found < MEASURED[stage] * WITHIN


def test_the_demo_takes_its_time_in_all(demo: Config) -> None:
    assert sum(MEASURED.values()) / 1.2 < plan(demo, TWO_CORES).seconds < sum(MEASURED.values()) * 1.2


def test_what_the_configuration_fixes_is_exact(demo: Config, paper: Config) -> None:
    found = plan(demo, TWO_CORES)
    assert found.amount("pool", "texts") == sum(s.limit or 0 for s in demo.pool.sources) == 41_700
    assert found.amount("speech", "probes") == 780
    assert found.amount("speech", "natural") == 4000
    assert found.amount("speech", "rounds") == 2 * 1000
    assert found.amount("storage", "embeddings") == 41_700 * 384 * 2
    assert [found.amount("training", f"{s}: steps") for s in ("Stage I", "rounds", "control")] == [140, 120, 105]
    whole = plan(paper, machine("h100", 16), texts=1_000_000)
    assert whole.amount("speech", "rounds") == 3.6e6
    assert whole.amount("speech", "natural") == 3.6e8
    assert whole.amount("storage", "embeddings") == 1_000_000 * 1024 * 2 + sum(s.limit or 0 for s in paper.select.evaluation)
    assert whole.amount("speech", "to be synthesised") < 1.05 * 3.6e6, "natural speech is there already"


def test_a_pool_of_fineweb_edu_follows_from_its_card(paper: Config) -> None:
    found = plan(paper, machine("h100", 16))
    assert 1e8 < found.amount("pool", "texts") < 2e8
    assert found.gpu_hours is not None
    assert 0 < found.gpu_hours < found.seconds / 3600
    assert plan(paper, TWO_CORES).gpu_hours is None
    assert plan(paper, TWO_CORES).seconds > 50 * found.seconds


def test_more_texts_never_take_less(paper: Config) -> None:
    plans = [plan(paper, machine("h100", 16), texts=n) for n in (10**6, 10**7, 10**8)]
    grows = {(r.part, r.what) for r in plans[0].rows if r.part == "pool"}
    grows |= {("time", w) for w in ("pool", "embeddings", "clusters", "scores: D of every text")}
    grows |= {("storage", w) for w in ("pool", "embeddings", "clusters", "predicted")}
    for one, two in pairwise(plans):
        for a, b in zip(one.rows, two.rows, strict=True):
            assert (a.part, a.what) == (b.part, b.what)
            assert a.amount < b.amount if (a.part, a.what) in grows else a.amount <= b.amount


@pytest.mark.parametrize(
    ("changes", "part", "what"),
    [
        ({"select.budget": 2000.0}, "time", "speech: TTS"),
        ({"rounds": 4}, "time", "training"),
        ({"probe.budget": 4000.0}, "time", "scores: probes"),
        ({"student.lm": "full"}, "time", "training"),
        ({"student.lm": "lora"}, "storage", "checkpoints"),
        ({"train.teacher": "online"}, "time", "training"),
        ({"train.gradient_checkpointing": True}, "time", "training"),
        ({"models.embedder": "BAAI/bge-large-en-v1.5"}, "time", "embeddings"),
        ({"models.lm": "Qwen/Qwen2.5-3B"}, "time", "features"),
        ({"probe.heldout": 1000}, "time", "metrics"),
        ({"evaluate.benchmarks": ["continuation"]}, "time", "metrics"),
    ],
)
def test_what_costs_more_is_said_to(demo: Config, changes: dict[str, object], part: str, what: str) -> None:
    dearer = load_config(ROOT / "configs/demo.yaml", changes)
    assert plan(dearer, TWO_CORES).amount(part, what) > plan(demo, TWO_CORES).amount(part, what)


def test_without_an_asr_nobody_listens(demo: Config) -> None:
    deaf = demo.model_copy(update={"models": demo.models.model_copy(update={"asr": None})})
    assert "speech: ASR" not in {r.what for r in plan(deaf, TWO_CORES).rows}


def test_every_row_says_how(paper: Config) -> None:
    assert all(r.how and r.amount >= 0 for r in plan(paper, machine("h100", 16)).rows)


# -- texts -----------------------------------------------------------------------------------------------------

SENTENCES = "Stir the soup for two minutes. Then serve it with bread and some cold butter, which has been kept outside. " * 9


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
@pytest.mark.parametrize("long", [True, False])
def test_passages_of_files_are_about_counted(demo: Config, tmp_path: Path, kind: str, long: bool) -> None:
    documents = [f"{SENTENCES if long else SENTENCES[:75]} It is number {i} of them." for i in range(3000)]
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"id": range(3000), "text": documents}), path)
    elif kind == "txt":
        path.write_text("\n".join(documents))
    else:
        path.write_text("".join(json.dumps({"url": "x" * 300, "text": d}) + "\n" for d in documents))
    true = sum(refusal(p, 12, 40) is None for d in documents for p in passages(clean(d), 12, 40))
    config = load_config(ROOT / "configs/demo.yaml", {"pool.sources": [{"dataset": str(path)}]})
    assert true / 1.6 < supply.passages(config, config.pool.sources).texts < true * 1.6


def test_limits_hold_where_there_is_enough(demo: Config) -> None:
    config = load_config(ROOT / "configs/demo.yaml", {"pool.sources": [{"dataset": "packaged:recipes", "limit": 10**6}]})
    assert 10_000 < supply.passages(config, config.pool.sources).texts < 20_000, "13,922 by count"


def test_unknown_sizes_are_asked_for() -> None:
    source = {"pool.sources": [{"dataset": "somebody/texts"}]}
    unknown = load_config(ROOT / "configs/demo.yaml", source)
    with pytest.raises(SaladError, match=r"nobody here knows how many texts 'somebody/texts' holds: .*--texts N"):
        plan(unknown, TWO_CORES)
    assert plan(unknown, TWO_CORES, texts=1000).amount("pool", "texts") == 1000
    with pytest.raises(SaladError, match="size of lm 'somebody/lm' is not known"):
        plan(load_config(ROOT / "configs/demo.yaml", {"models.lm": "somebody/lm"}), TWO_CORES)
    with pytest.raises(SaladError, match="unknown device 'h10'; did you mean 'h100'"):
        machine("h10")


@pytest.mark.parametrize(
    ("flags", "has"), [("fpu avx512_bf16", True), ("fpu amx_tile", True), ("fpu avx2", False), (None, False)]
)
def test_a_processor_without_bfloat16_takes_its_time(
    demo: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, has: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(sys.modules[has_bfloat16.__module__], "has_bfloat16", lambda: has_bfloat16(cpuinfo))
    longer = plan(demo, machine("cpu", 2)).seconds / plan(demo, TWO_CORES).seconds
    assert longer == 1 if has else 2 < longer < 3.4


def test_it_knows_what_training_will_compute_in() -> None:
    import torch

    from salad.devices import pick_dtype

    if torch.cuda.is_available():
        pytest.skip("a GPU computes here")
    assert has_bfloat16() == (pick_dtype() == torch.bfloat16)


def test_packaged_texts_are_still_what_was_counted() -> None:
    """Their packages are pinned: another version, another count."""
    from salad import assets

    assert set(supply.PACKAGED) == set(assets.TEXTS)


@pytest.mark.slow
def test_packaged_texts_have_as_many_words_as_was_counted() -> None:
    from salad import assets

    for name, (documents, words) in supply.PACKAGED.items():
        texts = pq.read_table(assets.text_file(name))["text"].to_pylist()
        assert (len(texts), sum(len(t.split()) for t in texts)) == (documents, words), name


# -- a run that took place -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Run:
    path = write_config(tmp_path_factory.mktemp("planned"), fake_models, rounds=1, control=False)
    run = Run(load_config(path))
    for stage in run.stages:
        run.execute(stage)
    return run


def bytes_below(run: Run, *names: str) -> int:
    return sum(f["bytes"] for name in names for f in run.store.manifest(name).files.values())


def test_a_small_run_is_as_large_as_was_planned(finished: Run) -> None:
    found = plan(finished.config, TWO_CORES)
    names = [s.name for s in finished.stages]
    speech = [n for n in names if n in ("probe", "heldout", "natural") or n.endswith("/speech")]
    real = {
        "pool": bytes_below(finished, "pool"),
        "speech": bytes_below(finished, *speech) * 3.75,  # pure tones at 16 kHz: two thirds of the samples, 0.4 byte each
        "features": bytes_below(finished, *(n for n in names if n.startswith("prepared/"))),
        "checkpoints": bytes_below(finished, *(n for n in names if n.endswith("checkpoint"))),
    }
    for what, size in real.items():
        assert size / 2 < found.amount("storage", what) < size * 2, (what, size)
    rows = finished.store.manifest("embeddings").meta["rows"]
    assert found.amount("pool", "texts") == pytest.approx(rows, rel=0.2)
    exact = plan(finished.config, TWO_CORES, texts=rows).amount("storage", "embeddings")
    assert bytes_below(finished, "embeddings") - exact == 128, "numpy's header"


@pytest.mark.slow
def test_a_sample_of_the_main_voice_takes_a_byte() -> None:
    from salad.audio import to_flac
    from salad.plan.storage import FLAC
    from salad.tts.base import make_engine

    said = make_engine("hibari", "heart", None).synthesize(["Stir the soup for two minutes, then serve it with bread."], "heart")
    assert sum(len(to_flac(s.wave, s.rate)) for s in said) / sum(len(s.wave) for s in said) == pytest.approx(FLAC, rel=0.3)


def test_a_small_run_speaks_as_much_as_was_planned(finished: Run) -> None:
    found = plan(finished.config, TWO_CORES)
    spoken = {n: finished.store.manifest(n).meta["seconds"] for n in ("natural", "round-000/speech")}
    assert spoken["natural"] == pytest.approx(found.amount("speech", "natural"), rel=0.05)
    assert spoken["round-000/speech"] == pytest.approx(found.amount("speech", "rounds"), rel=0.05)
    log = (finished.store.path("stage-one/checkpoint") / "log.jsonl").read_text().splitlines()
    assert len(log) == found.amount("training", "Stage I: steps")


def test_a_run_is_announced_in_a_line_and_a_long_one_in_full(
    finished: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = finished.stages
    show.announce(finished, finished.config, stages)
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(show, "LONG", 0.001)
    show.announce(finished, finished.config, stages)
    assert capsys.readouterr().out.startswith("About "), "everything is done"
    (finished.store.path("report") / "_manifest.json").rename(finished.store.path("report") / "kept")
    show.announce(finished, finished.config, stages)
    (finished.store.path("report") / "kept").rename(finished.store.path("report") / "_manifest.json")
    assert "Time, one stage after the other" in capsys.readouterr().out
    nameless = finished.config.pool.sources[0].model_copy(update={"dataset": "somebody/texts"})
    config = finished.config.model_copy(update={"pool": finished.config.pool.model_copy(update={"sources": [nameless]})})
    show.announce(finished, config, stages)
    assert "No estimate: nobody here knows how many texts" in capsys.readouterr().out


# -- the command -----------------------------------------------------------------------------------------------


def test_the_command_prints_every_part() -> None:
    said = CliRunner().invoke(cli.app, ["plan", str(ROOT / "configs/qwen2.5-3b.yaml"), "--device", "h100", "--cores", "16"])
    assert said.exit_code == 0
    for part in (*show.TITLES.values(), "GPU hours", "130,769,231", "100,000.0 h", "FLOP at 35% of 989"):
        assert part in said.output


def test_the_command_gives_json_without_torch() -> None:
    done = salad("plan", "configs/demo.yaml", "--device", "cpu", "--cores", "2", "--json", PYTHONPROFILEIMPORTTIME="1")
    found = json.loads(done.stdout)
    assert {r["what"]: r["amount"] for r in found["rows"]}["rounds"] == 2000
    assert found["totals"]["seconds"] == sum(r["amount"] for r in found["rows"] if r["part"] == "time")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "salad.plan" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "faiss", "prefect"}


def test_errors_are_one_line(fake_config_path: Path) -> None:
    assert "unknown device 'gpu'" in one_line_error("plan", str(fake_config_path), "--device", "gpu", code=2)
    assert "No such file" in one_line_error("plan", "nowhere.yaml", code=2)
