"""The student: frozen speech encoder (outside) -> adapter -> LM initialised from the teacher.

A `transformers.PreTrainedModel`. While the LM is frozen it is the teacher, so a checkpoint holds the adapter
alone and names the LM; once the LM trains, the checkpoint holds both. safetensors only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaModel, PreTrainedConfig, PreTrainedModel

from salad import assets
from salad.errors import SaladError
from salad.trainer.targets import Loss


class StudentConfig(PreTrainedConfig):
    """What is needed to rebuild the student: names, sizes, and the LM's own config when it trains."""

    model_type = "salad-student"

    def __init__(
        self,
        lm: str = "",
        lm_training: str = "frozen",
        lm_config: dict[str, Any] | None = None,
        encoder: str = "",
        encoder_width: int = 0,
        encoder_frame_rate: float = 0.0,
        frame_rate: float = 12.5,
        layers: int = 2,
        width: int = 576,
        mlp: int = 1536,
        heads: int = 9,
        kv_heads: int = 3,
        **kwargs: Any,
    ) -> None:
        self.lm, self.lm_training, self.lm_config = lm, lm_training, lm_config
        self.encoder, self.encoder_width, self.encoder_frame_rate = encoder, encoder_width, encoder_frame_rate
        self.frame_rate, self.layers, self.width, self.mlp = frame_rate, layers, width, mlp
        self.heads, self.kv_heads = heads, kv_heads
        super().__init__(**kwargs)

    @property
    def stack(self) -> int:
        """Encoder frames that become one position of the LM."""
        return max(1, round(self.encoder_frame_rate / self.frame_rate))


class Adapter(nn.Module):
    """Stacked encoder frames through a causal decoder stack into the LM's embedding space.

    (spans, T · stack, encoder width) -> (spans, T, LM width). `scale` starts at the RMS of the LM's own
    token embeddings, so speech enters at the volume that the LM is used to.
    """

    def __init__(self, config: StudentConfig, lm_width: int) -> None:
        super().__init__()
        self.stack = config.stack
        self.inward = nn.Linear(config.encoder_width * self.stack, config.width)
        self.body = LlamaModel(
            LlamaConfig(
                vocab_size=1,
                hidden_size=config.width,
                intermediate_size=config.mlp,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                max_position_embeddings=4096,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.outward = nn.Linear(config.width, lm_width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        spans, length, width = frames.shape
        x = frames.reshape(spans, length // self.stack, width * self.stack)
        # Spans are padded at their end only and the stack is causal: no mask is needed.
        h = self.body(inputs_embeds=self.inward(x), use_cache=False).last_hidden_state
        return self.outward(h) * self.scale


class Student(PreTrainedModel):
    """Reads the batches of `trainer.data.collate`; the loss is in `trainer/train.py`."""

    config_class = StudentConfig
    base_model_prefix = "student"
    _no_split_modules = ["LlamaDecoderLayer"]
    supports_gradient_checkpointing = True

    def __init__(self, config: StudentConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if lm is None and config.lm_training == "full":
            lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(config.lm_config or {})))
        if config.lm_training == "full":
            self.lm = lm
        else:
            self.__dict__["_frozen"] = lm  # not a submodule: neither trained nor saved
        width = lm.config.hidden_size if lm is not None else (config.lm_config or {})["hidden_size"]
        self.adapter = Adapter(config, width)
        self.post_init()

    @property
    def language_model(self) -> PreTrainedModel:
        model = self.lm if self.config.lm_training == "full" else self.__dict__["_frozen"]
        assert model is not None, "attach_lm first"
        return model

    @property
    def lm_is_frozen(self) -> bool:
        return bool(self.config.lm_training == "frozen")

    def attach_lm(self, lm: PreTrainedModel) -> None:
        """Give a frozen-LM student the LM that its checkpoint only names."""
        self.__dict__["_frozen"] = lm.requires_grad_(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`.to(device)` moves a frozen LM too."""
        super()._apply(fn, recurse)
        if self.__dict__.get("_frozen") is not None:
            self.__dict__["_frozen"]._apply(fn)
        return self

    def head(self) -> torch.Tensor:
        """(vocabulary, d): the LM's output embedding."""
        return self.language_model.get_output_embeddings().weight

    def states(self, batch: dict[str, Any]) -> torch.Tensor:
        """Final hidden states of a batch, (B, L, d): tokens embedded, speech put in its places."""
        # Padding is at the end only and attention is causal: real positions never see it.
        return self.language_model.get_decoder()(inputs_embeds=self._embedded(batch), use_cache=False).last_hidden_state

    def hidden_states(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """The same of every layer, (B, L, d) each: what enters the LM first, `states` last."""
        decoder = self.language_model.get_decoder()
        found = decoder(inputs_embeds=self._embedded(batch), use_cache=False, output_hidden_states=True)
        return tuple(found.hidden_states)

    def _embedded(self, batch: dict[str, Any]) -> torch.Tensor:
        lm = self.language_model
        embedded = lm.get_input_embeddings()(batch["token_ids"])
        if batch["frames"] is not None:
            with self._precision(lm.dtype):
                heard = self.adapter(batch["frames"].to(next(self.adapter.parameters()).dtype))
            flat = embedded.reshape(-1, embedded.shape[-1])
            heard = heard.reshape(-1, heard.shape[-1])[batch["frame_from"]].to(flat.dtype)
            embedded = flat.index_copy(0, batch["frame_at"], heard).view_as(embedded)
        return embedded

    def _precision(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """The adapter computes as its LM does, in training and in scoring alike; its weights stay float32."""
        if dtype not in (torch.bfloat16, torch.float16):
            return nullcontext()
        return torch.autocast(self.adapter.scale.device.type, dtype=dtype)

    def forward(self, batch: dict[str, Any], loss: Loss, positions: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch of `trainer.data.collate` as a mean over so many positions, and the KL of each of its own.

        positions: of all batches that make one optimiser step. Computed in here, where sharded parameters are whole.
        """
        states = self.states_at_loss(batch)
        weights = torch.ones(len(states), device=states.device) / positions
        return loss(batch, states, self.head(), weights)

    def states_at_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """(m, d): the states of `states` that predict text, in the order of the batch's examples."""
        states = self.states(batch)
        return states.reshape(-1, states.shape[-1])[batch["loss_at"]]


def load_lm(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The frozen text LM by name: the teacher, and the start of the student.

    SaladError for one whose logits are not its head times its last state (a bias, a scale, a soft cap): its
    distribution could not be kept as states.
    """
    lm: PreTrainedModel = assets.load_pretrained(AutoModelForCausalLM, name, dtype=dtype)
    lm = lm.eval().requires_grad_(False)
    some = torch.arange(4)[None]
    with torch.inference_mode():
        states = lm.get_decoder()(input_ids=some, use_cache=False).last_hidden_state
        ours, its = states @ lm.get_output_embeddings().weight.T, lm(input_ids=some, use_cache=False).logits
    if not torch.allclose(ours.float(), its.float(), rtol=0.02, atol=0.02 * float(its.abs().max())):
        raise SaladError(
            f"the logits of '{name}' are not its head times its last state", "choose an LM without a head bias or cap"
        )
    return lm


def new_student(config: StudentConfig, teacher: PreTrainedModel, seed: int) -> Student:
    """An untrained student of this teacher. A training LM starts as a float32 copy of the teacher's."""
    import copy

    config.lm_config = teacher.config.to_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.lm_training == "full":
            student = Student(config, copy.deepcopy(teacher).float().requires_grad_(True))
        else:
            student = Student(config, teacher)
    rms = teacher.get_input_embeddings().weight.float().pow(2).mean().sqrt()
    with torch.no_grad():
        student.adapter.scale.fill_(float(rms))
    return student


def load_student(folder: Path, teacher: PreTrainedModel) -> Student:
    """A published checkpoint, with the teacher as its LM where that is frozen."""
    student: Student = assets.load_pretrained(Student, str(folder))
    if student.lm_is_frozen:
        student.attach_lm(teacher)
    return student
