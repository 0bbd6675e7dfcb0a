"""Trains a language model with mlx-lm on one or several tasks: an adapter, on Apple silicon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from medtask.engines.files.mlx_weights import is_quantized_by_mlx
from medtask.engines.files.model_files import locate_model, read_model_json
from medtask.engines.load_options import LoadOptions
from medtask.engines.mlx.engine import MlxEngine
from medtask.engines.mlx.load import load_mlx
from medtask.errors import UsageError
from medtask.hardware import inspect_machine
from medtask.training.checkpoints import require_best_folder
from medtask.training.language.base_model import check_language_base, resolve_base_reference
from medtask.training.language.batching import count_batches
from medtask.training.language.memory_plan import MemoryPlan, read_model_dimensions
from medtask.training.language.tokenized_data import (
    TokenizedTrainingData,
    describe_language_model,
    tokenize_training_data,
    validate_tasks,
)
from medtask.training.language.tokenized_example import TokenizedExample
from medtask.training.mlx.adapter import (
    MlxAdapterWeights,
    add_mlx_adapter,
    write_mlx_adapter,
)
from medtask.training.mlx.batches import BatchShape, build_batch, measure_shape
from medtask.training.mlx.loop import MlxLoop, run_mlx_loop
from medtask.training.mlx.loss import compute_loss
from medtask.training.mlx.memory_plan import MlxLimits, plan_mlx_memory
from medtask.training.recipe import Recipe
from medtask.training.training_context import MethodResult, TrainingContext, count_processes
from medtask.training.training_data import TrainingData
from medtask.training.training_plan import plan_training
from medtask.training.validation_metrics import ValidationResult


@dataclass(frozen=True, slots=True)
class _MlxTraining:
    """A loaded base with its data and settings."""

    training_data: Sequence[TrainingData]
    recipe: Recipe
    engine: MlxEngine
    base_config: dict[str, Any]
    tokenized: TokenizedTrainingData
    memory_plan: MemoryPlan
    shape: BatchShape


def fit_mlx(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train an adapter with mlx-lm's trainer, and save the best state in the draft folder.

    Raises:
        UsageError: The base cannot be trained by this method.
        ModelTooLarge: The training does not fit into memory.
        InputError: All rows are too long.
        EngineError: The model cannot be loaded or its training fails.
        StorageError: A file cannot be written.
    """
    check_mlx_recipe(recipe)
    training = _load_training(training_data, recipe, context)
    adapter_config = add_mlx_adapter(training.engine.runner.model, recipe)
    loop = _make_loop(training, context)
    steps = run_mlx_loop(loop)
    location = recipe.base.removeprefix("mlx:")
    write_mlx_adapter(
        adapter_config,
        resolve_base_reference(location),
        training.base_config,
        require_best_folder(context.work_folder),
        context.draft_folder,
    )
    facts = _collect_facts(training, loop, steps)
    training.engine.close()
    return MethodResult(
        describe_language_model(training_data, location, "mlx"),
        context.signals.number is not None,
        training.memory_plan.notes,
        facts,
    )


def check_mlx_recipe(recipe: Recipe) -> None:
    """Raise UsageError if mlx-lm cannot train the base with these settings."""
    check_language_base(recipe)
    if not recipe.spec.adapter:
        raise UsageError(
            f"--method {recipe.method} is not available for {recipe.base}: with mlx-lm, medtask "
            "trains adapters",
            fix="add --method lora, or leave mlx: out",
        )
    if recipe.device != "auto":
        raise UsageError(
            "mlx-lm chooses the device by itself", fix="leave --device out, or leave mlx: out"
        )
    if count_processes() > 1:
        raise UsageError(
            "a training with mlx-lm runs in one process",
            fix="start it without accelerate or torchrun",
        )


def check_quantized_base(recipe: Recipe, *, quantized: bool) -> None:
    """Raise UsageError for QLoRA on a base whose weights are not quantised."""
    if recipe.spec.quantize and not quantized:
        raise UsageError(
            f"{recipe.base} is not quantised, as --method qlora requires with mlx-lm",
            fix=(
                "quantise it first (`medtask export MODEL --to mlx --quant 4bit --out FOLDER`, "
                "then --base mlx:FOLDER), or add --method lora"
            ),
        )


def _load_training(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> _MlxTraining:
    context.observer.on_load(recipe.base)
    files = locate_model(recipe.base.removeprefix("mlx:"))
    check_quantized_base(recipe, quantized=is_quantized_by_mlx(files.path))
    config = read_model_json(files.path / "config.json")
    engine = load_mlx(recipe.base, LoadOptions(dtype=recipe.dtype, memory=recipe.memory))
    tokenized = tokenize_training_data(training_data, engine, recipe)
    memory_plan = _plan_memory(engine, config, recipe, tokenized)
    for note in (*memory_plan.notes, *tokenized.list_notes(recipe)):
        context.observer.on_note(note)
    shape = measure_shape(tokenized.train, memory_plan.pass_size)
    return _MlxTraining(training_data, recipe, engine, config, tokenized, memory_plan, shape)


def _plan_memory(
    engine: MlxEngine, config: dict[str, Any], recipe: Recipe, tokenized: TokenizedTrainingData
) -> MemoryPlan:
    leaves: Any = tree_flatten(engine.runner.model.parameters())
    weight_bytes = sum(weights.nbytes for _, weights in leaves)
    free = inspect_machine(accelerator=False).available_bytes + weight_bytes
    limits = MlxLimits(
        weight_bytes,
        4.0 if engine.info.identity["dtype"] == "float32" else 2.0,
        free if recipe.memory is None else min(free, recipe.memory),
        tokenized.max_length,
        max(len(example.gold_paths) for example in tokenized.train),
        engine.count_logits(),
    )
    text_config = SimpleNamespace(**(config.get("text_config") or config))
    dimensions = read_model_dimensions(text_config, sum(weights.size for _, weights in leaves))
    return plan_mlx_memory(dimensions, recipe, limits)


def _make_loop(training: _MlxTraining, context: TrainingContext) -> MlxLoop:
    recipe, tokenized = training.recipe, training.tokenized
    plan = plan_training(count_batches(tokenized.task_indices, recipe.batch), recipe)
    order = tokenized.order_batches(recipe.batch, plan.steps, recipe.seed)
    model = training.engine.runner.model
    return MlxLoop(
        recipe,
        context,
        plan,
        MlxAdapterWeights(model),
        partial(_validate, training),
        model,
        [[tokenized.train[row] for row in rows] for rows in order],
        training.shape,
        -(-recipe.batch // training.shape.rows),
        training.memory_plan.checkpointing,
    )


def _validate(training: _MlxTraining) -> ValidationResult:
    # The cached prefix was computed with earlier weights.
    training.engine.runner.clear_prefix()
    result = validate_tasks(
        training.training_data,
        training.tokenized,
        training.engine,
        partial(_compute_mean_loss, training),
    )
    training.engine.runner.clear_prefix()
    return result


def _compute_mean_loss(training: _MlxTraining, examples: Sequence[TokenizedExample]) -> float:
    """Mean loss of the answers, in nats per token."""
    rows = training.memory_plan.pass_size
    shape = measure_shape(examples, rows)
    losses = []
    for start in range(0, len(examples), rows):
        part = examples[start : start + rows]
        loss, _ = compute_loss(training.engine.runner.model, *build_batch(part, shape, 1.0))
        losses.append(loss.item())
    return float(np.sum(losses)) / len(examples)


def _collect_facts(training: _MlxTraining, loop: MlxLoop, steps: int) -> dict[str, object]:
    model = training.engine.runner.model
    trained: Any = tree_flatten(model.trainable_parameters())
    every: Any = tree_flatten(model.parameters())
    trained_weights = sum(weights.size for _, weights in trained)
    return {
        "trained_weights": trained_weights,
        "weights": sum(weights.size for _, weights in every) - trained_weights,
        "packed": False,
        "rows_per_pass": loop.shape.rows,
        "dtype": training.engine.info.identity["dtype"],
        "quantize": training.engine.info.identity["quantize"],
        "device": f"mlx {training.engine.info.device}",
        "peak_memory_bytes": mx.get_peak_memory(),
        "steps": steps,
        "base_identity": dict(training.engine.info.identity),
        "rows_too_long": training.tokenized.dropped_rows,
        "library": "mlx",
    }
