"""The student: frozen speech encoder (outside) -> adapter -> LM initialised from the teacher.

A `transformers.PreTrainedModel`, known to `AutoModel` once this module is imported. What does not train is not
stored: a checkpoint holds the adapter, the LoRA updates or the LM where there are any, and else names the LM.
safetensors only.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from salad import assets
from salad.errors import SaladError
from salad.trainer import generate as generation
from salad.trainer import lora
from salad.trainer.adapters import make_adapter
from salad.trainer.encoders import SpeechEncoder, make_encoder
from salad.trainer.student_config import StudentConfig
from salad.trainer.targets import Loss
from salad.trainer.teacher import load_lm

HALF = (torch.bfloat16, torch.float16)
SHORT = 128  # positions

__all__ = ["Student", "StudentConfig", "load_lm", "load_student", "new_student"]


class Student(PreTrainedModel):
    """Reads the batches of `trainer.data.collate`; the loss is in `trainer/train.py`.

    An LM that trains in full is a submodule. Else it stands beside the modules, over the teacher's tensors (`lora.share`),
    and only its updates, if any, are parameters: `lora.…`, beside `adapter.…`.
    """

    config_class = StudentConfig
    base_model_prefix = "student"
    main_input_name = "batch"
    supports_gradient_checkpointing = True

    def __init__(self, config: StudentConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if config.lm_training == "full":
            if lm is None:
                lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(config.lm_config or {})))
            self.lm = lm
        width = lm.config.hidden_size if lm is not None else (config.lm_config or {})["hidden_size"]
        self.adapter = make_adapter(config, width)
        self.post_init()
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules &= present  # FSDP looks for every one
        if lm is not None and config.lm_training != "full":
            self.attach_lm(lm)

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, **options: Any) -> Any:
        """As ever; `lm` is the LM of a checkpoint that only names it, loaded by that name where it is not given.

        SaladError for pickled weights, which could run anything, and where a weight is missing.
        """
        config = options.pop("config", None) or AutoConfig.from_pretrained(folder)
        if not isinstance(config, StudentConfig):
            raise SaladError(
                f"{folder} is a {config.model_type} model, not a student", "give a checkpoint's folder, e.g. …/final"
            )
        lm, wants_info = options.pop("lm", None), options.pop("output_loading_info", False)
        assets.refuse_pickled(Path(folder))
        if config.lm_training != "full":
            options["lm"] = load_lm(config.lm, config.teacher_dtype) if lm is None else lm
        options |= {"config": config, "use_safetensors": True, "output_loading_info": True}
        student, info = super().from_pretrained(folder, *args, **options)
        if lost := sorted(info["missing_keys"]):
            raise SaladError(f"student {folder} lacks {len(lost)} of its weights, {lost[0]} for one", "restore the folder")
        return (student, info) if wants_info else student

    @property
    def language_model(self) -> PreTrainedModel:
        if self.config.lm_training == "full":
            return self.lm
        if "_beside" not in self.__dict__:
            self.attach_lm(load_lm(self.config.lm, self.config.teacher_dtype))
        return self.__dict__["_beside"]

    @property
    def lm_is_frozen(self) -> bool:
        return bool(self.config.lm_training == "frozen")

    def attach_lm(self, lm: PreTrainedModel) -> None:
        """Give a student whose LM is not trained in full the one that it starts from, which stays as it is.

        New LoRA updates, of no effect yet, come with it. SaladError for an LM of another size.
        """
        sizes = [(c["hidden_size"], c["vocab_size"]) for c in (self.config.lm_config or lm.config.to_dict(), lm.config.to_dict())]
        if sizes[0] != sizes[1]:
            raise SaladError(
                f"this student was trained on '{self.config.lm}' (width, vocabulary: {sizes[0]}), not on an LM of {sizes[1]}",
                "give it that one",
            )
        self.__dict__["_attached"] = lm.requires_grad_(False)
        self.__dict__["_beside"] = beside = lora.share(lm)
        if self.config.lm_training == "lora":
            self.lora = lora.inject(beside, **(self.config.lora or {}))
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        """An LM with LoRA follows; a frozen one only as far as checkpointing of its layers needs it: no dropout."""
        super().train(mode)
        if (lm := self.__dict__.get("_beside")) is not None:
            lm.train(mode and not self.lm_is_frozen)
            for layer in lm.modules():
                if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                    layer.training = mode
        return self

    def _set_gradient_checkpointing(self, *args: Any, **options: Any) -> None:
        """Of the adapter's stack and of the LM, wherever it is."""
        for part in (getattr(self.adapter, "body", None), self.language_model):
            if part is not None:
                part._set_gradient_checkpointing(*args, **options)
        self.train(self.training)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """An LM that is no submodule follows to where the adapter goes, and the teacher, whose tensors it has, with it.

        Only there: FSDP empties what it is about to fill, and would never fill these.
        """
        super()._apply(fn, recurse)
        device = self.adapter.scale.device
        for name in ("_beside", "_attached"):
            if (lm := self.__dict__.get(name)) is not None and device.type != "meta":
                lm.to(device)
        return self

    def head(self) -> torch.Tensor:
        """(vocabulary, d): the LM's output embedding."""
        return self.language_model.get_output_embeddings().weight

    def states(self, batch: dict[str, Any]) -> torch.Tensor:
        """Final hidden states of a batch, (B, L, d): tokens embedded, speech put in its places."""
        # Padding is at the end only and attention is causal: real positions never see it.
        with self._attention(batch["token_ids"].shape[1]):
            return self.language_model.get_decoder()(inputs_embeds=self.embedded(batch), use_cache=False).last_hidden_state

    def hidden_states(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """The same of every layer, (B, L, d) each: what enters the LM first, `states` last."""
        decoder = self.language_model.get_decoder()
        found = decoder(inputs_embeds=self.embedded(batch), use_cache=False, output_hidden_states=True)
        return tuple(found.hidden_states)

    def hear(self, frames: torch.Tensor) -> torch.Tensor:
        """Encoder frames (spans, T · stack, width) as positions of the LM, (spans, T, d)."""
        with self._precision(self.language_model.dtype):
            return self.adapter(frames.to(next(self.adapter.parameters()).dtype))

    def embedded(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, L, d): what enters the LM."""
        embedded, frames = self.language_model.get_input_embeddings()(batch["token_ids"]), batch["frames"]
        if frames is None and self.training:
            # Where nobody speaks the adapter hears one position of silence, unused: every process then runs the same
            # modules and has a gradient for every weight, and so has a single one.
            frames = torch.zeros(1, self.config.stack, self.config.encoder_width, device=embedded.device)
        if frames is None:
            return embedded
        flat = embedded.reshape(-1, embedded.shape[-1])
        heard = self.hear(frames).reshape(-1, flat.shape[-1])[batch["frame_from"]].to(flat.dtype)
        return flat.index_copy(0, batch["frame_at"], heard).view_as(embedded)

    def _precision(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """The adapter computes as its LM does, in training and in scoring alike; its weights stay float32."""
        if dtype not in HALF:
            return nullcontext()
        return torch.autocast(self.adapter.scale.device.type, dtype=dtype)

    def _attention(self, length: int) -> AbstractContextManager[Any]:
        """Plain attention where the backward pass of the fused kernel costs several times as much: short sequences in
        half precision on a CPU (docs/log.md). Not with checkpointing, which makes the forward pass again outside of here."""
        lm, device = self.language_model, self.device.type
        half = lm.dtype in HALF or torch.is_autocast_enabled(device)
        learns = self.training and torch.is_grad_enabled() and not lm.is_gradient_checkpointing
        return sdpa_kernel(SDPBackend.MATH) if device == "cpu" and half and learns and length <= SHORT else nullcontext()

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

    @cached_property
    def speech_encoder(self) -> SpeechEncoder:
        return make_encoder(self.config.encoder, self.config.teacher_dtype, self.device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return assets.load_pretrained(AutoTokenizer, self.config.lm)

    generate = generation.generate


AutoConfig.register(StudentConfig.model_type, StudentConfig)
AutoModel.register(StudentConfig, Student)


def new_student(config: StudentConfig, teacher: PreTrainedModel, seed: int) -> Student:
    """An untrained student of this teacher, where the teacher is. An LM that trains in full starts as a float32 copy of its."""
    config.lm_config = teacher.config.to_dict()
    lm = copy.deepcopy(teacher).float().requires_grad_(True) if config.lm_training == "full" else teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(config, lm)
    rms = teacher.get_input_embeddings().weight.float().pow(2).mean().sqrt()
    with torch.no_grad():
        student.adapter.scale.fill_(float(rms))
    return cast(Student, student.to(teacher.device))


def load_student(folder: Path, teacher: PreTrainedModel | None) -> Student:
    """A published checkpoint, where its teacher is, whose tensors it takes unless the LM trained in full; then it needs none."""
    student = assets.load_pretrained(Student, str(folder), lm=teacher)
    return student if teacher is None else student.to(teacher.device)
