"""Can this configuration run here? Each thing that it needs, found or missing, and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salad import assets
from salad.config import Config
from salad.errors import SaladError

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    ok: bool
    what: str
    advice: str = ""


def examine(config: Config) -> bool:
    """Print every finding; True when nothing is missing."""
    from salad.console import console

    findings = list(_findings(config))
    for finding in findings:
        mark = "[green]ok     [/]" if finding.ok else "[red]missing[/]"
        console.print(mark, end=" ")
        console.print(finding.what, markup=False, soft_wrap=True)
        if not finding.ok:
            console.print(f"        -> {finding.advice}", markup=False, soft_wrap=True)
    missing = sum(not f.ok for f in findings)
    console.print(f"\n{missing} of {len(findings)} things are missing" if missing else "\nThis configuration can run here")
    return missing == 0


def _findings(config: Config) -> Iterator[Finding]:
    yield _device(config)
    yield from _models(config)
    yield from _sources(config)
    yield from _benchmarks(config)
    yield from _speech(config)
    yield _selector(config)
    if config.natural.recordings:
        from salad.pipeline.recordings import recording_files

        named = config.natural.recordings.dataset
        found_files = len(recording_files(config.natural.recordings))
        yield Finding(
            found_files > 0 or not Path(named).exists(), f"recordings {named}", "see docs/natural.md for what it may be"
        )
    if config.natural.shards:
        from salad.pipeline.shards import shard_files

        found = len(shard_files(Path(config.natural.shards)))
        what = f"natural speech: {found} shards in {config.natural.shards}"
        yield Finding(found > 0, what, "prepare speech shards with span times as docs/shards.md says")
    if "://" in config.runs_dir:
        yield _storage(config)
    # a run elsewhere is mirrored below the cache
    place = assets.cache_dir() if "://" in config.runs_dir else Path(config.run_dir)
    free = shutil.disk_usage(_existing_parent(place)).free
    yield Finding(free > 2 * GIB, f"disk: {free / GIB:.1f} GiB free for {place}", "free at least 2 GiB")


def _device(config: Config) -> Finding:
    from salad.devices import gpu_name, pick_device, pick_dtype

    dtype = str(pick_dtype(config.train.dtype)).removeprefix("torch.")
    where = (gpu_name() or "the GPU") if pick_device().type == "cuda" else "the processor"
    return Finding(True, f"networks compute on {where}, in {dtype}")


def _models(config: Config) -> Iterator[Finding]:
    names = {"lm": config.models.lm, "encoder": config.models.encoder, "embedder": config.models.embedder}
    if config.models.asr:
        names["asr"] = config.models.asr
    for role, name in names.items():
        place = assets.where(name)
        advice = "it is fetched from the hub at first use; without a network put it in a local folder and name that"
        yield Finding(place is not None, f"{role} {name}: {place or 'not on this machine'}", advice)
    if config.models.encoder != assets.LOGMEL and assets.where(config.models.encoder):
        from transformers import AutoConfig

        kind = assets.load_pretrained(AutoConfig, config.models.encoder).model_type
        yield Finding(kind in ("whisper", "mimi"), f"encoder kind: {kind}", "known: whisper, mimi, and logmel by name")


def _sources(config: Config) -> Iterator[Finding]:
    from salad.pipeline.streams import file_sizes, names_files

    for source in (*config.pool.sources, *config.select.evaluation, *config.select.target):
        name = source.dataset
        if name.startswith("packaged:"):
            known = assets.TEXTS.get(name.removeprefix("packaged:"))
            ok = known is not None and (assets.package_folder(known.module) is not None)
            yield Finding(ok, f"texts {name}", f"one of {', '.join(assets.TEXTS)}, with its package installed (`make setup`)")
        elif names_files(name):
            yield Finding(bool(file_sizes(name)), f"texts {name}", "no such file")
        else:
            advice = "it is streamed from the hub; without a network use a local file or packaged:NAME"
            yield Finding(_hub_answers(name), f"texts {name} (hub)", advice)


def _benchmarks(config: Config) -> Iterator[Finding]:
    from salad.pipeline.benchmarks import HELDOUT, load_benchmark
    from salad.pipeline.streams import file_sizes, names_files

    for name in config.evaluate.benchmarks:
        try:
            dataset = load_benchmark(name).dataset
        except SaladError as e:
            yield Finding(False, f"benchmark {name}", str(e))
            continue
        if dataset == HELDOUT or names_files(dataset):
            yield Finding(dataset == HELDOUT or bool(file_sizes(dataset)), f"benchmark {name}: {dataset}", "no such file")
        else:
            advice = "it is fetched from the hub when the run is first measured"
            yield Finding(_hub_answers(dataset), f"benchmark {name}: {dataset} (hub)", advice)


def _hub_answers(name: str) -> bool:
    from huggingface_hub import dataset_info

    try:
        dataset_info(name, timeout=5)
    except Exception:
        return False
    return True


def _speech(config: Config) -> Iterator[Finding]:
    from salad.tts.base import make_engine

    for voice in config.speech.all_voices:
        what = f"engine {voice.engine}, voice {voice.label}"
        try:
            make_engine(voice.engine, voice.voice, voice.model)
            yield Finding(True, what)
        except SaladError as e:
            yield Finding(False, what, str(e))


def _selector(config: Config) -> Finding:
    from salad.selectors.base import make_selector

    what = f"selector {config.select.selector}"
    try:
        make_selector(config.select.selector, config.select.options)
        return Finding(True, what)
    except SaladError as e:
        return Finding(False, what, str(e))


def _storage(config: Config) -> Finding:
    from salad.pipeline.store import CONFIG, open_store

    try:
        open_store(config.run_dir, config.storage).read_json(CONFIG)
    except SaladError as e:
        return Finding(False, f"storage {config.runs_dir}", str(e))
    return Finding(True, f"storage {config.runs_dir} answers")


def _existing_parent(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
