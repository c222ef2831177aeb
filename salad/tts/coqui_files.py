"""Where Coqui's models are: on its list, fetched already, or in a folder of one's own; and who speaks in them."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from salad.errors import SaladError, nearest, told
from salad.network import failure_of
from salad.tts.coqui_stubs import Json, beside, read_config, setting, without_torchaudio

ONLY_VOICE = "default"  # of a model with one speaker
CHECKPOINTS = ("model.pth", "best_model.pth", "model_file.pth", "model_file.pth.tar")

Files = tuple[Path, Json]  # a checkpoint, and what its config.json says


@cache
def listed_models() -> dict[str, Json]:
    """Coqui's own list of its models: what each is called, where it is fetched from, its licence."""
    spec = importlib.util.find_spec("TTS")
    assert spec is not None
    assert spec.origin is not None
    languages = json.loads(Path(spec.origin).with_name(".models.json").read_text(encoding="utf-8"))["tts_models"]
    return {
        f"tts_models/{language}/{dataset}/{name}": about
        for language, datasets in languages.items()
        for dataset, models in datasets.items()
        for name, about in models.items()
    }


def local_files(model: str) -> Files:
    """A folder's checkpoint, or the one named, and its config."""
    path = Path(model)
    if not path.exists():
        what = (
            f"coqui: '{model}' is no model that Coqui lists, and no local folder or file{nearest(model, list(listed_models()))}"
        )
        raise SaladError(what, "`tts --list_models` lists Coqui's own")
    checkpoint = _checkpoint(path) if path.is_dir() else path
    return checkpoint, read_config(checkpoint.with_name("config.json"))


def _checkpoint(folder: Path) -> Path:
    found = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
    found = found or [p for p in folder.glob("*.pth") if not p.name.startswith(("speaker", "language"))]
    if not found:
        raise SaladError(f"no checkpoint in {folder}", f"put one there ({', '.join(CHECKPOINTS)})")
    if len(found) > 1 and found[0].name not in CHECKPOINTS:
        raise SaladError(f"{len(found)} checkpoints in {folder}", f"name one of them, such as {min(found)}")
    return found[0]


def fetched_files(name: str, about: Json) -> Files | None:
    """Of a listed model that Coqui has fetched before. None: it is still to be fetched, which its terms allow."""
    own = folder = _downloads() / name.replace("/", "--")
    if "repo_id" in about:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(about["repo_id"], "config.json")
        folder = Path(cached).parent if isinstance(cached, str) else own
    whole = (folder / "config.json").is_file() and any((folder / name).is_file() for name in CHECKPOINTS)
    if whole and not about.get("default_vocoder"):  # which Coqui alone finds
        return local_files(str(folder))
    agreed = (own / "tos_agreed.txt").exists() or os.environ.get("COQUI_TOS_AGREED") == "1"
    if about.get("tos_required") and not agreed:  # TTS would ask, and wait for an answer
        terms = "read https://tts-hub.github.io/cpml, and if you agree set COQUI_TOS_AGREED=1"
        raise SaladError(f"{name} is licensed for non-commercial use only ({about.get('license')})", terms)
    return None


def _downloads() -> Path:
    """Coqui's folder of models (trainer.io.get_user_data_dir, without importing it)."""
    if home := os.environ.get("TTS_HOME") or os.environ.get("XDG_DATA_HOME"):
        return Path(home).expanduser() / "tts"
    return Path.home() / ("Library/Application Support" if sys.platform == "darwin" else ".local/share") / "tts"


def fetch(name: str, about: Json) -> tuple[Files, tuple[Path, Path] | None]:
    """A listed model and its vocoder, downloaded unless Coqui has them already."""
    with without_torchaudio():
        from TTS.utils.manage import ModelManager
    manager = ModelManager(progress_bar=False)
    try:
        checkpoint, config, _ = manager.download_model(name)
        vocoder = manager.download_model(about["default_vocoder"])[:2] if about.get("default_vocoder") else None
    except Exception as e:  # of the network, the disk, the archive
        raise failure_of(e)(
            f"{name} cannot be fetched ({told(e)})", f"try again; if it broke off before, delete it in {manager.output_prefix}"
        ) from e
    if vocoder:
        read_config(vocoder[1])
    return (checkpoint, read_config(config)), vocoder


def read_speakers(folder: Path, config: Json) -> list[str]:
    """Names of a model's speakers, from its config or the files that it names."""
    if config["model"] == "xtts":
        return sorted(_read(folder / "speakers_xtts.pth")) + sorted(p.stem for p in folder.glob("voices/*.pth"))
    if setting(config, "use_speaker_embedding"):
        named = config.get("speakers") or setting(config, "speaker_file") or setting(config, "speakers_file")
        ids = named if isinstance(named, list) else _read(beside(folder, named))
        return list(ids) or [ONLY_VOICE]
    if setting(config, "use_d_vector_file"):
        files = beside(folder, setting(config, "d_vector_file"))
        clips = [clip for file in ([files] if isinstance(files, str) else files) for clip in _read(file).values()]
        return sorted({clip["name"] for clip in clips})
    return [ONLY_VOICE]


def _read(path: str | Path) -> Any:
    """Coqui keeps speakers as JSON or as torch saves them; the latter takes torch to read."""
    if str(path).endswith(".json"):
        return json.loads(Path(path).read_text(encoding="utf-8"))
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)
