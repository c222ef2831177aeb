"""Packaged weights to folders that transformers loads: GGUF and CTranslate2 to safetensors, once.

Heavy imports stay inside the functions: `salad --help` must not pay for them.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

VERSION = 1


def gguf_to_safetensors(package: Path, out: Path) -> None:
    """The one GGUF file in `package`, de-quantised to bfloat16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    (gguf,) = package.glob("*.gguf")
    logging.disable_progress_bar()
    AutoTokenizer.from_pretrained(str(package), gguf_file=gguf.name).save_pretrained(out)
    quantised = AutoModelForCausalLM.from_pretrained(str(package), gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that came from GGUF refuses to be saved; a fresh one with the same weights does not.
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantised.state_dict())
    plain.to(torch.bfloat16).save_pretrained(out)


def copy_sentence_transformer(package: Path, out: Path) -> None:
    """A sentence-transformers folder as the package ships it, without the ONNX and training files."""
    skip = shutil.ignore_patterns("*.onnx", "*.bin", "onnx", "openvino", "data_config.json", ".gitattributes")
    shutil.copytree(package / "model", out, ignore=skip, dirs_exist_ok=True)


def ctranslate2_whisper_to_safetensors(package: Path, out: Path) -> None:
    """A CTranslate2 Whisper (`model.bin`) as a `WhisperForConditionalGeneration`, loaded strictly."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    source = package / "model"
    with (source / "model.bin").open("rb") as f:
        weights = _read_ctranslate2(f)
    layers = {side: sum(f"{side}/layer_{i}/ffn/linear_0/weight" in weights for i in range(64)) for side in SIDES}
    vocabulary, width = weights["decoder/embeddings/weight"].shape
    feed_forward = weights["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    heads = int(weights["encoder/num_heads"])
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=weights["encoder/conv1/weight"].shape[1],
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=feed_forward,
        decoder_ffn_dim=feed_forward,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_whisper_state(weights, layers), strict=True)
    model.to(torch.float16).save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)
    shutil.copy(source / "tokenizer.json", out / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


SIDES = ("encoder", "decoder")


def _read_ctranslate2(f: BinaryIO) -> dict[str, torch.Tensor]:
    """The variables of a CTranslate2 model file, format version 6: name, shape, dtype, bytes, in turn."""
    import numpy as np
    import torch

    def unpack(form: str) -> Any:
        return struct.unpack("<" + form, f.read(struct.calcsize("<" + form)))

    def string() -> str:
        return f.read(unpack("H")[0])[:-1].decode()

    dtypes = ["<f4", "i1", "<i2", "<i4", "<f2"]
    unpack("I"), string(), unpack("I")  # format version, model kind, its revision
    weights = {}
    for _ in range(unpack("I")[0]):
        name = string()
        shape = unpack(f"{unpack('B')[0]}I")
        dtype = dtypes[unpack("B")[0]]
        data = f.read(unpack("I")[0])
        weights[name] = torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).copy())
    return weights


def _whisper_state(w: dict[str, torch.Tensor], layers: dict[str, int]) -> dict[str, torch.Tensor]:
    state = {"proj_out.weight": w["decoder/embeddings/weight"]}
    state["model.decoder.embed_tokens.weight"] = w["decoder/embeddings/weight"]

    def linear(to: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        state[to + ".weight"] = weight
        if bias is not None:
            state[to + ".bias"] = bias

    def norm(to: str, at: str) -> None:
        linear(to, w[f"{at}/gamma"], w[f"{at}/beta"])

    def attention(to: str, at: str, crossed: bool) -> None:
        """CTranslate2 fuses q, k, v (or k, v of a cross-attention); a Whisper key has no bias."""
        names: tuple[str, ...]
        if crossed:
            linear(to + ".q_proj", w[f"{at}/linear_0/weight"], w[f"{at}/linear_0/bias"])
            fused, names, last = "linear_1", ("k_proj", "v_proj"), "linear_2"
        else:
            fused, names, last = "linear_0", ("q_proj", "k_proj", "v_proj"), "linear_1"
        weights = w[f"{at}/{fused}/weight"].chunk(len(names))
        biases = w[f"{at}/{fused}/bias"].chunk(len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            linear(f"{to}.{name}", weight, None if name == "k_proj" else bias)
        linear(to + ".out_proj", w[f"{at}/{last}/weight"], w[f"{at}/{last}/bias"])

    for conv in ("conv1", "conv2"):
        linear(f"model.encoder.{conv}", w[f"encoder/{conv}/weight"], w[f"encoder/{conv}/bias"])
    for side in SIDES:
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        state[f"model.{side}.embed_positions.weight"] = w[f"{side}/position_encodings/encodings"]
        for i in range(layers[side]):
            at, to = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention(f"{to}.self_attn", f"{at}/self_attention", crossed=False)
            norm(f"{to}.self_attn_layer_norm", f"{at}/self_attention/layer_norm")
            if side == "decoder":
                attention(f"{to}.encoder_attn", f"{at}/attention", crossed=True)
                norm(f"{to}.encoder_attn_layer_norm", f"{at}/attention/layer_norm")
            for j, name in enumerate(("fc1", "fc2")):
                linear(f"{to}.{name}", w[f"{at}/ffn/linear_{j}/weight"], w[f"{at}/ffn/linear_{j}/bias"])
            norm(f"{to}.final_layer_norm", f"{at}/ffn/layer_norm")
    return {k: v.float() for k, v in state.items()}
