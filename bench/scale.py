"""A pool larger than memory: what each stage takes for a million texts and for ten, and that 4 GB are enough.

.venv/bin/python bench/scale.py                                    # an hour or more, 8 GB of disk in --folder
.venv/bin/python bench/scale.py --texts 30000 300000 --gb 1        # minutes

Each stage (bench/scale_stages.py says what in them is real) is a process of its own. "Anonymous" memory is what a process
holds and nobody can take away (RssAnon + RssShmem, read every 50 ms); "resident" counts pages of memory-mapped files
too, which the kernel takes back when it needs them. Where a memory cgroup can be made the limit is enforced: the process is
killed beyond it, and the page cache that it fills counts. Otherwise anonymous memory is compared with the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scale_stages import STAGES, write_texts

EVERY = 0.05  # seconds between two looks at a process
GROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))  # version 1 and 2
console = Console(highlight=False, width=130)


@dataclass(frozen=True)
class Measured:
    """What one stage took; bytes."""

    wall: float
    cpu: float
    anonymous: int
    resident: int
    status: int
    said: dict[str, Any]


def cage(limit: int) -> Path | None:
    """A memory cgroup with that limit, or None where none can be made."""
    for root, name in GROUPS:
        group = Path(root) / f"salad-scale-{os.getpid()}"
        try:
            if not (Path(root) / "cgroup.procs").exists():
                continue
            group.mkdir()
            (group / name).write_text(str(limit))
            return group
        except OSError:
            if group.is_dir():
                group.rmdir()
    return None


def measure(folder: Path, stage: str, group: Path | None) -> Measured:
    enter = f"echo $$ > {group}/cgroup.procs; " if group else ""
    command = [sys.executable, str(Path(__file__).with_name("scale_stages.py")), str(folder), stage]
    log = folder / f"{stage}.log"
    started = time.monotonic()
    with log.open("w") as errors:
        child = subprocess.Popen(
            ["sh", "-c", enter + 'exec "$@"', "sh", *command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        anonymous = 0
        while (found := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            anonymous = max(anonymous, held(child.pid))
            time.sleep(EVERY)
    wall = time.monotonic() - started
    _, status, used = found
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.stdout
    lines = child.stdout.read().splitlines()
    if child.returncode:
        console.print(f"[red]{stage} ended with {child.returncode}[/]", *log.read_text().strip().splitlines()[-3:])
    said = json.loads(lines[-1]) if lines and not child.returncode else {}
    return Measured(wall, used.ru_utime + used.ru_stime, anonymous, used.ru_maxrss * 1024, child.returncode, said)


def held(pid: int) -> int:
    """Bytes of anonymous and shared memory of a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))


def walk(folder: Path, n: int, group: Path | None) -> dict[str, Measured]:
    """All stages for n texts, one after the other, until one fails."""
    started = time.monotonic()
    write_texts(folder / "texts", n)
    console.print(f"[dim]{n:,} texts written in {time.monotonic() - started:.0f} s (not counted)[/]")
    found: dict[str, Measured] = {}
    for stage in STAGES:
        found[stage] = m = measure(folder, stage, group)
        said = ", ".join(f"{k} {v:.6g}" for k, v in m.said.items() if isinstance(v, int | float))
        console.print(
            f"[dim]{n:>11,} {stage:<18} {m.wall:8.1f} s wall {m.cpu:8.1f} s processor {m.anonymous / 1e9:6.2f} GB anonymous"
            f" {m.resident / 1e9:6.2f} GB resident · {said}[/]"
        )
        if m.status:
            break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--gb", type=float, default=4.0, help="the limit, in units of 10^9 bytes")
    parser.add_argument("--folder", type=Path, help="where the files go, and are removed from (default: the temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    given = parser.parse_args()
    limit = int(given.gb * 1e9)
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    group = cage(limit)
    console.print(
        f"limit {given.gb:g} GB, {f'enforced by the cgroup {group}' if group else 'not enforced: no memory cgroup here'}"
    )
    found: dict[int, dict[str, Measured]] = {}
    try:
        for n in given.texts:
            folder = Path(tempfile.mkdtemp(prefix="salad-scale-", dir=given.folder))
            try:
                found[n] = walk(folder, n, group)
                disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                console.print(f"[dim]{n:>11,} texts: {disk / 1e9:.2f} GB on disk{f', in {folder}' if given.keep else ''}[/]")
            finally:
                if not given.keep:
                    shutil.rmtree(folder)
    finally:
        if group:
            group.rmdir()
    console.print(table(found))
    kept = all(len(stages) == len(STAGES) and not any(m.status for m in stages.values()) for stages in found.values())
    most = max(m.anonymous for stages in found.values() for m in stages.values())
    console.print(
        f"{'[green]ok[/]    ' if kept and most <= limit else '[red]missed[/]'} peak {most / 1e9:.2f} GB of {given.gb:g} GB"
    )
    return 0 if kept and most <= limit else 1


def table(found: dict[int, dict[str, Measured]]) -> Table:
    few, many = min(found), max(found)
    shown = Table(title=f"{many:,} texts", title_justify="left", title_style="bold")
    columns = ("wall s", "processor s", "texts/s", "anonymous GB", "resident GB", f"{few:,}: wall s", "anonymous GB", "growth")
    for name in ("stage", *columns):
        shown.add_column(name, justify="left" if name == "stage" else "right")
    for stage, m in found[many].items():
        cells = [f"{m.wall:.0f}", f"{m.cpu:.0f}", f"{many / m.wall:,.0f}", f"{m.anonymous / 1e9:.2f}", f"{m.resident / 1e9:.2f}"]
        if before := found[few].get(stage):
            cells += [f"{before.wall:.1f}", f"{before.anonymous / 1e9:.2f}", f"x {m.wall / before.wall:.1f}"]
        shown.add_row(stage, *cells)
    return shown


if __name__ == "__main__":
    sys.exit(main())
