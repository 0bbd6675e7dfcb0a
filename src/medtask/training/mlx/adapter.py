"""Adapters of mlx-lm: added to a loaded model, stored in checkpoints, and written for a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from medtask.engines.files.mlx_adapter import BASE_SIZES
from medtask.engines.files.model_files import ADAPTER_CONFIG, MLX_ADAPTER_WEIGHTS
from medtask.training.recipe import Recipe


def add_mlx_adapter(model: Any, recipe: Recipe) -> dict[str, Any]:
    """Freeze a model, add an adapter to its last layers, and return the config of the adapter.

    The adapter is on all linear layers of the last ``recipe.layers`` layers, as mlx_lm.lora adds
    it.
    """
    config = {
        "fine_tune_type": "dora" if recipe.method == "dora" else "lora",
        "num_layers": min(recipe.layers or len(model.layers), len(model.layers)),
        "lora_parameters": {
            "rank": recipe.rank,
            "scale": recipe.lora_scale,
            "dropout": recipe.dropout,
        },
    }
    mx.random.seed(recipe.seed)
    model.freeze()
    linear_to_lora_layers(
        model,
        config["num_layers"],
        config["lora_parameters"],
        use_dora=recipe.method == "dora",
    )
    return config


@dataclass(frozen=True, slots=True)
class MlxAdapterWeights:
    """Saves and loads an adapter's matrices in checkpoints, under the file name of mlx-lm."""

    model: Any

    def save(self, folder: Path) -> None:
        weights: Any = dict(tree_flatten(self.model.trainable_parameters()))
        mx.save_safetensors(str(folder / MLX_ADAPTER_WEIGHTS), weights)

    def load(self, folder: Path) -> None:
        self.model.load_weights(str(folder / MLX_ADAPTER_WEIGHTS), strict=False)


def write_mlx_adapter(
    adapter_config: Mapping[str, Any],
    base: str,
    base_config: Mapping[str, Any],
    best_folder: Path,
    draft_folder: Path,
) -> None:
    """Write a folder of mlx-lm with the best state, and with the sizes of its base."""
    text_config = base_config.get("text_config") or base_config
    sizes = {name: text_config[name] for name in BASE_SIZES if name in text_config}
    content = {"model": base, **adapter_config, **sizes}
    (draft_folder / ADAPTER_CONFIG).write_text(
        json.dumps(content, indent=2) + "\n", encoding="utf-8"
    )
    shutil.copyfile(best_folder / MLX_ADAPTER_WEIGHTS, draft_folder / MLX_ADAPTER_WEIGHTS)
