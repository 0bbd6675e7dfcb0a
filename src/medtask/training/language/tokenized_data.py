"""The rows of all tasks as tokens, and the metadata of the model that is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from medtask.engines.metadata_schema import EngineName
from medtask.engines.model_metadata import ModelMetadata
from medtask.engines.packed_engine import PackedEngine
from medtask.errors import InputError
from medtask.training.language.base_model import resolve_base_reference
from medtask.training.language.batching import order_batches
from medtask.training.language.tokenized_example import TokenizedExample, tokenize_examples
from medtask.training.recipe import Recipe
from medtask.training.training_data import (
    TrainingData,
    TrainingExample,
    determine_model_phi,
    sample_examples,
)
from medtask.training.validation_metrics import (
    ValidationResult,
    combine_validation_results,
    validate_examples,
)

# Maximum number of rows, of all tasks together, in a validation during training. The final model is
# evaluated on all validation rows.
MAX_VALIDATION_ROWS = 400


@dataclass(frozen=True, slots=True)
class TokenizedTrainingData:
    """Training data as tokens.

    Attributes:
        train: The training rows of all tasks.
        task_indices: The task of each row of ``train``.
        validation: The validation rows of each task.
        validation_tokenized: The validation rows of each task as tokens.
        dropped_rows: Number of rows that were too long.
    """

    train: tuple[TokenizedExample, ...]
    task_indices: tuple[int, ...]
    validation: tuple[tuple[TrainingExample, ...], ...]
    validation_tokenized: tuple[tuple[TokenizedExample, ...], ...]
    dropped_rows: int

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""
        return max(example.max_length for example in chain(self.train, *self.validation_tokenized))

    def order_batches(self, rows_per_batch: int, batches: int, seed: int) -> list[list[int]]:
        """The training rows (indices) of each batch; see `order_batches`."""
        lengths = [example.max_length for example in self.train]
        return order_batches(self.task_indices, lengths, rows_per_batch, batches, seed)

    def list_notes(self, recipe: Recipe) -> list[str]:
        """Notes for the user before training."""
        if not self.dropped_rows:
            return []
        return [
            f"{self.dropped_rows:,} rows are longer than {recipe.row_tokens:,} tokens, or than the "
            "model reads, and were left out (--row-tokens)"
        ]


def tokenize_training_data(
    training_data: Sequence[TrainingData], engine: PackedEngine, recipe: Recipe
) -> TokenizedTrainingData:
    """Tokenize the rows of all tasks; rows that are longer than ``recipe.row_tokens`` are left out.

    Raises:
        InputError: All rows are too long.
    """
    max_tokens = min(recipe.row_tokens, engine.max_input_tokens)
    validation_rows = max(1, MAX_VALIDATION_ROWS // len(training_data))
    train: list[TokenizedExample] = []
    task_indices: list[int] = []
    validation: list[tuple[TrainingExample, ...]] = []
    validation_tokenized: list[tuple[TokenizedExample, ...]] = []
    dropped = 0
    for index, data in enumerate(training_data):
        tokenized = tokenize_examples(data.task, engine.chat, (*data.train, *data.injected))
        fitting = [example for example in tokenized if example.max_length <= max_tokens]
        train += fitting
        task_indices += [index] * len(fitting)
        rows = sample_examples(data.validation, validation_rows, recipe.seed)
        pairs = [
            (row, example)
            for row, example in zip(
                rows, tokenize_examples(data.task, engine.chat, rows), strict=True
            )
            if example.max_length <= max_tokens
        ]
        validation.append(tuple(row for row, _ in pairs))
        validation_tokenized.append(tuple(example for _, example in pairs))
        dropped += len(tokenized) - len(fitting) + len(rows) - len(pairs)
    if not train or not all(validation):
        raise InputError(
            f"no {'validation' if train else 'training'} row fits into {max_tokens:,} tokens",
            fix=(
                "raise --row-tokens, shorten the instruction or the examples, or choose a model "
                "with a larger context"
            ),
        )
    return TokenizedTrainingData(
        tuple(train), tuple(task_indices), tuple(validation), tuple(validation_tokenized), dropped
    )


def validate_tasks(
    training_data: Sequence[TrainingData],
    tokenized: TokenizedTrainingData,
    engine: PackedEngine,
    compute_mean_loss: Callable[[Sequence[TokenizedExample]], float],
) -> ValidationResult:
    """Mean losses and scores of all tasks: scored kinds by the engine, generated ones by loss."""
    results = []
    for data, examples, passages in zip(
        training_data, tokenized.validation, tokenized.validation_tokenized, strict=True
    ):
        result = (
            ValidationResult(compute_mean_loss(passages))
            if data.task.kind_spec.generated
            else validate_examples(data.task, engine, examples)
        )
        results.append((len(examples), result))
    return combine_validation_results(results)


def describe_language_model(
    training_data: Sequence[TrainingData], base: str, engine: EngineName = "hf"
) -> ModelMetadata:
    """The metadata of a language model trained from ``base``."""
    task = training_data[0].task
    return ModelMetadata(
        engine,
        task.kind,
        (),
        base=resolve_base_reference(base),
        # A fingerprint identifies a single task.
        task_fingerprint=task.fingerprint if len(training_data) == 1 else "",
        phi=determine_model_phi((data.task for data in training_data), (base,)),
    )
