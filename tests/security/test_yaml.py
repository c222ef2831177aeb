"""YAML is data: what would make objects of it is refused, on one line, wherever SALAD reads YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline.benchmarks import load_benchmark
from salad.pipeline.launch import _command
from tests.test_cli import one_line_error

TAGS = (
    "!!python/object/apply:os.mkdir ['{mark}']",
    "!!python/object/new:os.mkdir ['{mark}']",
    "!!python/object/apply:subprocess.run\nargs: [[mkdir, '{mark}']]",
    "!!python/name:os.mkdir ''",
    "!!python/module:os ''",
    "!!python/tuple [1]",
)


@pytest.mark.parametrize("tag", TAGS)
def test_objects_are_refused(tag: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.yaml", tmp_path / "boom"
    for text in (tag, "name: " + tag.replace("\n", "\n  ")):
        path.write_text(text.format(mark=mark) + "\n")
        for read in (load_config, lambda p: load_benchmark(str(p)), lambda p: _command(p, 8)):
            with pytest.raises(SaladError) as refused:
                read(path)
            assert "\n" not in str(refused.value)
        assert not mark.exists()


def test_the_command_says_so_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/boom']\n")
    for command in ("run", "plan", "doctor"):
        assert "not valid YAML" in one_line_error(command, str(path), code=2)
    assert not (tmp_path / "boom").exists()
