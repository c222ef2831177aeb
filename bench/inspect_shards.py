"""`salad inspect` on a folder of shards of 2 GB: seconds until it has answered, each in a process of its own.

Counts, totals and look-ups read no sound, so they take as long as their columns do. Status 1 where the median of the first answer
is above a second. It wants a quiet machine; the seconds of processor beside tell a busy one.

    python bench/inspect_shards.py                 # 20,000 texts of about 100 kB, in a temporary folder that is removed
    python bench/inspect_shards.py --keep FOLDER   # … made there once and left
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
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LIMIT = 1.0  # seconds, of the first answer
SOUND = 100_000  # bytes of one
SHARD = 1000  # texts a file, as speech.shard_rows
WORDS = (
    "stir the warm soup with salt and pepper then add butter and onion while the party shall grant a licence to the owner".split()
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="where the shards are, or will be")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary) / "speech"
        if not folder.exists():
            write(folder, given.texts)
        return measure(folder, given.repeats)


def write(folder: Path, texts: int) -> None:
    """Shards of the real schema, with noise that looks like FLAC in the place of sounds."""
    from salad.pipeline.schema import speech_schema

    (folder / "data").mkdir(parents=True)
    count = -(-texts // SHARD)
    for i in range(count):
        path = folder / "data" / f"train-{i:05d}-of-{count:05d}.parquet"
        rows = min(SHARD, texts - i * SHARD)
        table = pa.table(columns(rows, i), schema=speech_schema())
        pq.write_table(table, path, compression="none", row_group_size=32, write_page_checksum=True)


def columns(n: int, seed: int) -> list[pa.Array]:
    """Of one shard, in the schema's order."""
    from salad.pipeline.schema import speech_schema

    rng = np.random.default_rng(seed)
    ids = [rng.bytes(16).hex() for _ in range(n)]
    texts = [" ".join(words) for words in np.array(WORDS)[rng.integers(0, len(WORDS), (n, 40))]]
    spans = [
        [{"text": t[:40], "spoken": t[:40], "char_start": 0, "char_end": 40, "audio_start": 0.0, "audio_end": 3.0}] for t in texts
    ]
    flac = b"fLaC" + rng.bytes(n * SOUND - 4)
    ends = pa.py_buffer(np.arange(0, (n + 1) * SOUND, SOUND, dtype=np.int32))
    sounds = pa.Array.from_buffers(pa.binary(), n, [None, ends, pa.py_buffer(flac)])
    known = {
        "id": ids,
        "text": texts,
        "heard": texts,
        "spans": spans,
        "domain": rng.choice(["law", "recipes", "medicine", "security"], n).tolist(),
        "cluster": rng.integers(0, 128, n),
        "voice": rng.choice(["heart", "joe", "nova"], n).tolist(),
        "source": rng.choice(["packaged:law", "packaged:recipes"], n).tolist(),
        "reason": [f"cluster {c}: its own neighbourhood in it" for c in rng.integers(0, 128, n)],
        "selector": ["importance-diverse"] * n,
        "engine": ["hibari"] * n,
        "round": np.zeros(n, int),
        "rank": np.arange(n) + seed * n,
        "sampling_rate": np.full(n, 24_000),
        "cer": rng.random(n) ** 4,
    }
    found = []
    for field in speech_schema():
        if field.name == "audio":
            found.append(pa.StructArray.from_arrays([sounds, pa.array([f"{i}.flac" for i in ids])], ["bytes", "path"]))
        else:
            found.append(pa.array(known.get(field.name, rng.random(n) * 10), field.type))
    return found


def measure(folder: Path, repeats: int) -> int:
    files = sorted((folder / "data").iterdir())
    some = pq.read_table(files[len(files) // 2], columns=["id"])["id"][7].as_py()
    asked = {
        "the overview": [],
        "--where, --sort": ["--where", "cer > 0.5 AND domain = 'law'", "--sort=-seconds"],
        "--sql, a GROUP BY": ["--sql", "SELECT voice, sum(seconds), avg(cer) FROM samples GROUP BY voice"],
        "--play, to the sound": ["--play", some[:12]],
    }
    from salad.console import print_table

    rows, first = [], 0.0
    for what, options in asked.items():
        times = [run(folder, options, play="--play" in options) for _ in range(repeats + 1)][1:]
        walls = sorted(wall for wall, _ in times)
        first = first or median(walls)
        rows.append(
            [what, f"{median(walls):.2f}", f"{walls[0]:.2f}", f"{walls[-1]:.2f}", f"{median(cpu for _, cpu in times):.2f}"]
        )
    texts, size = sum(pq.read_metadata(f).num_rows for f in files), sum(f.stat().st_size for f in files)
    print_table(
        f"salad inspect on {texts:,} texts in {len(files)} files, {size / 1e9:.1f} GB: seconds of {repeats} processes",
        ["", "median", "quickest", "slowest", "of processor"],
        rows,
    )
    print(f"the first answer takes {first:.2f} s; at most {LIMIT:g} s is allowed")
    return int(first > LIMIT)


def run(folder: Path, options: list[str], play: bool) -> tuple[float, float]:
    """Seconds on the wall, and of processor, of one command; --play finds no program that plays, and ends there."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # an installed command is compiled once
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    env |= {"PATH": str(folder)} if play else {}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "salad", "inspect", str(folder), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != int(play) or (play and "cannot be decoded" not in done.stderr):  # noise is no FLAC
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
