"""The configuration refuses what it does not know, and says so on one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from salad.config import load_config
from salad.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["demo.yaml", "qwen2.5-3b.yaml"])
def test_shipped_configs_validate(name: str) -> None:
    assert load_config(ROOT / "configs" / name).rounds >= 1


def broken(path: Path, key: str, value: object) -> str:
    """The error of demo.yaml with one dotted key changed."""
    data = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    *parents, last = key.split(".")
    at = data
    for p in parents:
        at = at[p]
    at[last] = value
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as e:
        load_config(path)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("select.gama", 3, "unknown key 'select.gama'; did you mean 'gamma'?"),
        ("sed", 3, "unknown key 'sed'; did you mean 'seed'?"),
        ("pool.sources", [{"dataset": "x", "colum": "t"}], "unknown key 'pool.sources.0.colum'"),
        ("student.adapter.layer", 3, "did you mean 'layers'?"),
        ("select.budget", 0, "'select.budget'"),
        ("select.budget", -5, "'select.budget'"),
        ("select.budget", float("nan"), "'select.budget'"),
        ("select.budget", float("inf"), "'select.budget'"),
        ("select.selector", "crisp", "selector crisp selects towards select.target"),
        ("select", {"budget": 9, "near": None, "evaluation": [{"dataset": "x"}]}, "but select.near is off"),
        ("select.evaluation", [{"dataset": "x", "column": "t"}], "unknown key 'select.evaluation.0.column'"),
        ("select.repeats", 0, "'select.repeats'"),
        ("interleave.speech_words", [9, 3], "1 <= low <= high"),
        ("pool.sources", [], "pool.sources"),
        ("runs_dir", "s3://me:pass@bucket/runs", "'runs_dir' is a URL with credentials in it"),
        ("runs_dir", "https://host/runs?sig=abc", "'runs_dir' is a URL with credentials in it"),
        ("storage", {"secret": "abc"}, "storage.secret is a secret: write ${NAME} and put it in the environment"),
        ("storage", {"client_kwargs": {"aws_session_token": "abc"}}, "storage.client_kwargs.aws_session_token is a secret"),
        ("natural", {"seconds": 10}, "natural: give one of `recordings`, `shards`"),
        ("natural", {"domains": ["x"], "shards": "y"}, "natural: give one of `recordings`, `shards`"),
        ("natural", {"recordings": {"dataset": "x", "txt_column": "t"}}, "unknown key 'natural.recordings.txt_column'"),
        ("speech", {"voices": []}, "'speech.voices'"),
        ("speech", {"voices": [{"weight": 0}]}, "'speech.voices.0.weight'"),
        ("speech", {"voices": [{"pich": 1}]}, "unknown key 'speech.voices.0.pich'; did you mean 'pitch'?"),
        ("speech", {"heldout_voice": {"voice": "heart"}}, "heldout_voice heart is one of `voices`, so training would hear it"),
        ("speech", {"heldout_voice": {"weight": 3}}, "is one of `voices`"),
        ("speech", {"quality": {"max_seconds": 31}}, "'speech.quality.max_seconds'"),
        ("speech", {"cut": "words"}, "'speech.cut'"),
        ("speech", {"workers": -1}, "'speech.workers'"),
        ("name", "../escape", "'name'"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, key: str, value: object, said: str) -> None:
    assert said in broken(tmp_path / "c.yaml", key, value)


def test_missing_key_and_missing_file_and_bad_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match="'models' is missing"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "c.yaml")


def test_overrides_win_and_none_leaves_alone() -> None:
    config = load_config(ROOT / "configs/demo.yaml", {"select.budget": 7.0, "name": None})
    assert config.select.budget == 7.0
    assert config.name == "demo"
