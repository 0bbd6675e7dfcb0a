"""Chooses device, number format and token budget of a model, by the machine and the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medtask.display import format_bytes
from medtask.engines.files.model_files import ModelFiles
from medtask.engines.files.weights import BYTES_PER_WEIGHT, count_parameters
from medtask.engines.load_options import LoadOptions
from medtask.errors import ModelTooLarge, UsageError
from medtask.hardware import Machine, choose_device

WORKING_MEMORY_BYTES = 600_000_000  # Python, torch and intermediate results of one pack
# On CPUs, smaller models are loaded in float32 unless another format is named: they are fast, and
# in bfloat16 their probabilities differ by some hundredths.
FLOAT32_PARAMETERS = 1_000_000_000
CPU_BUDGET_TOKENS, ACCELERATOR_BUDGET_TOKENS = 1024, 8192


@dataclass(frozen=True, slots=True)
class HfLoadPlan:
    """How a model will be loaded. ``notes`` explain the choices made for the user."""

    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    quantize: Literal["4bit", "8bit"] | None
    budget_tokens: int
    notes: tuple[str, ...]


def plan_hf_load(files: ModelFiles, machine: Machine, options: LoadOptions) -> HfLoadPlan:
    """Choose device, dtype and token budget; raises ModelTooLarge if no allowed choice fits."""
    dtype, quantize, memory = options.dtype, options.quantize, options.memory
    if dtype == "file":
        raise UsageError(
            "--dtype file is for GGUF files that llama.cpp reads",
            fix="leave --dtype out, or name a number format",
        )
    chosen_device = choose_device(options.device, machine)
    device_type = chosen_device.partition(":")[0]
    if quantize and device_type != "cuda":
        raise UsageError(
            "4-bit and 8-bit weights need a CUDA GPU",
            fix="leave --quantize out, or name a quantised .gguf file as the model",
        )
    weights = count_parameters(files)
    chosen_dtype = choose_number_format(device_type, machine, weights) if dtype == "auto" else dtype
    free = machine.accelerator_bytes if device_type == "cuda" else machine.available_bytes
    allowed = min(free, memory) if memory is not None else free
    notes: list[str] = []
    needed = weights * BYTES_PER_WEIGHT[quantize or chosen_dtype] + WORKING_MEMORY_BYTES
    if needed > allowed and dtype == "auto" and chosen_dtype == "float32" and not quantize:
        smaller = weights * BYTES_PER_WEIGHT["bfloat16"] + WORKING_MEMORY_BYTES
        if smaller <= allowed:
            notes.append(
                f"--dtype bfloat16, to stay below {format_bytes(allowed)} (a little less exact"
                f"{'' if machine.native_bf16 else ', and slower on this processor'})"
            )
            chosen_dtype, needed = "bfloat16", smaller
    if needed > allowed:
        raise ModelTooLarge(
            f"{files.reference} needs about {format_bytes(needed)} in {quantize or chosen_dtype}; "
            f"{format_bytes(allowed)} may be used here",
            fix="take a smaller model or a quantised .gguf file"
            + (", or raise --memory" if memory is not None else "")
            + (", or add --quantize 4bit" if device_type == "cuda" and quantize != "4bit" else ""),
        )
    budget_tokens = CPU_BUDGET_TOKENS if device_type == "cpu" else ACCELERATOR_BUDGET_TOKENS
    return HfLoadPlan(chosen_device, chosen_dtype, quantize, budget_tokens, tuple(notes))


def choose_number_format(
    device: str, machine: Machine, parameters: int
) -> Literal["float32", "bfloat16"]:
    """The number format of a model on a device, if no other one is named."""
    if device.partition(":")[0] != "cpu":
        return "bfloat16"
    is_large = parameters >= FLOAT32_PARAMETERS
    return "bfloat16" if machine.native_bf16 and is_large else "float32"
