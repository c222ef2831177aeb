"""Credentials in a URL are refused before anything is written, and no message repeats them."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from salad.config import load_config
from salad.errors import ConfigError, SaladError, redact
from salad.pipeline.benchmarks import load_benchmark
from tests.test_cli import one_line_error

ROOT = Path(__file__).parents[2]
SECRET = "hunter2hunter2"
URLS = [
    f"https://me:{SECRET}@example.org/texts.parquet",
    f"https://{SECRET}@example.org/texts.parquet",
    f"https://example.org/texts.parquet?token={SECRET}",
    f"https://example.org/texts.parquet?a=1&X-Amz-Signature={SECRET}&b=2",
    f"https://example.org/texts.parquet?sig={SECRET}",
    f"s3://me:{SECRET}@bucket/texts.parquet",
    f"zip://texts.parquet::https://me:{SECRET}@example.org/texts.zip",
    f"HTTPS://example.org/texts.parquet?Access_Token={SECRET}",
    f"https://example.org/texts.parquet#access_token={SECRET}",
    f"https://me:{SECRET}/x%40@example.org/texts.parquet",
    f"https://example.org/texts.parquet?api_key={SECRET}",
    f"https://example.org/texts.parquet?AWSAccessKeyId={SECRET}",
]
HARMLESS = [
    "https://example.org/texts.parquet?download=true",
    "hf://datasets/user/name@main/data.parquet",
    "abfs://container@account.dfs.core.windows.net/texts.parquet",
    "s3://bucket/a@b:c.parquet",
    "zip://a.parquet::s3://bucket/b.zip",
    "https://example.org/search?keyword=a&author=b&monkey=c",
    "data/mail@home:2.jsonl",
]


def place(name: str, url: str) -> dict[str, Any]:
    """Of a configuration, where a URL may stand: what to put over the demo's."""
    recordings = {"recordings": {"dataset": url}}
    return {
        "a source": {"pool.sources": [{"dataset": url}]},
        "test sets": {"select.evaluation": [{"dataset": url}]},
        "a target": {"select.target": [{"dataset": url}]},
        "recordings": {"natural": recordings},
        "shards": {"natural": {"shards": url}},
        "a model": {"models.lm": url},
        "a voice's model": {"speech.voices": [{"engine": "coqui", "model": url}]},
        "the runs": {"runs_dir": url},
        "a strategy's options": {"select.options": {"index": {"at": [url]}}},
        "a benchmark": {"evaluate.benchmarks": [url]},
    }[name]


PLACES = ("a source", "test sets", "a target", "recordings", "shards", "a model", "a voice's model", "the runs",
          "a strategy's options", "a benchmark")  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
def test_wherever_a_url_may_stand(where: str) -> None:
    for url in URLS:
        with pytest.raises(ConfigError, match="credentials") as refused:
            load_config(ROOT / "configs/demo.yaml", place(where, url))
        assert SECRET not in "".join(traceback.format_exception_only(refused.value))


@pytest.mark.parametrize("url", HARMLESS)
def test_what_holds_none_is_taken(url: str) -> None:
    assert load_config(ROOT / "configs/demo.yaml", place("a source", url)).pool.sources[0].dataset == url


def test_a_benchmark_of_one_s_own(tmp_path: Path) -> None:
    found = yaml.safe_load((ROOT / "salad/benchmarks/piqa.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**found, "dataset": URLS[0]}))
    with pytest.raises(SaladError, match="credentials") as refused:
        load_benchmark(str(path))
    assert SECRET not in str(refused.value)


def test_the_command_line_keeps_it_to_itself(fake_config_path: Path) -> None:
    text = fake_config_path.read_text()
    for change in (
        {"pool": {"sources": [{"dataset": URLS[0]}]}},
        {"pool": {"sources": [{"dataset": URLS[2], "subset": 3}]}},  # wrong in another way too
        {"selectt": URLS[3]},
    ):
        fake_config_path.write_text(yaml.safe_dump({**yaml.safe_load(text), **change}))
        said = one_line_error("run", str(fake_config_path), code=2)
        assert SECRET not in said
    fake_config_path.write_text(f"name: [{URLS[0]}\n{text}")
    assert SECRET not in one_line_error("run", str(fake_config_path), code=2)
    assert not (fake_config_path.parent / "runs").exists(), "nothing was started"


@pytest.mark.parametrize("url", URLS)
def test_an_error_never_repeats_it(url: str) -> None:
    """Whoever made it: a library names the URL that it could not open."""
    error = SaladError(f"cannot open {url} (403, url='{url}')", f"look at {url}")
    assert SECRET not in str(error)
    assert "example.org" in str(error) or "bucket" in str(error)


@pytest.mark.parametrize("text", [*HARMLESS, "a: b@c", "user@example.org", "key=value", "https://example.org/?q=1#top"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
