"""The text LM that a student learns from, and starts from."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from salad import assets
from salad.errors import SaladError


def load_lm(name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The frozen text LM by name: the teacher, and the start of the student.

    SaladError for one whose logits are not its head times its last state (a bias, a scale, a soft cap): its
    distribution could not be kept as states.
    """
    lm: PreTrainedModel = assets.load_pretrained(AutoModelForCausalLM, name, dtype=dtype, use_safetensors=True)
    lm = lm.eval().requires_grad_(False).to(device)
    some = torch.arange(4, device=lm.device)[None]
    with torch.inference_mode():
        states = lm.get_decoder()(input_ids=some, use_cache=False).last_hidden_state
        ours, its = states @ lm.get_output_embeddings().weight.T, lm(input_ids=some, use_cache=False).logits
    if not torch.allclose(ours.float(), its.float(), rtol=0.02, atol=0.02 * float(its.abs().max())):
        raise SaladError(
            f"the logits of '{name}' are not its head times its last state", "choose an LM without a head bias or cap"
        )
    return lm
