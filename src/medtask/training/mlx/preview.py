"""Previews a training with mlx-lm: its steps and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from medtask.engines.files.mlx_weights import is_quantized_by_mlx, require_mlx
from medtask.engines.files.model_files import locate_model, read_model_json
from medtask.engines.files.weights import count_parameters
from medtask.engines.mlx.load import is_on_cpu
from medtask.hardware import inspect_machine
from medtask.training.language.batching import count_steps
from medtask.training.language.memory_plan import read_model_dimensions
from medtask.training.mlx.fit import check_mlx_recipe, check_quantized_base
from medtask.training.mlx.memory_plan import MlxLimits, plan_mlx_memory
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData


def preview_mlx(training_data: Sequence[TrainingData], recipe: Recipe) -> list[str]:
    """Describe the training in lines, without reading the base's weights.

    Raises:
        ModelTooLarge: The training does not fit into memory.
        UsageError: The base cannot be trained.
    """
    require_mlx()
    check_mlx_recipe(recipe)
    files = locate_model(recipe.base.removeprefix("mlx:"))
    quantized = is_quantized_by_mlx(files.path)
    check_quantized_base(recipe, quantized=quantized)
    config = read_model_json(files.path / "config.json")
    text_config = config.get("text_config") or config
    weights = count_parameters(files)
    file_bytes = sum(path.stat().st_size for path in files.path.glob("*.safetensors"))
    in_float32 = recipe.dtype == "float32" or (recipe.dtype == "auto" and is_on_cpu())
    free = inspect_machine(accelerator=False).available_bytes
    limits = MlxLimits(
        weights * 4 if in_float32 and not quantized else file_bytes,
        4.0 if in_float32 else 2.0,
        free if recipe.memory is None else min(free, recipe.memory),
        recipe.row_tokens,
        max(len(example.prompt.branches) for data in training_data for example in data.train) or 1,
        int(text_config["vocab_size"]),
    )
    dimensions = read_model_dimensions(SimpleNamespace(**text_config), weights)
    plan = plan_mlx_memory(dimensions, recipe, limits)
    steps = count_steps(training_data, recipe)
    layers = f"the last {recipe.layers} layers" if recipe.layers else "all layers"
    return [
        f"{recipe.base} by {recipe.method} with mlx-lm: {steps:,} steps of {recipe.batch} rows, "
        f"rate {recipe.learning_rate:g}, {layers}",
        f"{plan.describe()}, for rows of up to {recipe.row_tokens:,} tokens",
        *plan.notes,
    ]
