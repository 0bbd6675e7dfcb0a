"""Quantisation of GGUF files by llama.cpp."""

from __future__ import annotations

import ctypes
import errno
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

# The message of C++ streams; it has no number of the operating system.
_WRITE_ERROR = "iostream error"


def quantize_file(source: Path, target: Path, quantization: str) -> None:
    """Quantise a GGUF file of floating-point numbers.

    Raises:
        OSError: The target could not be written.
        EngineError: llama.cpp could not quantise the file.
    """
    import llama_cpp

    from medtask.engines.llamacpp.log import collect_log_errors, format_log_error

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = QUANTIZED_TYPES[quantization]
    parameters.nthread = inspect_machine().cores
    collect_log_errors()
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters)):
        problem = format_log_error()
        if _WRITE_ERROR in problem:
            raise OSError(errno.ENOSPC, "llama.cpp could not write all of it")
        raise EngineError(
            f"llama.cpp could not quantise the model as {quantization}{problem}",
            fix="choose another quantisation, such as q8_0",
        )
