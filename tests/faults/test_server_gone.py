"""The Prefect server is killed in mid-run and comes back: the flow run goes on, ends as if nothing had been, and says so."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from salad.config import load_config
from salad.pipeline.stages import Run
from tests import slow
from tests.fakes import write_config
from tests.servers import ask_for, history, prefect_server, salad_serve, server_env, state_of, wait_for

pytestmark = pytest.mark.slow
OUTAGE = 5.0  # seconds


def test_the_server_gone_in_mid_run_and_back(tmp_path: Path, fake_models: dict[str, str]) -> None:
    speech = {"voices": [{"engine": f"{slow.HERE}:SlowEngine", "voice": "tone"}], "shard_rows": 6, "workers": 2}
    config = write_config(tmp_path, fake_models, speech=speech, control=False, rounds=1)
    (tmp_path / "slow").touch()
    log = tmp_path / "serve.log"
    (tmp_path / "home").mkdir()
    env = {**server_env(tmp_path / "home"), "SALAD_SLOW": str(tmp_path / "slow")}
    with ExitStack() as stack:
        first = stack.enter_context(prefect_server(env))
        stack.enter_context(salad_serve(env, log))
        flow_run = ask_for(env, "salad-round", config=str(config))
        run = Run(load_config(config))
        wait_for(lambda: run.store.path("probe").exists(), log, 240)  # the held-out texts, or what follows, are being spoken
        before = published(run)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        time.sleep(OUTAGE)
        stack.enter_context(prefect_server(env))
        wait_for(lambda: state_of(env, flow_run) == "Completed", log, 400)
        states = history(env, flow_run)
    assert states[-2:] == ["Running", "Completed"], "one attempt, which lived through it"
    after = published(run)
    assert {name: after[name] for name in before} == before, "what was published is not built twice"
    assert run.store.valid("round-000/metrics")

    (tmp_path / "slow").unlink()
    calm = Run(load_config(config, {"name": "calm"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SALAD_SLOW", str(tmp_path / "slow"))
        for stage in calm.round_stages(0):
            calm.execute(stage)
        calm.models.close()
    one, two = (r.store.path("round-000/selection") / "selection.parquet" for r in (run, calm))
    assert one.read_bytes() == two.read_bytes()


def published(run: Run) -> dict[str, int]:
    """When each artefact's manifest was written, in ns."""
    return {
        str(p.parent.relative_to(run.store.root)): p.stat().st_mtime_ns
        for p in run.store.root.rglob("_manifest.json")
        if ".partial" not in str(p)
    }
