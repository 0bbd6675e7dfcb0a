"""Quantisation of GGUF files by llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medtask.errors import EngineError
from medtask.hardware import inspect_machine

# The numbers of llama.cpp's enumeration llama_ftype.
FLOAT_TYPES: Mapping[str, int] = {"f32": 0, "f16": 1, "bf16": 32}
QUANTIZED_TYPES: Mapping[str, int] = {
    "q8_0": 7,
    "q6_k": 18,
    "q5_k_m": 17,
    "q4_k_m": 15,
    "q4_0": 2,
}


def quantize_file(source: Path, target: Path, quantization: str) -> None:
    """Quantise a GGUF file of floating-point numbers.

    Raises:
        OSError: The target could not be written.
        EngineError: llama.cpp could not quantise the file.
    """
    from medtask.engines.llamacpp import dequantization

    file_type, threads = QUANTIZED_TYPES[quantization], inspect_machine().cores
    problem = dequantization.quantize_file(source, target, file_type, threads)
    if problem is not None:
        raise EngineError(
            f"llama.cpp could not quantise the model as {quantization}{problem}",
            fix="choose another quantisation, such as q8_0",
        )
