"""Running out of memory: how to tell, and what to say."""

from __future__ import annotations

from accelerate.utils.memory import should_reduce_batch_size

from salad.errors import SaladError


def is_out_of_memory(error: BaseException) -> bool:
    """An accelerator's, the CPU allocator's, or Python's own. (A process that the kernel kills raises nothing.)"""
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def out_of_memory(step: int, why: str) -> SaladError:
    """The clear stop. why: what had been tried before, or why nothing could be."""
    return SaladError(
        f"out of memory at step {step}, {why}",
        "lower train.batch_size (and raise train.accumulate by as much), set train.gradient_checkpointing: true, "
        "or lower interleave.max_positions",
    )
