"""Dequantises GGUF weights to float16, cached on disk, if there is enough memory.

llama.cpp's CPU kernels for many quantised formats are not faster for many tokens at once, and round
their inputs to 8 bits. In float16 the same weights are read about twice as fast in batches, and
with less rounding: the largest change of a probability by the shape of a batch falls from 0.05 to
0.001 (the built-in model, Q4_1, AVX2).
"""

from __future__ import annotations

import ctypes
import errno
from functools import partial
from pathlib import Path

import llama_cpp

from medtask.engines.files.unpacked_models import cache_unpacked, name_unpacked
from medtask.engines.llamacpp.log import collect_log_errors, format_log_error
from medtask.errors import EngineError

FLOAT16_BYTES = 2
# Of dequantised weights: with more, reading a single token is too slow
MAX_DEQUANTIZED_BYTES = 4_000_000_000
MEMORY_SHARE = 0.5  # of the allowed memory
# The message of C++ streams, which has no number of the operating system.
_WRITE_ERROR = "iostream error"
_QUANTIZED_BYTES_PER_WEIGHT = 1.9  # a file with more bytes per weight is not quantised


def should_dequantize(weights: int, file_bytes: int, allowed_bytes: int) -> bool:
    """Whether to dequantise a file with this number of weights; ``allowed_bytes`` is the memory
    that may be used.
    """
    return file_bytes < _QUANTIZED_BYTES_PER_WEIGHT * weights and weights * FLOAT16_BYTES <= min(
        MAX_DEQUANTIZED_BYTES, MEMORY_SHARE * allowed_bytes
    )


def dequantize_weights(path: Path) -> Path:
    """Return the path of the model in float16; cached by the file's path, size and time."""
    name = f"{name_unpacked(path, llama_cpp.__version__)}-float16.gguf"
    return cache_unpacked(name, partial(_dequantize, path))


def quantize_file(source: Path, target: Path, file_type: int, threads: int = 0) -> str | None:
    """Write a GGUF file in another number format.

    Args:
        source: The file to read.
        target: The file to write.
        file_type: A number of llama.cpp's enumeration llama_ftype.
        threads: The number of threads; 0 for llama.cpp's default.

    Returns:
        Why llama.cpp could not do it, to add to a sentence; None if it could.

    Raises:
        OSError: The target could not be written.
    """
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.allow_requantize = file_type, threads, True
    collect_log_errors()
    if not llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(settings)):
        return None
    problem = format_log_error()
    if _WRITE_ERROR in problem:
        raise OSError(errno.ENOSPC, "llama.cpp could not write all of it")
    return problem


def _dequantize(path: Path, target: Path) -> None:
    problem = quantize_file(path, target, llama_cpp.LLAMA_FTYPE_MOSTLY_F16)
    if problem is not None:
        raise EngineError(
            f"llama.cpp could not dequantise {path.name}{problem}",
            fix="fetch the file again; if it is intact, add --dtype file: its weights are "
            "then used as they are",
        )
    target.chmod(0o600)
