"""Full weights of models that mlx-lm has quantised, cached on disk for other libraries."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

from medtask.engines.files.model_files import ModelFiles, read_model_json
from medtask.engines.files.unpacked_models import (
    find_models_folder,
    make_unpacking_folder,
    publish_unpacked,
)
from medtask.engines.files.weights import hash_weights
from medtask.errors import MissingExtra

_MARKER = "unpacked.json"


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
    models = find_models_folder()
    key = hashlib.sha256(hash_weights(folder).encode()).hexdigest()[:16]
    cached = models / f"{folder.resolve().name}-{key}"
    if (cached / _MARKER).is_file():
        return cached
    temporary = make_unpacking_folder(models)
    try:
        _convert(folder, temporary / "model")
        publish_unpacked(temporary / "model", cached)
    except OSError:
        if not (cached / _MARKER).is_file():  # created by another process
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return cached


def _convert(folder: Path, target: Path) -> None:
    from mlx_lm.convert import convert

    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(folder), str(target), dequantize=True)
    (target / _MARKER).write_text(json.dumps({"source": str(folder)}), encoding="utf-8")
