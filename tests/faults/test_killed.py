"""kill -9 anywhere: the same command goes on to the same bytes, and says nothing twice but the shard in flight."""

from __future__ import annotations

import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from salad import artifact
from salad.artifact import MANIFEST
from salad.pipeline.stages import Run
from tests.faults.attempt import START, Moment, live, replace_artefact, write_two_files
from tests.faults.rig import SEED, Account, Calm, ended, moments, start, undisturbed
from tests.faults.table import Table

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL


def test_killed_at_every_boundary(tmp_path: Path, fake_models: dict[str, str], table: Table) -> None:
    """In each stage in turn: when it is built, before the rename that publishes it, and after."""
    calm = undisturbed(tmp_path / "calm", fake_models, rounds=2)
    run = calm.other(tmp_path / "killed")
    changes, account = {"runs_dir": str(tmp_path / "killed")}, Account(run.store.root)
    whens = ["built", "before rename", "published"]
    with table.survived_all("SIGKILL at a stage's boundary") as kill:
        for i, stage in enumerate(calm.stages):
            log, when = tmp_path / f"{i}.log", whens[i % 3]
            assert ended(start(live, str(calm.config), changes, str(log), Moment(stage, when))) == KILLED
            assert (run.store.path(stage) / MANIFEST).exists() == (when == "published")
            account.add(log, died=True)
            kill()
        assert ended(start(live, str(calm.config), changes, str(tmp_path / "last.log"))) == 0
        account.add(tmp_path / "last.log", died=False)
        for i, stage in enumerate(calm.stages):
            assert account.builds[stage] == (2 if whens[i % 3] == "built" else 1), f"{stage} was repeated"
        calm.check(run)
        account.check(calm)


def test_killed_at_every_change_of_a_replacement(tmp_path: Path, table: Table) -> None:
    """An artefact of another key is replaced: whenever that ends, what is there is whole, and the next attempt gets it done."""
    for change in range(1, 100):
        folder = tmp_path / str(change) / "thing"
        folder.mkdir(parents=True)
        (folder / "old.txt").write_text("old")
        files = {"old.txt": {"bytes": 3, "checksum": artifact.checksum(folder / "old.txt")}}
        old = artifact.Manifest("thing", "key-1", {}, {}, "1", 0, 0.0, files=files)
        artifact.sync_json(folder / MANIFEST, asdict(old))
        if ended(start(replace_artefact, str(folder), str(tmp_path / "log"), change)) == 0:
            break
        with table.survived_all("SIGKILL at each change of a replacement") as kill:
            kill()
            found = artifact.read_manifest(folder)
            assert (found is None) == (not folder.exists())
            assert found is None or artifact.damage(folder, found) is None
            again = artifact.publish(folder, replace(old, key="key-2", files={}), write_two_files)
            assert artifact.read_manifest(folder) == again
            assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [MANIFEST, "one.txt", "two.txt"]
            assert [p.name for p in folder.parent.iterdir()] == ["thing"]
    assert change > 12


def test_killed_at_random_changes(tmp_path: Path, calm: Calm, table: Table) -> None:
    """Forty kills between two changes, in four runs: one in each stage, the others wherever the draw has them."""
    numbers = np.random.default_rng(SEED)
    every = [START, *calm.stages]
    chosen = numbers.permutation([*every, *numbers.choice(every, 40 - len(every))]).reshape(4, 10)
    for n in range(4):
        run = calm.other(tmp_path / str(n))
        account = Account(run.store.root)
        with table.survived_all("SIGKILL at a random change of the folder") as kill:
            for i, moment in enumerate(moments(calm, chosen[n].tolist(), numbers)):
                log = tmp_path / f"{n}-{i}.log"
                assert ended(start(live, str(calm.config), {"runs_dir": str(tmp_path / str(n))}, str(log), moment)) == KILLED
                account.add(log, died=True)
                kill()
            finish(calm, run, account, tmp_path / f"{n}-last.log")


@pytest.mark.parametrize(("kills", "workers"), [(10, 0), (4, 2)])
def test_killed_by_the_clock(tmp_path: Path, calm: Calm, table: Table, kills: int, workers: int) -> None:
    """SIGKILL from outside, whatever the process is at: in the middle of a write, of a step, of a sound.

    With processes that speak, the shard ahead is in flight too, and a killed run's processes say for a second what they had
    begun: what is said for nothing is two shards a death at most.
    """
    numbers = np.random.default_rng(SEED + workers)
    changes = {"speech.workers": workers}
    left, n = kills, 0
    while left:
        n += 1
        run = calm.other(tmp_path / str(n), **changes)
        account = Account(run.store.root)
        with table.survived_all(f"SIGKILL by the clock{', 2 processes speaking' if workers else ''}") as kill:
            done = False
            while left and not done:
                log = tmp_path / f"{n}-{left}.log"
                process = start(live, str(calm.config), {"runs_dir": str(tmp_path / str(n)), **changes}, str(log))
                process.join(float(numbers.uniform(0.1, 1.0)) * (calm.seconds / 3 + 2 * (workers > 0)))
                process.kill()
                done = ended(process) == 0
                account.add(log, died=not done)
                if not done:
                    left -= 1
                    kill()
            finish(calm, run, account, tmp_path / f"{n}-last.log", changes)


def finish(calm: Calm, run: Run, account: Account, log: Path, changes: dict[str, object] | None = None) -> None:
    """The same command once more, to its end."""
    runs = {"runs_dir": str(run.store.root.parent)}
    assert ended(start(live, str(calm.config), {**runs, **(changes or {})}, str(log))) == 0
    account.add(log, died=False)
    calm.check(run)
    account.check(calm)
