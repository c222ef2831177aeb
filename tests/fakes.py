"""Small stand-ins that go through the real code: tiny random models on disk, and a voice of tones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import yaml

from salad.tts.base import Speech, VoiceInfo

RATE = 16_000
WORDS = {
    "kitchen": "stir the warm soup with salt and pepper then add butter onion garlic flour sugar cream until smooth",
    "court": "the party shall grant a licence under this agreement unless the owner waives any claim or warranty",
    "clinic": "the patient shows a mild defect of the heart with abnormal growth of bone muscle nerve and skin tissue",
}


class ToneEngine:
    """0.06 s a character, one pitch a text: deterministic, instant, never silent."""

    name = "tones"

    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("tone", RATE)]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [Speech(self._wave(text), RATE) for text in texts]

    @staticmethod
    def _wave(text: str) -> np.ndarray:
        pitch = 100 + hashlib.blake2b(text.encode(), digest_size=1).digest()[0]
        t = np.arange(int(RATE * (0.2 + 0.06 * len(text)))) / RATE
        return (0.3 * np.sin(2 * np.pi * pitch * t)).astype(np.float32)


def write_texts(path: Path, per_domain: int, seed: int = 0) -> Path:
    """JSON lines of random sentences in three domains."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as f:
        for i in range(per_domain):
            for domain, words in WORDS.items():
                drawn = rng.choice(words.split(), size=int(rng.integers(12, 24)))
                f.write(json.dumps({"text": f"{' '.join(drawn)} number {i}".capitalize() + ".", "topic": domain}) + "\n")
    return path


def write_models(folder: Path) -> dict[str, str]:
    """A 2-layer LM, a 1-layer Whisper and a 1-layer sentence encoder, random weights: names for `models`."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import (
        BertConfig,
        BertModel,
        LlamaConfig,
        LlamaForCausalLM,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )  # fmt: skip
    lm.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")

    whisper = WhisperConfig(
        vocab_size=51864, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, bos_token_id=50256, eos_token_id=50256, pad_token_id=50256,
        decoder_start_token_id=50257,
    )  # fmt: skip
    WhisperForConditionalGeneration(whisper).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper")

    bert = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(bert).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    words = models.Transformer(str(folder / "bert"), max_seq_length=64)
    embedder = SentenceTransformer(modules=[words, models.Pooling(16)], device="cpu")
    embedder.save_pretrained(str(folder / "embedder"))
    return {"lm": str(folder / "lm"), "encoder": str(folder / "whisper"), "embedder": str(folder / "embedder")}


def tiny_tokenizer():  # type: ignore[no-untyped-def]
    """Byte-level BPE trained on the fake words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(list(WORDS.values()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>")


def write_config(folder: Path, models: dict[str, str], **changes: object) -> Path:
    """A configuration whose whole run takes seconds; `changes` are top-level keys that replace these."""
    texts = write_texts(folder / "texts.jsonl", per_domain=60)
    engine = f"{Path(__file__).resolve()}:ToneEngine"
    config: dict[str, object] = {
        "name": "fake",
        "seed": 5,
        "rounds": 2,
        "runs_dir": str(folder / "runs"),
        "models": models,
        "pool": {
            "sources": [{"dataset": str(texts), "domain_column": "topic"}],
            "min_words": 6,
            "max_words": 40,
            "near_duplicate": None,
        },
        "natural": {"domains": ["kitchen"], "seconds": 60},
        "cluster": {"k": 4},
        "probe": {"per_cluster": 3, "budget": 100, "waves": 2, "heldout": 9},
        "select": {"budget": 100, "near": None},  # random weights embed all texts alike
        "speech": {"voices": [{"engine": engine, "voice": "tone"}], "shard_rows": 6, "workers": 0},
        "interleave": {"start": "speech", "text_words": [3, 8], "speech_words": [2, 6]},
        "student": {"adapter": {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}, "lm": "frozen"},
        "train": {
            "stage_one_steps": 4,
            "round_steps": 3,
            "decay_steps": 2,
            "batch_size": 4,
            "warmup_steps": 1,
            "save_steps": 2,
            "dtype": "float32",
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}), encoding="utf-8")
    return path
