"""How large the models of a configuration are: from their files where they are here, else from a table of known shapes.

Nothing is loaded and nobody is asked: `config.json` and the headers of safetensors files say it all.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from salad import assets
from salad.config import Adapter, Config
from salad.errors import SaladError

Shape = dict[str, Any]  # as a `config.json` spells it


def _llama(hidden: int, layers: int, mlp: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = True) -> Shape:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": mlp, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
    }  # fmt: skip


def _bert(hidden: int, layers: int) -> Shape:
    return {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden, "vocab_size": 30_522}


def _whisper(width: int, encoder_layers: int, decoder_layers: int, vocabulary: int = 51_865) -> Shape:
    return {
        "model_type": "whisper", "d_model": width, "encoder_layers": encoder_layers, "decoder_layers": decoder_layers,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "vocab_size": vocabulary,
    }  # fmt: skip


# The shapes in the models' own config.json on the hub.
KNOWN: dict[str, Shape] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _llama(576, 30, 1536, 9, 3, 49_152),
    "HuggingFaceTB/SmolLM2-135M": _llama(576, 30, 1536, 9, 3, 49_152),
    "Qwen/Qwen2.5-0.5B": _llama(896, 24, 4864, 14, 2, 151_936),
    "Qwen/Qwen2.5-1.5B": _llama(1536, 28, 8960, 12, 2, 151_936),
    "Qwen/Qwen2.5-3B": _llama(2048, 36, 11_008, 16, 2, 151_936),
    "Qwen/Qwen2.5-7B": _llama(3584, 28, 18_944, 28, 4, 152_064, tied=False),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(384, 6),
    "BAAI/bge-small-en-v1.5": _bert(384, 12),
    "BAAI/bge-base-en-v1.5": _bert(768, 12),
    "BAAI/bge-large-en-v1.5": _bert(1024, 24),
    "openai/whisper-tiny.en": _whisper(384, 4, 4, 51_864),
    "openai/whisper-tiny": _whisper(384, 4, 4),
    "openai/whisper-base": _whisper(512, 6, 6),
    "openai/whisper-small": _whisper(768, 12, 12),
    "openai/whisper-medium": _whisper(1024, 24, 24),
    "openai/whisper-large-v3": _whisper(1280, 32, 32, 51_866),
    "openai/whisper-large-v3-turbo": _whisper(1280, 32, 4, 51_866),
    "kyutai/mimi": {"model_type": "mimi"},
}
MIMI = (512, 12.5, 5.32e9)  # width, frames a second, FLOP a second of sound: counted by torch's FlopCounterMode
LOGMEL = (80, 100.0, 0.0)
STATES = 50.0  # of Whisper's encoder, a second
KERNEL = 5  # of the front end in trainer/adapters.py, which imports torch


@dataclass(frozen=True)
class Reader:
    """A network that reads tokens: the LM, or the embedder. `source` says whence it is known."""

    shape: Shape
    source: str
    counted: float | None = None  # weights in its files

    @cached_property
    def width(self) -> int:
        return int(self.shape["hidden_size"])

    @cached_property
    def head(self) -> float:
        """Weights of the output embedding, and as many of the input's."""
        return float(self.width * self.shape["vocab_size"])

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name, (in, out)."""
        h, inner, heads = self.width, int(self.shape["intermediate_size"]), int(self.shape.get("num_attention_heads") or 1)
        each = int(self.shape.get("head_dim") or h // heads)
        keys = each * int(self.shape.get("num_key_value_heads") or heads)
        attention = {"q_proj": (h, each * heads), "k_proj": (h, keys), "v_proj": (h, keys), "o_proj": (each * heads, h)}
        up = {"up_proj": (h, inner), "down_proj": (inner, h)}
        return attention | up | ({} if "num_key_value_heads" not in self.shape else {"gate_proj": (h, inner)})

    @cached_property
    def params(self) -> float:
        embeddings = self.head if self.shape.get("tie_word_embeddings", True) else 2 * self.head
        layers = int(self.shape["num_hidden_layers"]) * sum(a * b for a, b in self.linears.values())
        return self.counted or embeddings + layers

    @property
    def body(self) -> float:
        """Weights that every token is multiplied with: all but embeddings and head."""
        return self.params - (self.head if self.shape.get("tie_word_embeddings", True) else 2 * self.head)


@dataclass(frozen=True)
class Ears:
    """A speech encoder; `decoder`: weights of an ASR's other half."""

    width: int
    frame_rate: float
    flop_per_second: float
    decoder: float
    source: str


def reader(role: str, name: str) -> Reader:
    shape, source, folder = _shape(role, name)
    try:
        found = Reader(shape, source, _counted(folder))
        _ = found.body  # every key that is needed
    except (KeyError, TypeError, ValueError) as e:
        raise SaladError(f"the config.json of {role} '{name}' does not say its {e}", "name a Llama, Qwen2 or BERT kind") from e
    return found


def ears(role: str, name: str) -> Ears:
    if name == assets.LOGMEL:
        return Ears(*LOGMEL, 0.0, "no network")
    shape, source, _ = _shape(role, name)
    if shape.get("model_type") == "mimi":
        return Ears(*MIMI, 0.0, source)
    try:
        d = int(shape["d_model"])
        encoder = shape["encoder_layers"] * (4 * d * d + 2 * d * shape["encoder_ffn_dim"]) + 3 * d * d
        decoder = shape["decoder_layers"] * (8 * d * d + 2 * d * shape["decoder_ffn_dim"]) + shape["vocab_size"] * d
    except KeyError as e:
        raise SaladError(f"{role} '{name}' is no Whisper and no Mimi (no {e} in its config.json)", "see docs/training.md") from e
    return Ears(d, STATES, 2.0 * encoder * STATES, float(decoder), source)


def adapter_params(adapter: Adapter, heard: Ears, lm_width: int, logmel: bool = False) -> float:
    """Weights of `salad.trainer.adapters.make_adapter`, counted."""
    stack, w = max(1, round(heard.frame_rate / adapter.frame_rate)), adapter.width
    inward, front = heard.width * stack, 0
    if logmel:
        halvings = (stack & -stack).bit_length() - 1
        inward = (stack >> halvings) * w
        front = (heard.width * w + halvings * w * w) * KERNEL + (1 + halvings) * w
    if adapter.kind == "mlp":
        body = 2 * inward + (inward + 1) * adapter.mlp + (adapter.mlp + 1) * lm_width
    else:
        keys = w * adapter.kv_heads // adapter.heads
        layer = 2 * w * w + 2 * w * keys + 3 * w * adapter.mlp + 2 * w
        body = (inward + 1) * w + adapter.layers * layer + w + w + (w + 1) * lm_width
    return float(front + body + 1)


def trained(config: Config, lm: Reader, heard: Ears) -> tuple[float, float]:
    """(weights of the adapter, weights of the LM or of its LoRA) that a training step changes."""
    ours = adapter_params(config.student.adapter, heard, lm.width, config.models.encoder == assets.LOGMEL)
    if config.student.lm == "full":
        return ours, lm.params
    if config.student.lm == "frozen":
        return ours, 0.0
    wanted = [lm.linears[t] for t in config.student.lora.targets if t in lm.linears]
    return ours, float(lm.shape["num_hidden_layers"] * config.student.lora.rank * sum(a + b for a, b in wanted))


def _shape(role: str, name: str) -> tuple[Shape, str, Path | None]:
    assets.check_name(name)
    folder = assets.local_folder(name)
    if folder is not None:
        for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
            if path.is_file():
                return json.loads(path.read_text(encoding="utf-8")), f"{name}'s own files", folder
    if name in KNOWN:
        return KNOWN[name], f"{name}, known", None
    raise SaladError(
        f"the size of {role} '{name}' is not known: it is not on this machine", "fetch it first, or name a local folder"
    )


def _counted(folder: Path | None) -> float | None:
    """Numbers in the safetensors files of a folder, from their headers alone; None where there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder else []
    return float(sum(map(_numbers, files))) or None


def _numbers(path: Path) -> int:
    with path.open("rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(min(size, 1 << 26)))
    total = 0
    for key, tensor in header.items():
        if key != "__metadata__":
            n = 1
            for side in tensor["shape"]:
                n *= side
            total += n
    return total
