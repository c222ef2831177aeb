"""The folder of someone who reads the documentation: its configurations, files and plug-ins by the names that the pages use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.docs.reading import ROOT, blocks
from tests.fakes import RATE, ToneEngine, write_config


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Path:
    """configs/, with the fakes' in place of the demo's; mine.yaml, the plug-ins of the pages, and a sound."""
    import soundfile

    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", folder / "configs")
    written = write_config(
        folder, fake_models, name="demo", rounds=1, control=True, runs_dir="runs", evaluate={"items": 4, "bootstrap": 100}
    )
    for name in ("configs/demo.yaml", "mine.yaml"):
        shutil.copy(written, folder / name)
    for page, code in blocks("python"):
        if page in ("docs/selectors.md", "docs/voices.md"):
            name = "longest" if page == "docs/selectors.md" else "hum"
            (folder / f"{name}.py").write_text(code, encoding="utf-8")
    mine = (folder / "longest.py").read_text(encoding="utf-8").replace("Longest", "Mine").replace('"longest"', '"mine"')
    (folder / "mine.py").write_text(mine, encoding="utf-8")
    (speech,) = ToneEngine().synthesize(["a sound"], "tone")
    for name in ("question.wav", "first.flac"):
        soundfile.write(folder / name, np.asarray(speech.wave), RATE)
    return folder


@pytest.fixture(scope="session")
def reader_run(reader_folder: Path) -> Path:
    """runs/demo in that folder, finished; and runs/uniform, the same with texts drawn by chance."""
    from salad.config import load_config
    from salad.pipeline.stages import Run

    before = Path.cwd()
    os.chdir(reader_folder)  # as the reader does: names in the configuration are relative
    try:
        for changed in ({}, {"name": "uniform", "select.selector": "uniform"}):
            run = Run(load_config("configs/demo.yaml", changed))
            with run.store.lock():
                run.store.bind(run.config)
                for stage in run.stages:
                    run.execute(stage)
    finally:
        os.chdir(before)
    return reader_folder / "runs" / "demo"
