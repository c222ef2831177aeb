"""Benchmarks: YAML and rows that are refused by name, questions made of rows, prompts spoken once, students asked."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import from_bytes, to_flac
from salad.config import load_config
from salad.errors import ConfigError, SaladError
from salad.pipeline import benchmarks, shards
from salad.pipeline.benchmarks import items, rows, score, speech
from salad.pipeline.distil import untrained
from salad.pipeline.stages import Run
from tests.fakes import RATE, write_config

QUIZ: dict[str, Any] = {
    "measures": "nothing", "licence": "none", "dataset": "quiz.jsonl", "split": "train",
    "prompt": [{"read": "Question: "}, {"hear": "$question"}, {"read": "\nAnswer:"}],
    "options": {"column": "choices.text"}, "answer": {"column": "key", "labels": "choices.label"},
}  # fmt: skip
ROW = {"question": "is the soup warm?", "choices": {"text": ["with salt", "with sugar"], "label": ["A", "B"]}, "key": "B"}


def quiz(folder: Path, table: list[dict[str, Any]], **changes: Any) -> str:
    (folder / "quiz.jsonl").write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
    path = folder / "quiz.yaml"
    path.write_text(yaml.safe_dump({**QUIZ, "dataset": str(folder / "quiz.jsonl"), **changes}), encoding="utf-8")
    return str(path)


def made(path: str, n: int = 99) -> list[dict[str, Any]]:
    benchmark = benchmarks.load_benchmark(path)
    source = rows.open_rows(benchmark, benchmark.split, 0)
    return [items.make_item(benchmark, source, key, row) for key, row in list(source)[:n]]


def test_every_packaged_benchmark_is_sound() -> None:
    assert set(benchmarks.known()) >= {"continuation", "storycloze", "mmsu", "openbookqa", "hellaswag", "arc-challenge", "piqa"}
    for name in benchmarks.known():
        found = benchmarks.load_benchmark(name)
        assert found.licence
        assert found.name == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"promt": []}, r"unknown key 'promt'; did you mean 'prompt'\?"),
        ({"prompt": [{"read": "x"}]}, "nothing of it is heard"),
        ({"prompt": [{"hear": "$question", "read": "x"}]}, "'prompt.0': give one of `hear` and `read`"),
        ({"prompt": [{"hear": "5 $"}]}, r"'prompt.0.hear': a `\$` that is no \$column"),
        ({"option": "$choice"}, r"option: holds \$option"),
        ({"options": {"columns": ["a"]}}, "'options': fewer than two options"),
        ({"options": {}}, "'options': give one of"),
        ({"normalise": "words"}, "'normalise'"),
        ({"remove": "["}, "'remove': not a regular expression"),
        ({"answer": {}}, "'answer.column': is missing"),
    ],
)
def test_a_benchmark_that_cannot_be_one_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        benchmarks.load_benchmark(quiz(tmp_path, [ROW], **changes))
    assert "quiz.yaml" in str(caught.value)


def test_names_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown benchmark 'helaswag'; did you mean 'hellaswag'\?.*known: arc-challenge, "):
        benchmarks.load_benchmark("helaswag")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        benchmarks.load_benchmark("nowhere.yaml")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"key": "C"}, "row-0: the answer 'C' is none of the labels"),
        ({"question": "  "}, r"row-0: an empty prompt: prompt.1 \('\$question'\)"),
        ({"question": None}, "row-0: 'question' is null, not text"),
        ({"choices": {"text": ["one"], "label": ["B"]}}, "row-0: 1 options"),
        ({"choices": {"text": ["one", " "], "label": ["A", "B"]}}, "row-0: option 1 is empty"),
        ({"choices": {"label": ["A", "B"]}}, "row-0, options.column: 'choices' has no 'text': its keys: label"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(SaladError, match=said) as caught:
        made(quiz(tmp_path, [{**ROW, **row}]))
    assert "quiz.jsonl" in str(caught.value)


def test_columns_and_answers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SaladError, match=r"no column 'quest'; did you mean 'question'\?: its columns: question, choices, key"):
        made(quiz(tmp_path, [ROW], prompt=[{"hear": "$quest"}]))
    with pytest.raises(SaladError, match="the answer '3' is out of range: 2 options"):
        made(quiz(tmp_path, [{**ROW, "key": 3}], answer={"column": "key", "first": 1}))
    with pytest.raises(SaladError, match="the answer 'B' is no number"):
        made(quiz(tmp_path, [ROW], answer={"column": "key"}))
    with pytest.raises(SaladError, match="cannot be opened"):
        made(quiz(tmp_path, [ROW], dataset=str(tmp_path / "other.jsonl")))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(lambda t: t.strip()))
def test_a_rows_text_is_inert(text: str) -> None:
    """No `$`, brace or path in it is looked at."""
    benchmark = benchmarks.spec.Benchmark.model_validate({**QUIZ, "name": "quiz"})
    source = rows.Source("here", list(ROW), [], np.arange(0))
    row = {**ROW, "question": text, "choices": {"text": [text, f"{text}?"], "label": ["A", "B"]}}
    item = items.make_item(benchmark, source, "row-0", row)
    assert item["text"] == f"Question: {text.strip()}\nAnswer:"
    assert item["options"] == [f" {text.strip()}", f" {(text + '?').strip()}"]
    ((start, end),) = speech.ranges(item)
    assert item["text"][start:end] == text.strip()
    assert item["answer"] == 1


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=50), st.integers(1, 9))
def test_pieces_are_even_and_lose_nothing(words: list[str], most: int) -> None:
    text = f"x: {' '.join(words)} y"
    found = speech.pieces(text, 3, 3 + len(" ".join(words)), most)
    assert [found[0][0], found[-1][1]] == [3, 3 + len(" ".join(words))]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    counts = [len(text[a:b].split()) for a, b in found]
    assert sum(counts) == len(words)
    assert max(counts) <= most
    assert max(counts) - min(counts) <= 1


def test_sound_that_comes_with_the_dataset_is_cut_where_it_is_quiet() -> None:
    wave = np.full(RATE * 10, 0.3, np.float32)
    for at in (3.4, 6.5):
        wave[int(RATE * (at - 0.05)) : int(RATE * (at + 0.05))] = 0
    parts = speech.cut(wave, RATE, 4.0)
    assert [round(len(p) / RATE, 1) for p in parts] == [3.4, 3.1, 3.5]
    assert np.array_equal(np.concatenate(parts), wave)
    assert speech.shares("0123456789", 2, 8, [1, 1, 1]) == [(2, 4), (4, 6), (6, 8)]


def test_a_transcript_takes_the_place_of_what_is_heard() -> None:
    item = {"text": "Q: add salt and then stir it\nA:", "spoken": [3, 28]}
    spans = [{"char_start": 3, "char_end": 11}, {"char_start": 11, "char_end": 28}]
    assert score.transcribed(item, "Ad salt. | And then stirred.", spans) == "Q: Ad salt and then stirred\nA:"
    assert score.transcribed(item, "one | bar | more", spans) == "Q: one bar more\nA:"
    assert score.transcribed(item, None, spans) == "Q: \nA:"
    whole = {"text": "Stir it. Add", "spoken": [0, 12]}
    spans = [{"char_start": 0, "char_end": 8}, {"char_start": 8, "char_end": 12}]
    assert score.transcribed(whole, "Stir it. | Add.", spans) == "Stir it. Add"


# -- a run ---------------------------------------------------------------------------------------------------------------


class Parrot:
    """An ASR that hears how long a sound is."""

    def transcribe(self, waves: list[Any], **how: Any) -> list[str]:
        return [f"sound {len(w) // 4000}" for w in waves]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Run:
    """A run whose held-out texts are spoken and prepared."""
    folder = tmp_path_factory.mktemp("run")
    probe = {"per_cluster": 3, "budget": 100, "waves": 2, "heldout": 24}
    models = {**fake_models, "asr": "parrot"}
    found = Run(load_config(write_config(folder, models, probe=probe, evaluate={"benchmarks": ["continuation"], "items": 12})))
    found.models.__dict__["asr"] = Parrot()
    for stage in found.stages:
        if stage.name.startswith("benchmarks/"):
            continue
        found.execute(stage)
        if stage.name == "prepared/heldout":
            return found
    raise AssertionError


@pytest.fixture(scope="module")
def spoken(run: Run) -> score.Spoken:
    (one,) = benchmarks.wanted(run)
    for stage in benchmarks.stages(run, [one]):
        run.execute(stage)
    return one.of(run)


def test_continuation_asks_about_held_out_texts(run: Run, spoken: score.Spoken) -> None:
    texts = {r["id"]: r for r in shards.read_columns(run.store.path("heldout"), ["id", "text", "domain"]).to_pylist()}
    halves = {rows.halved(t["text"])[1]: t["domain"] for t in texts.values()}
    asked = pq.read_table(spoken.items / "items.parquet").to_pylist()
    assert len(asked) == 12
    for item in asked:
        whole = texts[item["id"].removeprefix("continuation-")]
        assert item["text"] + item["options"][item["answer"]] == whole["text"]
        assert len(set(item["options"])) == len(item["options"]) == 4
        assert {halves[o.strip()] for o in item["options"]} == {whole["domain"]}
    assert len({item["answer"] for item in asked}) > 1


def test_a_smaller_number_asks_the_first_of_the_same(run: Run, spoken: score.Spoken, tmp_path: Path) -> None:
    items.build_items(tmp_path, run.config, spoken.benchmark, 5, run.store.path("heldout"), lambda *n: None)
    many = pq.read_table(spoken.items / "items.parquet").to_pylist()
    assert pq.read_table(tmp_path / "items.parquet").to_pylist() == many[:5]


def test_prompts_are_spoken_whole_in_spans_that_training_knows(run: Run, spoken: score.Spoken) -> None:
    said = shards.read_columns(spoken.speech, ["id", "text", "spans", "heard", "voice", "domain"]).to_pylist()
    assert len(said) == 12
    most = run.config.interleave.speech_words[1]
    for row in said:
        assert "".join(row["text"][s["char_start"] : s["char_end"]] for s in row["spans"]) == row["text"]
        assert max(len(s["text"].split()) for s in row["spans"]) <= most
        assert len(row["heard"].split(" | ")) == len(row["spans"])
        assert row["domain"]


def test_what_is_answered(run: Run, spoken: score.Spoken) -> None:
    table = score.ask_student(untrained(run.config, run.models), spoken, "speech", run.config, run.models)
    by_condition = {c: table.filter(np.array(table["condition"]) == c) for c in ("q_text", "cascade", "p_text", "p_speech")}
    ids = by_condition["q_text"]["id"].to_pylist()
    assert all(t["id"].to_pylist() == ids and len(ids) == 12 for t in by_condition.values())
    assert by_condition["p_text"]["log_probs"].equals(by_condition["q_text"]["log_probs"])  # a frozen LM reads as Q does
    assert not by_condition["p_speech"]["log_probs"].equals(by_condition["q_text"]["log_probs"])
    assert not by_condition["cascade"]["log_probs"].equals(by_condition["q_text"]["log_probs"])
    found = score.summary(table, run.config)
    right = {c: np.array(t["correct"], float) for c, t in by_condition.items()}
    assert found["gap"] == pytest.approx(right["q_text"].mean() - right["p_speech"].mean())
    assert found["gap_low"] <= found["gap"] <= found["gap_high"]
    assert found["chance"] == 0.25
    for condition, share in right.items():
        assert found["conditions"][condition]["accuracy"] == share.mean()
    assert found == score.summary(table, run.config)
    assert score.left_out(spoken) == {}


def test_a_student_whose_lm_trains_reads_for_itself(run: Run, spoken: score.Spoken) -> None:
    config = run.config.model_copy(update={"student": run.config.student.model_copy(update={"lm": "full"})})
    student = untrained(config, run.models)
    for parameter in student.language_model.parameters():
        parameter.data += 0.05
    table = score.ask_student(student, spoken, "speech", config, run.models)
    conditions = np.array(table["condition"])
    assert table.filter(conditions == "p_text")["log_probs"] != table.filter(conditions == "q_text")["log_probs"]


def test_shots_come_from_rows_that_are_not_asked(run: Run, tmp_path: Path) -> None:
    table = [
        {**ROW, "question": f"is the soup {w}?", "key": "AB"[i % 2]} for i, w in enumerate("warm smooth mild other any".split())
    ]
    path = quiz(tmp_path, table, shots={"count": 2})
    config = run.config.model_copy(update={"evaluate": run.config.evaluate.model_copy(update={"items": 4})})
    with pytest.raises(SaladError, match="1 rows are left for 2 shots"):
        items.build_items(tmp_path, config, benchmarks.load_benchmark(path), 4, None, lambda *n: None)
    items.build_items(tmp_path, config, benchmarks.load_benchmark(path), 3, None, lambda *n: None)
    found = pq.read_table(tmp_path / "items.parquet").to_pylist()
    assert [r["role"] for r in found] == ["shot", "shot", "item", "item", "item"]
    assert len({r["text"][: r["spoken"][1]] for r in found}) == 5
    for shot in found[:2]:
        assert shot["text"].endswith(f"Answer:{shot['options'][shot['answer']]}\n\n")
    out = tmp_path / "speech"
    out.mkdir()
    speech.build_prompts(out, config, run.models, tmp_path, lambda *n: None)
    heard = {r["id"]: r for r in shards.read_columns(out, ["id", "spans", "text"]).to_pylist()}
    assert len(heard) == 5  # each shot once
    shot = heard[found[0]["id"]]
    assert "".join(s["text"] for s in shot["spans"]) in shot["text"]
    assert "Answer" not in "".join(s["text"] for s in shot["spans"])


def test_what_no_voice_can_say_is_left_out_by_name(run: Run, tmp_path: Path) -> None:
    path = quiz(tmp_path, [ROW, {**ROW, "question": "скажи это"}])
    meta = items.build_items(tmp_path, run.config, benchmarks.load_benchmark(path), 9, None, lambda *n: None)
    assert meta["items"] == 1
    assert list(meta["unspeakable"].values()) == ["other script"]
    path = quiz(tmp_path, [{**ROW, "question": "скажи это"}])
    with pytest.raises(SaladError, match=r"none of its first 9 prompts can be said \(other script\)"):
        items.build_items(tmp_path, run.config, benchmarks.load_benchmark(path), 9, None, lambda *n: None)


def test_a_datasets_own_sound_is_used(run: Run, tmp_path: Path) -> None:
    import pyarrow as pa

    tone = (0.3 * np.sin(np.arange(RATE * 5) / 9)).astype(np.float32)
    sounds = [{"bytes": to_flac(tone, RATE), "path": "a.flac"}, {"bytes": b"junk", "path": "b.flac"}]
    pq.write_table(pa.table({"q": ["is it warm?", "is it cold?"], "key": ["A", "B"], "sound": sounds}), tmp_path / "q.parquet")
    path = quiz(
        tmp_path, [ROW], dataset=str(tmp_path / "q.parquet"), prompt=[{"hear": "$q", "audio": "sound"}],
        options={"fixed": ["A", "B"]}, answer={"column": "key", "labels": ["A", "B"]},
    )  # fmt: skip
    items.build_items(tmp_path, run.config, benchmarks.load_benchmark(path), 9, None, lambda *n: None)
    out = tmp_path / "speech"
    out.mkdir()
    meta = speech.build_prompts(out, run.config, run.models, tmp_path, lambda *n: None)
    assert meta["rejected"] == {"cannot be decoded": 1}
    (row,) = shards.read_columns(out, ["text", "spans", "audio", "seconds"]).to_pylist()
    assert row["text"] == "is it warm?"
    assert row["seconds"] == pytest.approx(5, abs=0.01)
    assert len(from_bytes(row["audio"]["bytes"])[0]) == RATE * 5


def test_the_same_seed_gives_the_same_bytes(run: Run, spoken: score.Spoken, tmp_path: Path) -> None:
    again = Run(run.config.model_copy(update={"runs_dir": str(tmp_path)}))
    again.models.__dict__["asr"] = Parrot()
    for name in ("heldout", "prepared/heldout"):
        shutil.copytree(run.store.path(name), again.store.path(name))
    (one,) = benchmarks.wanted(again)
    for stage in benchmarks.stages(again, [one]):
        published, built = again.execute(stage)
        assert built
        assert published.files == run.store.manifest(stage.name).files
        assert not again.execute(stage)[1]
