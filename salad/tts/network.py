"""An ONNX network on one thread, whose memory does not grow with the lengths of sound that it has made."""

from __future__ import annotations

from typing import Any


def open_network(model: bytes) -> Any:
    """An onnxruntime session of a model's bytes.

    Memory comes from the system and goes back to it: onnxruntime's own arena and its patterns, one for each shape that it has
    seen, grew by a fifth over 10,000 texts and saved no time (docs/log.md).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
