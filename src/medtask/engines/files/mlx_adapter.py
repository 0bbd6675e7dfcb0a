"""Adapters that mlx-lm trained: their settings, and the same adapter in PEFT's format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.files.model_files import (
    ADAPTER_CONFIG,
    MLX_ADAPTER_WEIGHTS,
    is_mlx_adapter,
    read_model_json,
)
from medtask.errors import EngineError, InputError

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = ("lora", "dora")
# Sizes of the base, which medtask writes into the config of an adapter. mlx-lm ignores them.
BASE_SIZES = ("hidden_size", "vocab_size", "num_hidden_layers")
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_EMBEDDING_PARTS = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}
_FIX = "fuse it with mlx_lm.fuse, and use the fused model"


def read_mlx_adapter(folder: Path) -> dict[str, Any]:
    """The settings of an adapter of mlx-lm.

    Raises:
        InputError: The folder does not hold such an adapter, or not a LoRA or DoRA adapter.
    """
    if not is_mlx_adapter(folder):
        raise InputError(
            f"{folder} holds no adapter of mlx-lm: {ADAPTER_CONFIG} or {MLX_ADAPTER_WEIGHTS} "
            "is missing",
            fix=(
                "name a folder that mlx_lm.lora wrote; adapters of PEFT are for the hf engine "
                "(leave mlx: out)"
            ),
        )
    config = read_model_json(folder / ADAPTER_CONFIG)
    kind, settings = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind not in _KINDS:
        raise InputError(
            f"{folder} holds weights of the type {kind}; only LoRA and DoRA adapters are read",
            fix=_FIX,
        )
    if (
        not isinstance(settings, dict)
        or not isinstance(config.get("num_layers"), int)
        or not all(isinstance(settings.get(name), int | float) for name in ("rank", "scale"))
    ):
        raise InputError(
            f"{folder / ADAPTER_CONFIG} is not a valid config of mlx-lm: num_layers, or the rank "
            "and scale of lora_parameters, are missing",
            fix="copy the adapter again",
        )
    return config


def check_base_sizes(folder: Path, base_config: Mapping[str, Any]) -> None:
    """Raise EngineError if an adapter names other sizes than those of the base's config."""
    config = read_model_json(folder / ADAPTER_CONFIG)
    text_config = base_config.get("text_config") or base_config
    differences = [
        f"{name} {config[name]} instead of {text_config[name]}"
        for name in BASE_SIZES
        if name in config and name in text_config and config[name] != text_config[name]
    ]
    if differences:
        raise make_misfit_error(folder, f"it was trained with {', '.join(differences)}")


def make_misfit_error(folder: Path, reason: str) -> EngineError:
    """The error for an adapter that was trained on another model."""
    base = read_model_json(folder / ADAPTER_CONFIG).get("model")
    return EngineError(
        f"the adapter {folder} does not fit this model: {reason}",
        fix=f"put it on the model {base or 'that it was trained with'}",
    )


@contextmanager
def open_as_peft(folder: Path) -> Iterator[Path]:
    """Yield an adapter's folder in PEFT's format: itself, or a temporary copy that is converted.

    Raises:
        InputError: The adapter cannot be converted.
    """
    if not is_mlx_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="medtask-") as name:
        convert_to_peft(folder, Path(name))
        yield Path(name)


def convert_to_peft(folder: Path, target: Path) -> None:
    """Write an adapter of mlx-lm as an adapter of PEFT into an existing folder.

    mlx-lm multiplies from the left, so that both matrices are transposed, and its scale is PEFT's
    alpha divided by the rank.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    config = read_mlx_adapter(folder)
    try:
        tensors = load_file(folder / MLX_ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise InputError(
            f"{folder / MLX_ADAPTER_WEIGHTS} is damaged: {error}", fix="copy the adapter again"
        ) from None
    converted: dict[str, Tensor] = {}
    modules: dict[str, None] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        names = _EMBEDDING_PARTS if module.endswith("embed_tokens") else _PARTS
        if part not in names or tensor.ndim > 2:
            raise InputError(f"{folder}: {name} has no place in an adapter of PEFT", fix=_FIX)
        modules[module] = None
        stored = tensor.T.contiguous() if tensor.ndim == 2 else tensor
        converted[f"base_model.model.{module}.{names[part]}"] = stored
    settings = config["lora_parameters"]
    peft_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.get("model"),
        "inference_mode": True,
        "r": int(settings["rank"]),
        "lora_alpha": float(settings["scale"]) * int(settings["rank"]),
        "lora_dropout": float(settings.get("dropout", 0.0)),
        "use_dora": config.get("fine_tune_type") == "dora",
        "target_modules": list(modules),
        "bias": "none",
    }
    save_file(converted, target / "adapter_model.safetensors", metadata={"format": "pt"})
    (target / ADAPTER_CONFIG).write_text(json.dumps(peft_config, indent=2) + "\n", encoding="utf-8")
