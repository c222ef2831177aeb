"""Prefect's share of a round: the same round by `salad round` and by `prefect deployment run salad-round --watch`, in turn.

Everything before the round is built once; each repetition has a copy of that run's folder. What counts is what lies beside the
stages (their own seconds are in their manifests, the report's too): the flow run's from the start of its process, less what
`salad round` pays for its process, imports and the check of finished stages. The seconds before (the asking command's start,
until `salad serve` sees the flow run) and after are shown beside it. Status 1 where Prefect's own share of the flow run is above
the limit. It wants a quiet machine: what both pay for imports is as much as Prefect's own.

    python bench/prefect_overhead.py                      # tests/real_small.yaml, a round of about 20 s
    python bench/prefect_overhead.py configs/demo.yaml    # the demo's round, 64-71 s; builds the demo's Stage I first
    python bench/prefect_overhead.py --base /somewhere    # keeps there what lies before the round, for the next time
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LIMIT = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "tests/real_small.yaml"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--base", type=Path, help="folder of runs in which the run is, or will be, as far as before the round")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    with tempfile.TemporaryDirectory() as folder:
        base = (args.base or Path(folder) / "base").absolute()
        rows = measure(Path(folder), Path(args.config), base, args.repeats)
    return show(rows)


def measure(folder: Path, config: Path, base: Path, repeats: int) -> list[dict[str, float]]:
    """A row a repetition, all in seconds."""
    from tests.servers import prefect_server, salad_serve, server_env

    (folder / "home").mkdir()
    env = server_env(folder / "home")
    run = base / yaml.safe_load(config.read_text())["name"]
    if not (run / "stage-one/metrics/_manifest.json").exists():
        timed(["salad", "round", str(written(folder, config, base)), "0"], env)
    for made in ("round-000", "prepared/round-000", "report"):
        shutil.rmtree(run / made, ignore_errors=True)
    rows = []
    with prefect_server(env), salad_serve(env, folder / "serve.log"):
        for i in range(repeats):
            places = {}
            for way in ("command", "flow"):
                places[way] = written(folder, config, folder / f"{way}-{i}")
                shutil.copytree(run, folder / f"{way}-{i}" / run.name)
            command = timed(["salad", "round", str(places["command"]), "0"], env)
            watched = timed(
                ["prefect", "deployment", "run", "salad-round", "--param", f"config={places['flow']}", "--watch"], env
            )
            by_command, by_flow = (stages(folder / f"{way}-{i}" / run.name) for way in ("command", "flow"))
            rows.append(
                {
                    "watched": watched,
                    "flow": flow_seconds(env, places["flow"]),
                    "stages": by_flow,
                    "beside command": command - by_command,
                }
            )
    return rows


def written(folder: Path, config: Path, runs: Path) -> Path:
    """The configuration, with its runs below `runs`."""
    path = folder / f"{runs.name}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "runs_dir": str(runs)}))
    return path


def timed(command: list[str], env: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=env | {"PYTHONPATH": python_path()}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start


def python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def stages(run: Path) -> float:
    """Seconds of the round's stages and, where it was written, of the report."""
    made = [
        *run.glob("round-000/*/_manifest.json"),
        *run.glob("prepared/round-000/_manifest.json"),
        *run.glob("report/_manifest.json"),
    ]
    return float(sum(json.loads(p.read_text())["seconds"] for p in made))


def flow_seconds(env: dict[str, str], config: Path) -> float:
    """From Pending, at which `salad serve` starts its process, to Completed: what a command's wall time can be held against."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        found = next(r for r in client.read_flow_runs() if r.parameters.get("config") == str(config))
        started = min(s.timestamp for s in client.read_flow_run_states(found.id) if s.is_pending())
    assert found.end_time
    return (found.end_time - started).total_seconds()


def show(rows: list[dict[str, float]]) -> int:
    from salad.console import print_table

    table: list[list[Any]] = []
    shares = []
    for i, row in enumerate(rows):
        beside = row["flow"] - row["stages"]
        own = beside - row["beside command"]
        shares.append(own / row["flow"])
        before = row["watched"] - row["flow"]
        seconds = [row["flow"], row["stages"], beside, row["beside command"], own]
        table.append([str(i), *(f"{s:.1f}" for s in seconds), f"{shares[-1]:.1%}", f"{before:.1f}"])
    columns = ["", "flow run s", "stages s", "beside them s", "`salad round` s", "Prefect's own s", "share", "before and after s"]
    print_table("A round through Prefect", columns, table)
    print(f"Prefect's own share: {mean(shares):.1%} of the flow run; at most {LIMIT:.0%} is allowed")
    return int(mean(shares) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
