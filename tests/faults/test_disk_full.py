"""A disk that really fills, somewhere in the run: one line, nothing lost, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def salad(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "salad", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=dict(os.environ))


def test_a_full_disk(small_disk: Path, fake_config_path: Path) -> None:
    config = fake_config_path.with_name("small.yaml")
    config.write_text(fake_config_path.read_text().replace(str(fake_config_path.parent / "runs"), str(small_disk)))
    stopped = salad("run", str(config))
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    lines = [line for line in stopped.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: the disk is full")
    done = stopped.stdout.count(" s  ")
    assert done >= 2, "some stages were published before"

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = salad("run", str(config))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("   done  ") >= done - 1, "what was published is still valid"
