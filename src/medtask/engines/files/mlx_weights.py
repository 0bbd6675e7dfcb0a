"""Full weights of models that mlx-lm has quantised, cached on disk for other libraries."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.engines.files.model_files import ModelFiles, read_model_json
from medtask.engines.files.unpacked_models import cache_unpacked
from medtask.engines.files.weights import hash_weights
from medtask.errors import MissingExtra

# The message of mlx, which has no number of the operating system.
_WRITE_ERROR = "Unable to write"


def require_mlx() -> None:
    """Raise MissingExtra if mlx-lm is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("mlx", "mlx_lm")):
        raise MissingExtra("mlx-lm is not installed here", fix="pip install 'medtask[mlx]'")


def with_full_weights(files: ModelFiles) -> ModelFiles:
    """The files, with dequantised weights in place of weights that mlx-lm has quantised.

    Raises:
        MissingExtra: mlx-lm, which dequantises them, is not installed.
        StorageError: The cache cannot be written.
    """
    if files.is_gguf or not is_quantized_by_mlx(files.path):
        return files
    return replace(files, path=dequantize_mlx(files.path))


def is_quantized_by_mlx(folder: Path) -> bool:
    """Whether mlx-lm has quantised a model; other libraries name their method in the config."""
    config = read_model_json(folder / "config.json")
    quantization = config.get("quantization")
    return isinstance(quantization, dict) and "quant_method" not in quantization


def dequantize_mlx(folder: Path) -> Path:
    """A cached folder with the dequantised model, which transformers can read."""
    try:
        require_mlx()
    except MissingExtra as error:
        raise MissingExtra(f"{folder} is quantised by mlx-lm: {error}", fix=error.fix) from None
    key = hashlib.sha256(hash_weights(folder).encode()).hexdigest()[:16]
    name = f"{folder.resolve().name}-{key}"
    return cache_unpacked(name, lambda path: convert_with_mlx(folder, path, dequantize=True))


def convert_with_mlx(source: Path, target: Path, **settings: Any) -> None:
    """Convert a model with mlx-lm, without its messages.

    Raises:
        OSError: The target could not be written.
        ValueError: mlx-lm does not know the architecture.
    """
    from mlx_lm.convert import convert

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            convert(str(source), str(target), **settings)
    except RuntimeError as error:
        if _WRITE_ERROR not in str(error):
            raise
        raise OSError(errno.ENOSPC, "mlx could not write all of it") from error
