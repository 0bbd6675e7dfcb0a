"""Detects out-of-memory errors and limits the memory of keys and values."""

from __future__ import annotations

import gc
from typing import Any

import torch

from medtask.hardware import inspect_machine

KV_MEMORY_DIVISOR = (
    4  # keys and values may use one part in this many of the memory left by the model
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
    """Bytes that the keys and values of rows may use. Derived from the sizes of model and machine,
    not from the free memory, so that runs do not differ.
    """
    machine = inspect_machine(accelerator=model.device.type != "cpu")
    total_bytes = machine.memory_bytes if model.device.type == "cpu" else machine.accelerator_bytes
    return max(0, (total_bytes - int(model.get_memory_footprint())) // KV_MEMORY_DIVISOR)
