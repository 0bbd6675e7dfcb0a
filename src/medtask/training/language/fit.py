"""Trains a language model on one or several tasks: an adapter, or all of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medtask.hardware import inspect_machine
from medtask.training.checkpoints import TrainableWeights, require_best_folder
from medtask.training.language.base_model import (
    check_language_base,
    load_language_base,
    resolve_base_reference,
)
from medtask.training.language.batching import count_batches
from medtask.training.language.memory_plan import (
    MemoryLimits,
    MemoryPlan,
    plan_memory,
    read_model_dimensions,
)
from medtask.training.language.tokenized_data import (
    TokenizedTrainingData,
    describe_language_model,
    tokenize_training_data,
    validate_tasks,
)
from medtask.training.recipe import Recipe
from medtask.training.training_context import (
    MethodResult,
    TrainingContext,
    count_processes,
    is_main_process,
)
from medtask.training.training_data import TrainingData
from medtask.training.training_plan import TrainingLoop, plan_training
from medtask.training.validation_metrics import ValidationResult

if TYPE_CHECKING:
    from medtask.engines.hf.engine import HfEngine
    from medtask.engines.tokens.tokenizer import HfTokenizer
    from medtask.training.language.loss_model import LanguageLossModel, LanguageTrainer


@dataclass(frozen=True, slots=True)
class _LanguageTraining:
    """A loaded base with its data and settings; ``model`` is the base or PEFT's wrapper of it."""

    training_data: Sequence[TrainingData]
    recipe: Recipe
    engine: HfEngine
    tokenized: TokenizedTrainingData
    memory_plan: MemoryPlan
    model: Any
    loss_model: LanguageLossModel


def fit_language(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train a causal language model on one or several tasks, and save the best state in the draft.

    See loss.py for the losses and packing.py for the packing of rows.

    Raises:
        UsageError: The base cannot be trained.
        ModelTooLarge: The training does not fit into memory.
        InputError: All rows are too long.
        EngineError: The model cannot be loaded or its training fails.
        StorageError: A file cannot be written.
    """
    from medtask.training.trainer import run_trainer

    check_language_base(recipe)
    training = _load_training(training_data, recipe, context)
    trainer = _build_trainer(training, context)
    run_trainer(trainer)
    metadata = describe_language_model(training_data, recipe.base)
    if not is_main_process():
        return MethodResult(metadata)
    best_folder = require_best_folder(context.work_folder)
    _write_model(training, best_folder, context.draft_folder)
    facts = _collect_facts(training, int(trainer.state.global_step))
    training.engine.close()
    interrupted = context.signals.number is not None
    return MethodResult(metadata, interrupted, training.memory_plan.notes, facts)


def _load_training(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> _LanguageTraining:
    from transformers import set_seed

    from medtask.training.language.adapter import add_adapter
    from medtask.training.language.loss_model import LanguageLossModel
    from medtask.training.trainer import enable_checkpointing

    context.observer.on_load(recipe.base)
    engine = load_language_base(recipe)
    tokenized = tokenize_training_data(training_data, engine, recipe)
    memory_plan = _plan_memory(engine, recipe, tokenized)
    notes = list(memory_plan.notes)
    notes += tokenized.list_notes(recipe)
    for note in notes:
        context.observer.on_note(note)
    set_seed(recipe.seed)
    adapter = recipe.spec.adapter
    model = add_adapter(engine.model, recipe) if adapter else engine.model.requires_grad_(True)
    if memory_plan.checkpointing:
        enable_checkpointing(engine.model)
    loss_model = LanguageLossModel(
        model, engine.model, packed=engine.packed, share_prefix=recipe.pack
    )
    return _LanguageTraining(
        training_data, recipe, engine, tokenized, memory_plan, model, loss_model
    )


def _plan_memory(engine: HfEngine, recipe: Recipe, tokenized: TokenizedTrainingData) -> MemoryPlan:
    weights = sum(weight.numel() for weight in engine.model.parameters())
    machine = inspect_machine()
    device = str(engine.model.device)
    free = (
        machine.accelerator_bytes
        if device.startswith("cuda")
        else machine.available_bytes + int(engine.model.get_memory_footprint())
    )
    limits = MemoryLimits(
        recipe.spec.quantize or str(engine.model.dtype).removeprefix("torch."),
        device,
        min(free, recipe.memory) if recipe.memory is not None else free,
        tokenized.max_length,
    )
    return plan_memory(
        read_model_dimensions(engine.model.config.get_text_config(), weights), recipe, limits
    )


def _validate(training: _LanguageTraining) -> ValidationResult:
    from medtask.training.language.loss_model import compute_mean_answer_loss

    training.loss_model.eval()
    # The cached prefix was computed with earlier weights.
    training.engine.runner.clear_prefix()
    return validate_tasks(
        training.training_data,
        training.tokenized,
        training.engine,
        lambda examples: compute_mean_answer_loss(
            training.loss_model, examples, training.memory_plan.pass_size
        ),
    )


def _build_trainer(training: _LanguageTraining, context: TrainingContext) -> LanguageTrainer:
    from medtask.training.language.adapter import AdapterWeights, FullWeights
    from medtask.training.language.loss_model import BatchDataset, LanguageTrainer, unwrap_batch
    from medtask.training.trainer import make_arguments

    recipe, engine, tokenized = training.recipe, training.engine, training.tokenized
    rows_per_step = -(-recipe.batch // count_processes())
    batch_count = count_batches(tokenized.task_indices, rows_per_step)
    plan = plan_training(-(-batch_count // count_processes()), recipe)
    weights: TrainableWeights = (
        AdapterWeights(training.model) if recipe.spec.adapter else FullWeights(engine.model)
    )
    loop = TrainingLoop(recipe, context, plan, weights, lambda: _validate(training))
    batches = tokenized.order_batches(rows_per_step, plan.steps * count_processes(), recipe.seed)
    optimizer = "paged_adamw_32bit" if recipe.spec.quantize else "adamw_torch_fused"
    return LanguageTrainer(
        loop,
        tokenized.train,
        training.memory_plan.pass_size,
        model=training.loss_model,
        args=make_arguments(loop, engine.model.device.type, optimizer=optimizer),
        train_dataset=BatchDataset(batches),
        data_collator=unwrap_batch,
    )


def _write_model(training: _LanguageTraining, best_folder: Path, draft_folder: Path) -> None:
    from medtask.training.language.adapter import write_adapter, write_full_model

    recipe = training.recipe
    if recipe.spec.adapter:
        base = resolve_base_reference(recipe.base)
        write_adapter(training.model, base, best_folder, draft_folder)
    else:
        tokenizer = cast("HfTokenizer", training.engine.chat.tokenizer).tokenizer
        write_full_model(best_folder, draft_folder, tokenizer)


def _collect_facts(training: _LanguageTraining, steps: int) -> dict[str, object]:
    import torch

    model, parameters = training.engine.model, list(training.loss_model.parameters())
    return {
        "trained_weights": sum(weight.numel() for weight in parameters if weight.requires_grad),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "packed": training.engine.packed and training.recipe.pack,
        "pack_tokens": training.memory_plan.pass_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "base_identity": dict(training.engine.info.identity),
        "rows_too_long": training.tokenized.dropped_rows,
    }
