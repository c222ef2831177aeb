"""A pickle that would make a file, put wherever a run, a checkpoint, a shard or a model might be unpickled: no file appears."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from salad import artifact, assets
from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.pool import build_pool, read_pool
from salad.pipeline.stages import Run
from tests.fakes import write_config


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


class Planter:
    """Bombs of every format, and whether one went off."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def plain(self) -> bytes:
        return pickle.dumps(Bomb(self.mark))

    def torch(self, zipped: bool) -> bytes:
        out = io.BytesIO()
        torch.save({"state": Bomb(self.mark), "param_groups": []}, out, _use_new_zipfile_serialization=zipped)
        return out.getvalue()

    def numpy(self, rows: int = 1) -> bytes:
        out = io.BytesIO()
        np.save(out, np.array([Bomb(self.mark)] * rows, dtype=object), allow_pickle=True)
        return out.getvalue()

    def all(self) -> Iterator[bytes]:
        yield from (self.plain(), self.torch(True), self.torch(False), self.numpy())


@pytest.fixture
def planter(tmp_path: Path) -> Iterator[Planter]:
    found = Planter(tmp_path / "boom")
    yield found
    assert not found.mark.exists(), "a pickle was run"


def test_the_bombs_go_off(tmp_path: Path) -> None:
    bombs, mark = Planter(tmp_path / "boom"), tmp_path / "boom"
    for data, load in (
        (bombs.plain(), pickle.loads),
        (bombs.torch(True), lambda d: torch.load(io.BytesIO(d), weights_only=False)),
        (bombs.torch(False), lambda d: torch.load(io.BytesIO(d), weights_only=False)),
        (bombs.numpy(), lambda d: np.load(io.BytesIO(d), allow_pickle=True)),
    ):
        load(data)
        assert mark.exists()
        mark.rmdir()


# -- a training that was killed --------------------------------------------------------------------------------

HALF = "stage-one/checkpoint"
WORK = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt", "pytorch_model.bin", "optimizer.bin",
        "sampler.pt", "trainer_state.pkl")  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Path:
    """The folder of a configuration whose run was killed in the middle of Stage I's training."""
    folder = tmp_path_factory.mktemp("half")
    run = Run(load_config(write_config(folder, fake_models)))

    def die(step: float, *_: object) -> None:
        if step >= 5:
            raise Killed

    for stage in run.stages:
        if stage.name == HALF:
            with pytest.raises(Killed):
                run.execute(stage, die)
            break
        run.execute(stage)
    assert (folder / "runs/fake/stage-one/.checkpoint.partial/_trainer/checkpoint-4/optimizer.pt").is_file()
    return folder


@pytest.mark.parametrize("name", WORK)
def test_a_resumed_training_runs_nothing(name: str, half_done: Path, planter: Planter, tmp_path: Path) -> None:
    for i, bomb in enumerate((planter.torch(True), planter.torch(False), planter.plain())):
        again = tmp_path / str(i)
        shutil.copytree(half_done / "runs/fake", again)
        work = again / "stage-one/.checkpoint.partial/_trainer/checkpoint-4"
        was_there = (work / name).exists()
        (work / name).write_bytes(bomb)
        config = load_config(half_done / "config.yaml", {"runs_dir": str(tmp_path), "name": str(i)})
        run = Run(config)
        stage = next(s for s in run.stages if s.name == HALF)
        if name == "scaler.pt":  # there is no scaler that would take it
            with pytest.raises((SaladError, AttributeError)):
                run.execute(stage)
        elif was_there:
            with pytest.raises(SaladError, match=r"cannot go on from .*checkpoint-4.*delete"):
                run.execute(stage)
        else:
            run.execute(stage)  # nobody looks at it


# -- arrays and tables of a run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Path:
    """A configuration whose run is done but for its last round's training."""
    folder = tmp_path_factory.mktemp("done")
    path = write_config(folder, fake_models, rounds=1, control=False)
    run = Run(load_config(path))
    for stage in run.stages:
        run.execute(stage)
    return path


def forged(folder: Path, file: str, data: bytes) -> None:
    """Replace a published file, and have its manifest say that this is what was published."""
    (folder / file).write_bytes(data)
    manifest = json.loads((folder / artifact.MANIFEST).read_text())
    manifest["files"][file] |= {"bytes": len(data), "checksum": artifact.checksum(folder / file)}
    (folder / artifact.MANIFEST).write_text(json.dumps(manifest))


ARRAYS = {  # file -> the stage that reads it
    "embeddings/embeddings.npy": "clusters",
    "clusters/assignment.npy": "round-000/selection",
    "clusters/centroids.npy": "round-000/selection",
    "round-000/scores/predicted.npy": "round-000/selection",
    "prepared/natural/frames.npy": "stage-one/checkpoint",
    "prepared/natural/targets.npy": "stage-one/checkpoint",
    "prepared/probe/frames.npy": "round-000/scores",
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_objects_is_refused(name: str, finished: Path, planter: Planter, tmp_path: Path) -> None:
    shutil.copytree(finished.parent / "runs/fake", tmp_path / "forged")
    run = Run(load_config(finished, {"runs_dir": str(tmp_path), "name": "forged", "rounds": 1, "control": False}))
    reader = next(s for s in run.stages if s.name == ARRAYS[name])
    shutil.rmtree(run.store.path(reader.name))
    folder, _, file = name.rpartition("/")
    rows = len(np.load(run.store.path(folder) / file, allow_pickle=False))
    for data in (planter.numpy(rows), planter.plain()):
        forged(run.store.path(folder), file, data)
        with pytest.raises((SaladError, ValueError, EOFError)):
            run.execute(reader)


def extension(bomb: bytes) -> pa.Schema:
    """A column of an extension type that pyarrow used to unpickle, and pandas' metadata with a pickle in it."""
    field = pa.field(
        "text", pa.string(), metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb}
    )
    return pa.schema([field], metadata={"pandas": bomb, "huggingface": b'{"info": {"features": {}}}', "pickle": bomb})


def test_parquet_with_pickled_metadata_is_text(planter: Planter, fake_config_path: Path, tmp_path: Path) -> None:
    texts = [f"Stir the warm soup for a while and then add number {i} of the herbs." for i in range(9)]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table([pa.array(texts)], schema=extension(planter.plain())), path)
    config = load_config(fake_config_path, {"pool.sources": [{"dataset": str(path)}]})
    (tmp_path / "pool").mkdir()
    build_pool(tmp_path / "pool", Run(config).models, lambda n: None)
    assert sorted(read_pool(tmp_path / "pool", ["text"])["text"].to_pylist()) == sorted(texts)


def test_a_shard_with_pickled_metadata_is_speech(planter: Planter, finished: Path, tmp_path: Path) -> None:
    from salad.inspect import Request, inspect
    from salad.pipeline.export import FORMATS, export
    from salad.pipeline.natural import build_natural

    source = Run(load_config(finished)).store.path("round-000/speech")
    table = pq.read_table(shards.shard_files(source)[0])
    text = extension(planter.plain()).field("text")
    schema = pa.schema([text if f.name == "text" else f for f in table.schema], metadata=extension(planter.plain()).metadata)
    (tmp_path / "speech/data").mkdir(parents=True)
    pq.write_table(table.cast(schema), tmp_path / "speech/data/train-00000-of-00001.parquet")
    (tmp_path / "natural").mkdir()
    build_natural(tmp_path / "natural", tmp_path / "speech", lambda n: None)
    assert [u.text for u in shards.read_utterances(tmp_path / "natural")] == table["text"].to_pylist()
    inspect(tmp_path / "speech", Request(limit=3))
    for to in FORMATS:
        export(tmp_path / "speech", to, tmp_path / to)


# -- models ----------------------------------------------------------------------------------------------------

BESIDE = ("pytorch_model.bin", "model.bin", "model.pt", "model.ckpt", "training_args.bin", "tokenizer.pkl", "vocab.pkl",
          "added_tokens.bin", "optimizer.pt", "adapter_model.bin", "tf_model.h5", "flax_model.msgpack")  # fmt: skip


def loaders(models: dict[str, str]) -> dict[str, tuple[str, Callable[[Path], object]]]:
    from transformers import AutoTokenizer

    from salad.trainer.encoders import make_encoder
    from salad.trainer.teacher import load_lm
    from salad.whisper import ShortWhisper

    def embed(folder: Path) -> object:
        from sentence_transformers import SentenceTransformer

        from salad.pipeline.embed import _Loader

        return assets.load_pretrained(_Loader(SentenceTransformer, {}), str(folder))

    return {
        "lm": (models["lm"], lambda f: load_lm(str(f), torch.float32)),
        "tokenizer": (models["lm"], lambda f: assets.load_pretrained(AutoTokenizer, str(f))),
        "encoder": (models["encoder"], lambda f: make_encoder(str(f), torch.float32)),
        "asr": (models["encoder"], lambda f: ShortWhisper(str(f), torch.float32)),
        "embedder": (models["embedder"], embed),
    }


@pytest.mark.parametrize("role", ["lm", "tokenizer", "encoder", "asr", "embedder"])
def test_what_lies_beside_a_model_is_ignored(role: str, planter: Planter, fake_models: dict[str, str], tmp_path: Path) -> None:
    source, load = loaders(fake_models)[role]
    shutil.copytree(source, tmp_path / "model")
    for name, bomb in zip(BESIDE, list(planter.all()) * 3, strict=True):
        (tmp_path / "model" / name).write_bytes(bomb)
    assert load(tmp_path / "model")


@pytest.mark.parametrize("role", ["lm", "encoder", "embedder"])
def test_a_model_that_is_pickled_only_is_refused(
    role: str, planter: Planter, fake_models: dict[str, str], tmp_path: Path
) -> None:
    source, load = loaders(fake_models)[role]
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin"):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(source, tmp_path / "model")
        for weights in (tmp_path / "model").rglob("*.safetensors"):
            weights.unlink()
        (tmp_path / "model" / name).write_bytes(planter.torch(True))
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
        (tmp_path / "model/pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(SaladError):
            load(tmp_path / "model")


@pytest.mark.parametrize("role", ["lm", "tokenizer", "encoder", "embedder"])
def test_code_that_comes_with_a_model_is_not_run(
    role: str, planter: Planter, fake_models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto_map` and `modules.json` name classes: in files of the model's folder, or in modules of where one works."""
    source, load = loaders(fake_models)[role]
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    code = f"import os\nos.mkdir({str(planter.mark)!r})\nclass Evil: ...\n"
    (folder / "evil.py").write_text(code)
    (tmp_path / "evil.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.exists():
            kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoFeatureExtractor")
            auto = {kind: ["evil.Evil", "evil.Evil"] if kind == "AutoTokenizer" else "evil.Evil" for kind in kinds}
            path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": auto}))
    load(folder)
    if role == "embedder":
        (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    else:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "evil"}))
    if role != "tokenizer":
        with pytest.raises(SaladError):
            load(folder)
