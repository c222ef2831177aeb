"""Low-rank updates of a frozen LM (LoRA, Hu et al. 2021), by `peft`, on weights that the teacher keeps using.

The student's LM is a second skeleton over the teacher's very tensors: its modules are its own, so that updates,
modes and checkpointing do not reach the teacher, and no weight exists twice.
"""

from __future__ import annotations

import copy
import itertools

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from salad.errors import SaladError


def share(lm: PreTrainedModel) -> PreTrainedModel:
    """Another LM of the same parameters and buffers: the same tensors, not copies."""
    tensors = itertools.chain(lm.parameters(), lm.buffers())
    return copy.deepcopy(lm, {id(t): t for t in tensors})


def inject(lm: PreTrainedModel, rank: int, alpha: float, dropout: float, targets: list[str]) -> nn.ModuleDict:
    """Put float32 updates beside the linear layers of `lm` that are called so; returns them by layer, A and B each.

    targets: last parts of module names, "q_proj", or more of them, "self_attn.q_proj". B starts at 0: nothing changes
    yet. SaladError when the LM has no such linear layer; its head is none of them, for it is not only called but read.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    head = lm.get_output_embeddings()
    layers = [name for name, m in lm.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    wanted = [name for name in layers if any(f".{name}".endswith(f".{target}") for target in targets)]
    if missing := [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in wanted)]:
        has = sorted({name.rpartition(".")[2] for name in layers})
        raise SaladError(
            f"student.lora.targets: the {lm.config.model_type} LM has no linear layer {', '.join(map(repr, missing))}",
            f"its linear layers: {', '.join(has)}",
        )
    lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted)
    inject_adapter_in_model(lora, lm)
    found = {name: m for name, m in lm.named_modules() if isinstance(m, LoraLayer)}
    pairs = {
        name.replace(".", "/"): nn.ModuleDict({"A": m.lora_A["default"].float(), "B": m.lora_B["default"].float()})
        for name, m in found.items()
    }
    return nn.ModuleDict(pairs)
