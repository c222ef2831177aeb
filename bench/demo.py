"""The demo's promise, measured: wall time and peak memory of a run from nothing, models converted anew.

.venv/bin/python bench/demo.py            # configs/demo.yaml, at most 600 s and 8 GiB
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, GIB = 600, 8


def main() -> int:
    """Run the demo in a folder and cache of its own; 0 when both limits are kept."""
    config = sys.argv[1] if len(sys.argv) > 1 else "configs/demo.yaml"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config.yaml"
        copy.write_text(Path(config).read_text(encoding="utf-8") + f"\nruns_dir: {folder}/runs\n", encoding="utf-8")
        started = time.monotonic()
        command = [sys.executable, "-m", "salad", "run", str(copy)]
        code = subprocess.run(command, env={**os.environ, "SALAD_CACHE": f"{folder}/cache"}, check=False).returncode
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\nexit status {code} · wall {seconds:.0f} s (limit {SECONDS}) · peak memory {peak:.2f} GiB (limit {GIB})")
    return int(code != 0 or seconds > SECONDS or peak > GIB)


if __name__ == "__main__":
    sys.exit(main())
