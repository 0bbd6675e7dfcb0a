"""Training a language model on a task: an adapter, or all of its weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.engines.load_options import LoadOptions
from medtask.engines.model_metadata import ModelMetadata, PhiStatus
from medtask.engines.registry import choose_engine
from medtask.errors import InputError, UsageError
from medtask.hardware import inspect_machine
from medtask.tasks.task import Fields, FreeText
from medtask.training.recipe import Recipe
from medtask.training.training_context import MethodResult, TrainingContext, is_main_process
from medtask.training.training_data import TrainingData, TrainingExample, determine_phi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medtask.engines.hf.engine import HfEngine
    from medtask.engines.tokens.tokenizer import HfTokenizer
    from medtask.training.language.memory_plan import MemoryPlan
    from medtask.training.language.tokenized_example import TokenizedExample
    from medtask.training.trainer import TrainableWeights, TrainingPlan
    from medtask.training.validation_metrics import ValidationResult

# Rows that a validation in the middle of a training looks at, of all tasks together; the finished
# model is measured on all.
MAX_VALIDATION_ROWS = 400


@dataclass(frozen=True, slots=True)
class TokenizedTrainingData:
    """Material as a model's tokens. ``task_indices``: of which material each passage of
    ``train`` is; ``dropped_rows``: rows that were too long.
    """

    train: tuple[TokenizedExample, ...]
    task_indices: tuple[int, ...]
    validation: tuple[tuple[TrainingExample, ...], ...]
    validation_tokenized: tuple[tuple[TokenizedExample, ...], ...]
    dropped_rows: int

    @property
    def max_length(self) -> int:
        return max(example.max_length for example in chain(self.train, *self.validation_tokenized))


def fit_language(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train a causal language model of transformers on the lessons of one task, or of several
    together.

    What is learnt see loss.py, how rows are read pack.py. UsageError for a base that cannot be
    trained, TooBig for one that does not fit, InputError where no row does, EngineError,
    StorageError.
    """
    check_language_base(recipe)
    import torch
    from transformers import set_seed

    from medtask.training.language.adapter import AdapterWeights, FullWeights, add_adapter
    from medtask.training.language.batching import count_batches
    from medtask.training.language.loss_model import LanguageLossModel
    from medtask.training.trainer import (
        find_best_folder,
        find_checkpoint,
        plan_training,
        run_trainer,
    )

    context.observer.on_load(recipe.base)
    engine = _load(recipe)
    tokenized = _tokenize_training_data(training_data, engine, recipe)
    plan = _plan(engine, recipe, tokenized)
    for note in (*plan.notes, *_describe_dropped_rows(tokenized, recipe)):
        context.observer.on_note(note)
    set_seed(recipe.seed)
    full = recipe.method == "full"
    model = engine.model.requires_grad_(True) if full else add_adapter(engine.model, recipe)
    if plan.checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # its newer name is not in every version that we take
            engine.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
    weights: TrainableWeights = FullWeights(engine.model) if full else AdapterWeights(model)
    loss_model = LanguageLossModel(
        model, engine.model, packed=engine.packed, share_prefix=recipe.pack
    )
    rows_per_step = -(-recipe.batch // _count_processes())
    training_plan = plan_training(
        -(-count_batches(tokenized.task_indices, rows_per_step) // _count_processes()), recipe
    )
    trainer = _build_trainer(
        loss_model,
        engine,
        training_data,
        recipe,
        context,
        tokenized,
        plan,
        training_plan,
        weights,
        rows_per_step,
    )
    run_trainer(trainer, find_checkpoint(context.work_folder))
    if not is_main_process():
        return MethodResult(_describe_model(training_data, recipe))
    best_folder = find_best_folder(context.work_folder)
    assert best_folder is not None, "a training begins with a validation"
    _write(engine, model, recipe, best_folder, context.draft_folder)
    trained = sum(weight.numel() for weight in loss_model.parameters() if weight.requires_grad)
    facts = {
        "trained_weights": trained,
        "weights": sum(weight.numel() for weight in engine.model.parameters()),
        "packed": engine.packed and recipe.pack,
        "pack_tokens": plan.pack_tokens,
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "steps": trainer.state.global_step,
        "base_identity": dict(engine.info.identity),
        "rows_too_long": tokenized.dropped_rows,
    }
    engine.close()
    return MethodResult(
        _describe_model(training_data, recipe),
        context.signals.number is not None,
        tuple(plan.notes),
        facts,
    )


def check_language_base(recipe: Recipe) -> None:
    """UsageError for a base that has no weights here that could be trained."""
    if len(recipe.bases) != 1:
        raise UsageError(
            f"--method {recipe.method} takes one base, and {len(recipe.bases)} are named",
            fix="name it with --base, once",
        )
    name, spec = recipe.base, choose_engine(recipe.base).spec
    path = Path(name.removeprefix("hf:")).expanduser()
    if path.suffix == ".gguf":
        fix = (
            "name the model that the file was made from (org/name of the Hub, or a folder with "
            "safetensors)"
        )
        raise UsageError(
            f"{name} cannot be trained: a GGUF file holds weights that were rounded for answering",
            fix=fix,
        )
    is_language_model = spec.traits.family in ("language", "none")
    # Without transformers llamacpp reads the built-in model: the loader reports what is missing.
    if is_language_model and not spec.traits.trainable and name != BUILT_IN_MODEL:
        fix = "name a model on this machine: org/name, a folder, or smollm2-135m"
        raise UsageError(
            f"{name} cannot be trained: the {spec.name} engine cannot train weights",
            fix=fix,
        )
    if not is_language_model:
        fix = (
            "add --method encoder, or name another base"
            if spec.traits.family == "encoder"
            else "name a language model with --base"
        )
        raise UsageError(f"{name} is not a language model", fix=fix)
    if (path / "adapter_config.json").is_file():
        fix = (
            "name the adapter's own base, or merge the two first (PEFT's merge_and_unload) and "
            "name the folder of that"
        )
        raise UsageError(f"{name} is an adapter already, and adapters are not stacked", fix=fix)


def _load(recipe: Recipe) -> HfEngine:
    from medtask.engines.registry import load_model

    options = LoadOptions(
        dtype=recipe.dtype,
        device=_choose_device(recipe),
        quantize="4bit" if recipe.method == "qlora" else None,
        memory=recipe.memory,
    )
    engine = load_model(recipe.base, options)
    return cast("HfEngine", engine)


def _choose_device(recipe: Recipe) -> str:
    """Of several processes each takes the GPU of its number."""
    index = os.environ.get("LOCAL_RANK")
    several = (
        index is not None
        and recipe.device in ("auto", "cuda")
        and inspect_machine().accelerator == "cuda"
    )
    return f"cuda:{index}" if several else recipe.device


def _count_processes() -> int:
    """How many processes train together (accelerate launch, torchrun)."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")))


def _tokenize_training_data(
    training_data: Sequence[TrainingData], engine: HfEngine, recipe: Recipe
) -> TokenizedTrainingData:
    from medtask.training.language.tokenized_example import tokenize_examples

    most = min(recipe.row_tokens, engine.max_input_tokens)
    train: list[TokenizedExample] = []
    tasks: list[int] = []
    kept: list[tuple[TrainingExample, ...]] = []
    passages: list[tuple[TokenizedExample, ...]] = []
    cut = 0
    share = max(1, MAX_VALIDATION_ROWS // len(training_data))
    for index, data in enumerate(training_data):
        found = tokenize_examples(data.task, engine.chat, data.train)
        fitting = [passage for passage in found if passage.max_length <= most]
        cut += len(found) - len(fitting)
        train += fitting
        tasks += [index] * len(fitting)
        examples = data.validation[:share]
        checks = tokenize_examples(data.task, engine.chat, examples)
        pairs = [
            (example, one)
            for example, one in zip(examples, checks, strict=True)
            if one.max_length <= most
        ]
        cut += len(examples) - len(pairs)
        kept.append(tuple(example for example, _ in pairs))
        passages.append(tuple(one for _, one in pairs))
    if not train or not all(kept):
        raise InputError(
            f"no row {'to learn from' if not train else 'to validate by'} "
            f"fits into {most:,} tokens",
            fix=(
                "raise --row-tokens, shorten the instruction or the examples, or choose a model "
                "with a larger context"
            ),
        )
    return TokenizedTrainingData(tuple(train), tuple(tasks), tuple(kept), tuple(passages), cut)


def _describe_dropped_rows(tokenized: TokenizedTrainingData, recipe: Recipe) -> Iterator[str]:
    if tokenized.dropped_rows:
        yield (
            f"{tokenized.dropped_rows:,} rows of more than {recipe.row_tokens:,} tokens, or more "
            "than the "
            "model reads, are left out (--row-tokens)"
        )


def _plan(engine: HfEngine, recipe: Recipe, tokenized: TokenizedTrainingData) -> MemoryPlan:
    from medtask.training.language.memory_plan import plan_memory, read_model_dimensions

    weights = sum(weight.numel() for weight in engine.model.parameters())
    layout = read_model_dimensions(engine.model.config, weights)
    machine = inspect_machine()
    device = str(engine.model.device)
    free = (
        machine.accelerator_bytes
        if device.startswith("cuda")
        else machine.available_bytes + int(engine.model.get_memory_footprint())
    )
    allowed = min(free, recipe.memory) if recipe.memory is not None else free
    number = "4bit" if recipe.method == "qlora" else str(engine.model.dtype).removeprefix("torch.")
    return plan_memory(
        layout,
        recipe,
        weight_format=number,
        device=device,
        allowed_bytes=allowed,
        max_row_tokens=tokenized.max_length,
    )


def _build_trainer(
    loss_model: Any,
    engine: HfEngine,
    training_data: Sequence[TrainingData],
    recipe: Recipe,
    context: TrainingContext,
    tokenized: TokenizedTrainingData,
    memory_plan: MemoryPlan,
    training_plan: TrainingPlan,
    weights: TrainableWeights,
    rows_per_step: int,
) -> Any:
    """The Tutor of this training."""
    from medtask.training.language.batching import order_batches
    from medtask.training.language.loss_model import (
        BatchDataset,
        LanguageTrainer,
        compute_mean_answer_loss,
        unwrap_batch,
    )
    from medtask.training.trainer import make_arguments
    from medtask.training.validation_metrics import (
        ValidationResult,
        combine_validation_results,
        validate_examples,
    )

    def validate() -> ValidationResult:
        loss_model.eval()
        results = []
        for data, examples, passages in zip(
            training_data, tokenized.validation, tokenized.validation_tokenized, strict=True
        ):
            if isinstance(data.task.answer_spec, FreeText | Fields):
                found = ValidationResult(
                    compute_mean_answer_loss(loss_model, passages, memory_plan.pack_tokens)
                )
            else:
                # what was kept of a shared prefix is what the weights made of it before
                engine.runner.prefix_tokens = ()
                found = validate_examples(data.task, engine, examples)
            results.append((len(examples), found))
        return combine_validation_results(results)

    lengths = [example.max_length for example in tokenized.train]
    batches = order_batches(
        tokenized.task_indices,
        lengths,
        rows_per_step,
        training_plan.steps * _count_processes(),
        recipe.seed,
    )
    # Items are taken in their order: chance has done its work in schedule.py, where it can be
    # repeated.
    more: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
    }
    if recipe.method == "qlora":
        more["optimizer"] = "paged_adamw_32bit"
    arguments = make_arguments(
        recipe, training_plan, context, device=engine.model.device.type, **more
    )
    return LanguageTrainer(
        model=loss_model,
        args=arguments,
        train_dataset=BatchDataset(batches),
        data_collator=unwrap_batch,
        tokenized_examples=tokenized.train,
        pack_tokens=memory_plan.pack_tokens,
        context=context,
        training_plan=training_plan,
        weights=weights,
        validate=validate,
        patience=recipe.patience * recipe.validations,
    )


def _write(
    engine: HfEngine, model: Any, recipe: Recipe, best_folder: Path, draft_folder: Path
) -> None:
    from medtask.training.language.adapter import write_adapter, write_full_model

    if recipe.method == "full":
        write_full_model(
            best_folder, draft_folder, cast("HfTokenizer", engine.chat.tokenizer).tokenizer
        )
    else:
        write_adapter(model, resolve_base_reference(recipe.base), best_folder, draft_folder)


def _describe_model(training_data: Sequence[TrainingData], recipe: Recipe) -> ModelMetadata:
    task = training_data[0].task
    phi_values = {determine_phi(data.task) for data in training_data}
    phi: PhiStatus = "yes" if "yes" in phi_values else "no" if phi_values == {"no"} else "unknown"
    fingerprint = task.fingerprint if len(training_data) == 1 else ""
    return ModelMetadata(
        "hf",
        task.kind,
        (),
        base=resolve_base_reference(recipe.base),
        task_fingerprint=fingerprint,
        phi=phi,
    )


def resolve_base_reference(reference: str) -> str:
    """A base's reference as it is to stand in a model's folder: a folder's by its whole path, since
    it is read from anywhere.
    """
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.is_dir() else reference
