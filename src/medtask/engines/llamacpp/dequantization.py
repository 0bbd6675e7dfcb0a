"""Dequantises GGUF weights to float16, cached on disk, if there is enough memory.

llama.cpp's CPU kernels for many quantised formats are not faster for many tokens at once, and round
their inputs to 8 bits. In float16 the same weights are read about twice as fast in batches, and
with less rounding: the largest change of a probability by the shape of a batch falls from 0.05 to
0.001 (the built-in model, Q4_1, AVX2).
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
from pathlib import Path

import llama_cpp

from medtask.engines.files.unpacked_models import (
    find_models_folder,
    make_unpacking_folder,
    publish_unpacked,
)
from medtask.engines.llamacpp.log import format_log_error
from medtask.errors import EngineError, StorageError

FLOAT16_BYTES = 2
# Of dequantised weights: with more, reading a single token is too slow
MAX_DEQUANTIZED_BYTES = 4_000_000_000
MEMORY_SHARE = 0.5  # of the allowed memory
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
    file_stat = path.stat()
    key = hashlib.sha256(
        f"{path.resolve()}|{file_stat.st_size}|{file_stat.st_mtime_ns}|{llama_cpp.__version__}".encode()
    ).hexdigest()
    models = find_models_folder()
    cached_file = models / f"{path.stem}-{key[:16]}-float16.gguf"
    if cached_file.is_file():
        return cached_file
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True
    folder = make_unpacking_folder(models)
    try:
        temporary_file = folder / "model.gguf"
        code = llama_cpp.llama_model_quantize(
            str(path).encode(), str(temporary_file).encode(), ctypes.byref(settings)
        )
        if code != 0:
            raise EngineError(
                f"llama.cpp could not dequantise {path.name}{format_log_error()}",
                fix="fetch the file again; if it is intact, add --dtype file: its weights are "
                "then used as they are",
            )
        temporary_file.chmod(0o600)
        publish_unpacked(temporary_file, cached_file)
    except OSError as error:
        fix = "set XDG_CACHE_HOME to a folder with room, or add --dtype file"
        raise StorageError(f"{models} cannot be written ({error.strerror})", fix=fix) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return cached_file
