"""What FSDP2 wants of a student before its weights are sharded over processes, and how they become a student's again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Names:
    """Of the weights that look different while they are sharded."""

    scalars: frozenset[str] = frozenset()  # vectors of one element
    tied: frozenset[str] = frozenset()  # weights that have another name already

    def restore(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gathered weights as the student itself keeps them."""
        return {k: v.reshape(()) if k in self.scalars else v for k, v in weights.items() if k not in self.tied}


def make_shardable(student: nn.Module) -> Names:
    """Change a student in place, to the same outputs.

    `fully_shard` cuts parameters by rows, and a scalar has none. And accelerate would make a unit of its own of the
    embedding, where the head, tied to it or not, has to stay whole all through the student's forward pass: the loss
    takes it there. With no embedding to be seen both stay in the outermost unit.
    """
    tied = {k for k, _ in student.named_parameters(remove_duplicate=False)} - {k for k, _ in student.named_parameters()}
    scalars = {k: p for k, p in student.named_parameters() if p.ndim == 0}
    for path, parameter in scalars.items():
        owner, _, name = path.rpartition(".")
        setattr(student.get_submodule(owner), name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
    student.get_input_embeddings = student.get_output_embeddings = lambda: None  # type: ignore[assignment]
    return Names(frozenset(scalars), frozenset(tied))


@contextmanager
def whole(student: nn.Module) -> Iterator[None]:
    """In here a student may be used otherwise than by its forward pass, by all processes alike."""
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in student.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
