"""The demo's promise, measured: wall time and peak memory of a run from nothing, models converted anew.

.venv/bin/python bench/demo.py                # configs/demo.yaml, at most 600 s and 8 GiB
.venv/bin/python bench/demo.py --keep runs    # … and the run stays, as runs/demo
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, GIB = 600, 8


def main() -> int:
    """Run the demo with a cache of its own; 0 when both limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the run is to stay; it must not be there yet")
    given = parser.parse_args()
    if given.keep and (given.keep / "demo").exists():
        parser.error(f"{given.keep}/demo is there already: what is done in it would cost no time")
    with tempfile.TemporaryDirectory() as folder:
        runs = given.keep.absolute() if given.keep else Path(folder) / "runs"
        copy = Path(folder) / "config.yaml"
        copy.write_text(Path(given.config).read_text(encoding="utf-8") + f"\nruns_dir: {runs}\n", encoding="utf-8")
        started = time.monotonic()
        command = [sys.executable, "-m", "salad", "run", str(copy)]
        code = subprocess.run(command, env={**os.environ, "SALAD_CACHE": f"{folder}/cache"}, check=False).returncode
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nexit status {code} · wall {seconds:.0f} s (limit {SECONDS}) · peak memory {peak:.2f} GiB (limit {GIB})")
    return int(code != 0 or seconds > SECONDS or peak > GIB)


if __name__ == "__main__":
    sys.exit(main())
