"""Training of an encoder: all weights of a bidirectional model, and a new head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_bytes, format_name
from medtask.errors import InputError, ModelTooLarge, UsageError
from medtask.evaluation.baselines.classifier_search import compute_loss_and_accuracy
from medtask.hardware import choose_device, inspect_machine
from medtask.training.checkpoints import convert_storage_errors, require_best_folder
from medtask.training.encoder.base_model import (
    check_encoder_base,
    load_encoder_with_head,
    locate_encoder,
)
from medtask.training.language.batching import count_batches, order_batches
from medtask.training.recipe import Recipe
from medtask.training.targets import LabelTargets, build_label_targets
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData
from medtask.training.training_plan import TrainingLoop, plan_training
from medtask.training.validation_metrics import ValidationResult

if TYPE_CHECKING:
    from medtask.engines.files.model_files import ModelFiles
    from medtask.training.trainer import MedtaskTrainer

# Bytes per weight in training: itself, its gradient and AdamW's two moments, in float32.
BYTES_PER_WEIGHT = 16
# Bytes per token, layer and unit of width that the backward pass needs: 34 in 16 bits, without the
# attention scores, which fused attention does not keep (Korthikanti et al. 2022, arXiv 2205.05198,
# section 4.1).
BYTES_PER_TOKEN = 68


@dataclass(frozen=True, slots=True)
class _TokenizedTexts:
    """Texts as tokens, truncated to the model's maximum; ``truncated_rows`` counts longer ones."""

    tokens: tuple[tuple[int, ...], ...]
    truncated_rows: int


@dataclass(frozen=True, slots=True)
class _EncoderWeights:
    """All weights of a model in checkpoints."""

    model: Any

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_model

        save_model(self.model, str(folder / "state.safetensors"))

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_model

        load_model(self.model, folder / "state.safetensors", device=str(self.model.device))


@dataclass(frozen=True, slots=True)
class _EncoderTraining:
    """A loaded encoder with its data and settings."""

    recipe: Recipe
    targets: LabelTargets
    files: ModelFiles
    device: str
    model: Any
    tokenizer: Any
    row_tokens: int
    train: _TokenizedTexts
    validation: _TokenizedTexts

    @property
    def weight_count(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())


def fit_encoder(
    training_data: Sequence[TrainingData], recipe: Recipe, context: TrainingContext
) -> MethodResult:
    """Train all weights of an encoder and a new head, and save the best state in the draft folder.

    A sentence encoder (``minilm``) gets the head on its pooled vector, any other base the head of
    transformers' AutoModelForSequenceClassification. The loss is cross entropy for one label per
    row, and the mean binary cross entropy over labels for several.

    Raises:
        UsageError: The base is not an encoder, or `build_label_targets` rejects the data.
        InputError: The data cannot be used.
        ModelTooLarge: The model does not fit into memory.
        MissingExtra, ModelNotFound, EngineError: The base cannot be loaded.
        StorageError: A file cannot be written.
    """
    targets = build_label_targets(training_data, "encoder")
    if not targets.validation.texts:
        raise InputError(
            "an encoder needs validation rows to decide when to stop, and there are none",
            fix="give more rows with gold",
        )
    check_encoder_base(recipe)
    training = _load_training(targets, recipe, context)
    _check_memory(training)
    notes = _describe_truncation(training)
    for note in notes:
        context.observer.on_note(note)
    use_bfloat16 = _choose_bfloat16(recipe, training.device)
    trainer = _build_trainer(training, context, use_bfloat16)
    steps = _train(trainer, training, context.draft_folder)
    return MethodResult(
        targets.describe_model("encoder", training.files.reference),
        context.signals.number is not None,
        (*targets.notes, *notes),
        {
            **_collect_facts(training, steps, use_bfloat16),
            "epochs": recipe.count_epochs(trainer.loop.plan.epoch_steps),
        },
    )


def _load_training(
    targets: LabelTargets, recipe: Recipe, context: TrainingContext
) -> _EncoderTraining:
    files = locate_encoder(recipe.base)
    import transformers

    from medtask.similarity import find_max_tokens
    from medtask.training.trainer import enable_checkpointing

    context.observer.on_load(files.reference)
    device = choose_device(recipe.device, inspect_machine())
    transformers.set_seed(recipe.seed)
    model, tokenizer = load_encoder_with_head(files, targets, device)
    if recipe.checkpointing:
        enable_checkpointing(getattr(model, "body", model))
    limit = min(recipe.row_tokens, find_max_tokens(model, tokenizer))
    train, validation = (
        _tokenize(tokenizer, part.texts, limit) for part in (targets.train, targets.validation)
    )
    return _EncoderTraining(
        recipe, targets, files, device, model, tokenizer, limit, train, validation
    )


def _train(trainer: MedtaskTrainer, training: _EncoderTraining, draft_folder: Path) -> int:
    """Train, and save the best state; returns the number of steps."""
    from medtask.training.trainer import run_trainer

    run_trainer(trainer)
    trainer.loop.weights.load(require_best_folder(trainer.loop.context.work_folder))
    with convert_storage_errors(draft_folder):
        training.model.save_pretrained(draft_folder)
        training.tokenizer.save_pretrained(draft_folder)
    return int(trainer.state.global_step)


def _collect_facts(training: _EncoderTraining, steps: int, use_bfloat16: bool) -> dict[str, object]:
    import torch
    import transformers

    return {
        "weights": training.weight_count,
        "steps": steps,
        "dtype": "float32, products in bfloat16" if use_bfloat16 else "float32",
        "device": training.device,
        "threads": torch.get_num_threads(),
        "row_tokens": training.row_tokens,
        "rows_cut": training.train.truncated_rows,
        "base_revision": training.files.revision,
        "transformers": transformers.__version__,
    }


def _tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> _TokenizedTexts:
    options = {"return_attention_mask": False, "verbose": False}
    tokens = tokenizer(list(texts), truncation=False, **options)["input_ids"]
    long = [row for row, row_tokens in enumerate(tokens) if len(row_tokens) > limit]
    if long:
        truncated = tokenizer(
            [texts[row] for row in long], truncation=True, max_length=limit, **options
        )["input_ids"]
        for row, row_tokens in zip(long, truncated, strict=True):
            tokens[row] = row_tokens
    return _TokenizedTexts(tuple(map(tuple, tokens)), len(long))


def _describe_truncation(training: _EncoderTraining) -> tuple[str, ...]:
    parts = (training.train, training.validation)
    truncated = sum(part.truncated_rows for part in parts)
    if not truncated:
        return ()
    rows = sum(len(part.tokens) for part in parts)
    return (
        f"{truncated:,} of {rows:,} rows were truncated to {training.row_tokens:,} tokens for "
        "training; in a run the model refuses such rows unless the task says how to read them "
        "(`gate: too_long`)",
    )


def _check_memory(training: _EncoderTraining) -> None:
    """Raise ModelTooLarge if the weights and a batch of the longest rows do not fit into memory."""
    recipe, config, machine = training.recipe, training.model.config, inspect_machine()
    on_cpu = training.device == "cpu"
    free = machine.available_bytes if on_cpu else machine.accelerator_bytes
    allowed = min(free, recipe.memory) if recipe.memory is not None else free
    layers = int(getattr(config, "num_hidden_layers", 12))
    width = int(getattr(config, "hidden_size", 768))
    longest = max(map(len, training.train.tokens))
    # With checkpointing, one layer's activations and the inputs of all layers are kept.
    kept = BYTES_PER_TOKEN + 4 * layers if recipe.checkpointing else BYTES_PER_TOKEN * layers
    work = kept * width * recipe.batch * longest
    needed = training.weight_count * BYTES_PER_WEIGHT + work
    if needed > allowed:
        raise ModelTooLarge(
            f"training {format_name(training.files.reference)} takes about {format_bytes(needed)} "
            f"({format_bytes(work)} for {recipe.batch} rows of "
            f"{longest:,} tokens); {format_bytes(allowed)} may be used here",
            fix=(
                "lower --batch or --row-tokens, add --checkpointing, or choose a smaller encoder "
                "(minilm)"
            ),
        )


def _choose_bfloat16(recipe: Recipe, device: str) -> bool:
    """Whether products are computed in bfloat16; weights and sums stay in float32."""
    import torch

    if recipe.dtype == "float16":
        raise UsageError(
            "encoders are not trained in float16, in which small gradients vanish",
            fix="leave --dtype out",
        )
    return recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and device.startswith("cuda") and torch.cuda.is_bf16_supported()
    )


def _build_trainer(
    training: _EncoderTraining, context: TrainingContext, use_bfloat16: bool
) -> MedtaskTrainer:
    import torch

    from medtask.training.trainer import MedtaskTrainer, make_arguments

    recipe, tokens, targets = training.recipe, training.train.tokens, training.targets
    one_task = [0] * len(tokens)
    plan = plan_training(count_batches(one_task, recipe.batch), recipe)
    gold = targets.train.gold.astype(np.float32) if targets.several else targets.train.gold

    def collate_batch(items: Sequence[Sequence[int]]) -> dict[str, Any]:
        rows = list(items[0])  # an item is a whole batch
        padded = training.tokenizer.pad(
            {"input_ids": [list(tokens[row]) for row in rows]}, return_tensors="pt"
        )
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "labels": torch.as_tensor(gold[rows]),
        }

    def validate() -> ValidationResult:
        return ValidationResult(
            *compute_loss_and_accuracy(targets.validation.gold, _predict(training))
        )

    loop = TrainingLoop(recipe, context, plan, _EncoderWeights(training.model), validate)
    batches = order_batches(one_task, list(map(len, tokens)), recipe.batch, plan.steps, recipe.seed)
    return MedtaskTrainer(
        loop,
        lambda inputs: (len(inputs["labels"]), int(inputs["attention_mask"].sum())),
        model=training.model,
        args=make_arguments(loop, training.model.device.type, bf16=use_bfloat16),
        train_dataset=batches,
        data_collator=collate_batch,
    )


def _predict(training: _EncoderTraining) -> NDArray[np.float64]:
    """Probabilities of the validation rows [rows, labels], as the encoder engine computes them."""
    import torch

    from medtask.similarity import make_batches

    model, tokens = training.model.eval(), training.validation.tokens
    probabilities = np.zeros((len(tokens), model.config.num_labels))
    for indices in make_batches(list(map(len, tokens))):
        padded = training.tokenizer.pad(
            {"input_ids": [list(tokens[index]) for index in indices]}, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]
            ).logits.double()
        shares = logits.sigmoid() if training.targets.several else logits.softmax(dim=-1)
        probabilities[indices] = shares.cpu().numpy()
    return probabilities
