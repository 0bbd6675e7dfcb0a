"""Export as a folder for mlx-lm on Apple silicon, converted and quantised by mlx-lm itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtask.engines.base import Engine
from medtask.engines.files.mlx_weights import convert_with_mlx, require_mlx
from medtask.engines.files.model_files import read_model_json
from medtask.engines.mlx.load import translate_config
from medtask.engines.registry import load_model
from medtask.errors import UsageError
from medtask.exporting.merged import LICENCE_PATTERNS, copy_model_files, write_merged
from medtask.exporting.source import CausalModel
from medtask.exporting.targets import ExportRequest
from medtask.privacy import block_network

QUANTIZED_BITS: Mapping[str, int] = {"8bit": 8, "4bit": 4}
FLOAT_DTYPES: Mapping[str, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# Weights of a row that share a scale. Smaller groups are more exact and take more memory.
_GROUP_SIZES = (64, 32)
# mlx-lm drops them, or takes them from generation_config.json.
_CHANGED_KEYS = frozenset(
    {"_name_or_path", "vision_config", "eos_token_id", "quantization", "quantization_config"}
)


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    require_mlx()
    source, converted = draft.with_name("source"), draft.with_name("converted")
    for folder in (source, converted):  # of an export that was killed
        shutil.rmtree(folder, ignore_errors=True)
    with CausalModel(request.source) as model:
        source.mkdir(mode=0o700)
        _write_source(model, source)
        config = model.config.get("text_config") or model.config
        _convert(source, converted, request.quantization, config)
    shutil.rmtree(source)
    for path in converted.iterdir():
        path.replace(draft / path.name)
    converted.rmdir()
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: the config, whose wrong values may hardly change an answer."""
    with CausalModel(request.source) as model:
        expected = _complete_config(model.config)
    found = read_model_json(draft / "config.json")
    problems = [
        f"{key} is {found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if key not in _CHANGED_KEYS and found.get(key) != value
    ]
    bits = QUANTIZED_BITS.get(request.quantization)
    if (written := (found.get("quantization") or {}).get("bits")) != bits:
        problems.append(f"weights have {written} bits instead of {bits}")
    return problems


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`: in float32 on a CPU, else as the weights are stored."""
    return load_model(f"mlx:{draft}")


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`."""
    return (f"on Apple silicon: --model mlx:{path}, or mlx_lm.generate --model {path}",)


def _write_source(model: CausalModel, folder: Path) -> None:
    """Write the merged model with a config that mlx-lm reads completely."""
    if model.adapter is not None:
        write_merged(model, folder)
    else:
        for name in model.weight_files:
            (folder / name).symlink_to((model.folder / name).resolve())
    model.config |= _complete_config(model.config)
    copy_model_files(model, folder)


def _complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**config, **translate_config(config)}
    except ValueError as error:
        raise UsageError(
            f"mlx-lm cannot read this model: {error}", fix="export it --to gguf"
        ) from None


def _convert(source: Path, target: Path, quantization: str, config: Mapping[str, Any]) -> None:
    """Convert a folder of transformers with mlx-lm.

    Raises:
        UsageError: mlx-lm does not know the architecture, or cannot quantise the model.
    """
    bits = QUANTIZED_BITS.get(quantization)
    # Scales of quantised weights, and all other weights, have 16 bits.
    stored = "bfloat16" if config.get("dtype") == "bfloat16" else "float16"
    try:
        with block_network():
            convert_with_mlx(
                source,
                target,
                quantize=bits is not None,
                q_bits=bits,
                q_group_size=None if bits is None else _choose_group_size(config),
                dtype=FLOAT_DTYPES.get(quantization, stored),
            )
    except ValueError as error:
        raise UsageError(
            f"mlx-lm cannot convert this model: {error}",
            fix="export it --to merged or --to gguf, or update mlx-lm",
        ) from error
    for pattern in LICENCE_PATTERNS:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def _choose_group_size(config: Mapping[str, Any]) -> int:
    # mlx-lm leaves matrices whose rows are not made of whole groups unquantised, without a message.
    width = int(config["hidden_size"])
    for size in _GROUP_SIZES:
        if width % size == 0:
            return size
    raise UsageError(
        f"mlx-lm cannot quantise this model: its hidden size, {width}, is no multiple of 32",
        fix="leave the weights unquantised: --quant f16",
    )
