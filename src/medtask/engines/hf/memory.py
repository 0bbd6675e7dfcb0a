"""Out-of-memory errors, and the memory that keys and values of running rows may take."""

from __future__ import annotations

import gc
from typing import Any

import torch

from medtask.hardware import inspect_machine

KV_MEMORY_DIVISOR = (
    4  # keys and values may take one part in so many of the memory that the model leaves
)


def is_out_of_memory(error: BaseException) -> bool:
    # torch raises a plain RuntimeError when the CPU's allocator fails.
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure_kv_budget_bytes(model: Any) -> int:
    """Bytes that keys and values of rows may take: by what a model and a machine have, not by what
    is free, or runs would differ.
    """
    machine = inspect_machine(accelerator=model.device.type != "cpu")
    total_bytes = machine.memory_bytes if model.device.type == "cpu" else machine.accelerator_bytes
    return max(0, (total_bytes - int(model.get_memory_footprint())) // KV_MEMORY_DIVISOR)
