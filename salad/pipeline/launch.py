"""Training in several processes: `accelerate launch`, whose every process runs this module on the same job.

A job is a folder beside the checkpoint that is being made: what to train, how far it is, what went wrong, and in the
end what it gave. A process ends by itself once its job, its launcher or the run that wants it is gone, so neither
Ctrl+C nor a killed run leaves anything behind that still writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salad.config import Config
from salad.errors import NetworkError, SaladError
from salad.parent import lives

TICK = 0.2  # seconds between two looks at a job
GRACE = 5.0  # seconds to end in when asked to


def train_in_processes(
    out: Path,
    config: Config,
    start: Path | None,
    sources: dict[str, list[Path]],
    stable_steps: int,
    scope: str,
    progress: Callable[[int], None],
    probes: Path | None,
) -> dict[str, Any]:
    """`distil.build_checkpoint` in the processes that the file `train.launch` describes; the same checkpoint and meta.

    SaladError with the message of the process that failed first.
    """
    command, environment = _command(Path(config.train.launch or ""), config.train.batch_size)
    job = out / "_launch"
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir()
    wanted = {
        "config": config.model_dump(mode="json"),
        "out": str(out),
        "start": str(start) if start else None,
        "sources": {kind: [str(f) for f in folders] for kind, folders in sources.items()},
        "stable_steps": stable_steps,
        "scope": scope,
        "probes": str(probes) if probes else None,
        "run": os.getpid(),
    }
    (job / "job.json").write_text(json.dumps(wanted), encoding="utf-8")
    with (job / "output.txt").open("wb") as output:
        launcher = subprocess.Popen(
            [*command, str(job)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            while launcher.poll() is None:
                progress(_step(job))
                time.sleep(TICK)
        finally:
            (job / "job.json").unlink(missing_ok=True)
            _stop(launcher)
    if launcher.returncode or not (job / "meta.json").exists():
        raise _failure(job, launcher.returncode)
    progress(_step(job))
    meta: dict[str, Any] = json.loads((job / "meta.json").read_text(encoding="utf-8"))
    return meta


def _command(path: Path, batch_size: int) -> tuple[list[str], dict[str, str]]:
    """The launcher's command line and environment. SaladError for a file that does not say how many processes."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = " ".join(str(e).split())
        raise SaladError(
            f"train.launch: {path} cannot be read ({reason})", "name a file such as configs/accelerate/*.yaml"
        ) from e
    n = found.get("num_processes") if isinstance(found, dict) else None
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise SaladError(
            f"train.launch: {path} has no num_processes", "start from one of configs/accelerate, or `accelerate config`"
        )
    if batch_size % n:
        raise SaladError(
            f"train.batch_size {batch_size} cannot be shared by the {n} processes of {path}", f"make it a multiple of {n}"
        )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_source(), os.environ.get("PYTHONPATH")]))}
    environment["PYTHONSAFEPATH"] = "1"  # a file in the folder one works in must not stand in for a module of Python
    if found.get("use_cpu") or found.get("distributed_type") == "MULTI_CPU":
        environment["ACCELERATE_USE_CPU"] = "true"
    if found.get("distributed_type") == "MULTI_CPU":
        command.append("--multi_gpu")  # torchrun, which needs no MPI; on CPUs all the same
    if found.get("main_process_port") is None and found.get("num_machines", 1) == 1:
        command += ["--main_process_port", "0"]  # a free one
    return [*command, "--module", "salad.pipeline.launch"], environment


def _source() -> str:
    return str(Path(__file__).resolve().parents[2])


def _step(job: Path) -> int:
    try:
        return int((job / "step").read_text())
    except (OSError, ValueError):
        return 0


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """The launcher passes the signal on; what it leaves behind sees that its job is gone."""
    if launcher.poll() is not None:
        return
    launcher.send_signal(signal.SIGTERM)
    try:
        launcher.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _failure(job: Path, code: int) -> SaladError:
    """The first process that said what is wrong, then one that was killed, then the launcher's own last words."""
    said = sorted((json.loads(p.read_text(encoding="utf-8")) for p in job.glob("error-*.json")), key=lambda e: float(e["time"]))
    if known := [e for e in said if e["known"]]:
        return (NetworkError if known[0].get("network") else SaladError)(known[0]["message"])
    output = (job / "output.txt").read_text(encoding="utf-8", errors="replace")
    # torchrun's table of failures; a process that still could speak has said so above.
    killed = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*-(\d+)", output, re.DOTALL)
    if killed:
        return SaladError(
            f"training process {killed[1]} was killed by signal {killed[2]}",
            "signal 9 mostly means that memory ran out: lower train.batch_size; the same command goes on from the checkpoint",
        )
    last = said[0]["message"] if said else next((line for line in reversed(output.splitlines()) if line.strip()), "")
    return SaladError(f"training in several processes failed with status {code} ({last[:300]})", f"see {job / 'output.txt'}")


def main(job: Path) -> int:
    """One process of the job."""
    from salad.pipeline import distil
    from salad.pipeline.models import Models, quiet_libraries

    rank = int(os.environ.get("RANK", "0"))
    wanted = json.loads((job / "job.json").read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(job, int(wanted["run"]), os.getppid()), daemon=True).start()
    quiet_libraries()
    try:
        config = Config.model_validate(wanted["config"])
        config = config.model_copy(update={"train": config.train.model_copy(update={"launch": None})})  # these are they
        meta = distil.build_checkpoint(
            Path(wanted["out"]),
            config,
            Models(config, "cpu"),  # accelerate takes the student, and with it the teacher, to the device of this process
            Path(wanted["start"]) if wanted["start"] else None,
            {kind: [Path(f) for f in folders] for kind, folders in wanted["sources"].items()},
            wanted["stable_steps"],
            wanted["scope"],
            lambda step: _write(job / "step", str(step)),
            Path(wanted["probes"]) if wanted["probes"] else None,
        )
    except Exception as e:
        known = isinstance(e, SaladError)
        message = str(e) if known else f"{type(e).__name__}: {' '.join(str(e).split())}"
        said = {"known": known, "network": isinstance(e, NetworkError), "message": message, "time": time.time()}
        _write(job / f"error-{rank}.json", json.dumps(said))
        if not known:
            raise
        return 1
    if rank == 0:
        _write(job / "meta.json", json.dumps(meta))
    return 0


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _end_with(job: Path, run: int, launcher: int) -> None:
    """End this process, whatever it is at, once nobody wants its work: what it writes is made for that."""
    while (job / "job.json").exists() and os.getppid() == launcher and lives(run):
        time.sleep(TICK)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
