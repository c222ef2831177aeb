"""kill -9 at every stage boundary, inside stages, inside shards and inside training: same bytes, no work twice."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from salad.artifact import MANIFEST
from salad.config import load_config
from salad.pipeline.stages import Run
from tests.fakes import write_config
from tests.killable import PRELOADED, run_and_die


def in_process(context: multiprocessing.context.BaseContext, *arguments: object) -> int | None:
    """Exit code of `run_and_die` in a process of its own."""
    process = context.Process(target=run_and_die, args=arguments)  # type: ignore[attr-defined]
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return int(process.exitcode)


@pytest.mark.slow
def test_killed_at_every_boundary(tmp_path: Path, fake_models: dict[str, str]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    configs = {}
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        # The same texts file and seed, so that the two runs have equal keys.
        configs[name] = write_config(tmp_path / name, fake_models, control=False)
        text = configs[name].read_text().replace(str(tmp_path / name / "texts.jsonl"), str(tmp_path / "calm" / "texts.jsonl"))
        configs[name].write_text(text)

    assert in_process(context, str(configs["calm"]), str(tmp_path / "calm.log"), None, "") == 0
    calm, killed = (Run(load_config(configs[n])) for n in ("calm", "killed"))

    log = tmp_path / "killed.log"
    moments = ["built", "before rename", "published"]
    for i, stage in enumerate(calm.stages):
        assert in_process(context, str(configs["killed"]), str(log), stage.name, moments[i % 3]) == -signal.SIGKILL
        published = (killed.store.path(stage.name) / MANIFEST).exists()
        assert published == (moments[i % 3] == "published")
    assert in_process(context, str(configs["killed"]), str(log), None, "") == 0

    builds = Counter(log.read_text().split("\n"))
    for i, stage in enumerate(calm.stages):
        assert builds[stage.name] == (1 if moments[i % 3] == "published" else 2), f"{stage.name} was repeated"
    for r in range(2):
        name = f"round-{r:03d}/selection/selection.parquet"
        assert (calm.store.root / name).read_bytes() == (killed.store.root / name).read_bytes()
        assert texts(calm, r) == texts(killed, r)
    for a, b in zip(calm.stages[:-1], killed.stages[:-1], strict=True):
        assert calm.key(a) == killed.key(b)
        if "checkpoint" in a.name:
            for part in ("stable", "final"):
                name = f"{a.name}/{part}/model.safetensors"
                assert (calm.store.root / name).read_bytes() == (killed.store.root / name).read_bytes()


def texts(run: Run, r: int) -> list[tuple[str, str, bytes]]:
    folder = run.store.path(f"round-{r:03d}/speech/data")
    table = pq.read_table(folder, columns=["id", "text", "audio"])
    return [(row["id"], row["text"], row["audio"]["bytes"]) for row in table.to_pylist()]


@pytest.mark.parametrize("damaged", [MANIFEST, "selection.parquet"])
def test_a_damaged_artefact_is_made_again(fake_config_path: Path, damaged: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(load_config(fake_config_path, {"rounds": 1, "control": False}))
    stages = [s for s in run.stages if s.name != "report"]
    for stage in stages[: [s.name for s in stages].index("round-000/selection") + 1]:
        run.execute(stage)
    path = run.store.path("round-000/selection")
    before = (path / "selection.parquet").read_bytes()
    data = bytearray((path / damaged).read_bytes())
    data[len(data) // 2] ^= 1
    (path / damaged).write_bytes(data[: len(data) - (damaged == MANIFEST) * 20])
    selection = next(s for s in stages if s.name == "round-000/selection")
    assert run.done(selection) is None
    assert run.execute(selection)[1]
    assert (path / "selection.parquet").read_bytes() == before
    named = f"{path / damaged} is not what was published (size or checksum differs): making 'round-000/selection' again"
    assert (named in caplog.text) == (damaged != MANIFEST), "an altered file is named; without a manifest there is no artefact"
