"""Training examples as padded arrays for mlx-lm's trainer, one batch for each of its iterations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from medtask.training.language.tokenized_example import TokenizedExample, TokenPath

# mlx compiles a step anew for every shape: lengths are padded to multiples of this.
_LENGTH_STEP = 32

Batch = tuple[mx.array, ...]  # the arguments of loss.compute_loss after the model


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The sizes of all batches of a training, apart from the number of tokens.

    Attributes:
        rows: Examples per batch.
        paths: Gold paths per example.
        choices: Choices per example.
        candidates: Allowed tokens per choice.
    """

    rows: int
    paths: int
    choices: int
    candidates: int


def measure_shape(examples: Sequence[TokenizedExample], rows: int) -> BatchShape:
    """The smallest shape that every ``rows`` examples fit into."""
    choices = [
        [choice for path in _list_gold_paths(example) for choice in path.token_choices]
        for example in examples
    ]
    return BatchShape(
        rows,
        max(len(example.gold_paths) for example in examples),
        max(map(len, choices)),
        max((len(one.allowed_tokens) for row in choices for one in row), default=1),
    )


def split_step(
    examples: Sequence[TokenizedExample], shape: BatchShape, parts: int
) -> Iterator[Batch]:
    """The examples of a step as ``parts`` batches, the longest examples first.

    mlx-lm divides the sum of the parts' gradients by ``parts``, so that each example has the weight
    ``parts / len(examples)``. A part may have fewer examples than ``shape.rows``, or none.
    """
    ordered = sorted(examples, key=lambda example: -example.max_length)
    for part in range(parts):
        rows = ordered[part * shape.rows : (part + 1) * shape.rows]
        yield build_batch(rows, shape, parts / len(examples))


def build_batch(examples: Sequence[TokenizedExample], shape: BatchShape, weight: float) -> Batch:
    """Arrays of some examples; see `loss.compute_loss`."""
    paths = [path for example in examples for path in _list_gold_paths(example)]
    longest = max((len(path.tokens) for path in paths), default=2)
    length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    tokens = np.zeros((shape.rows * shape.paths, length), np.int32)
    answer_weights = np.zeros((shape.rows * shape.paths, length - 1), np.float32)
    count = shape.rows * shape.choices
    positions = np.zeros((count, 2), np.int32)
    allowed = np.zeros((count, shape.candidates), np.int32)
    is_allowed = np.zeros((count, shape.candidates), np.bool_)
    is_allowed[:, 0] = True  # a softmax over nothing is not a number
    gold = np.zeros(count, np.int32)
    choice_weights = np.zeros(count, np.float32)
    row = choice_row = 0
    for example in examples:
        share = weight / len(example.gold_paths)
        for path in _list_gold_paths(example):
            size = len(path.tokens)
            tokens[row, :size] = path.tokens
            answer_weights[row, path.answer_start - 1 : size - 1] = share / (
                size - path.answer_start
            )
            for choice in path.token_choices:
                positions[choice_row] = row, choice.position
                allowed[choice_row, : len(choice.allowed_tokens)] = choice.allowed_tokens
                is_allowed[choice_row, : len(choice.allowed_tokens)] = True
                gold[choice_row] = choice.gold_index
                choice_weights[choice_row] = share
                choice_row += 1
            row += 1
    arrays = (tokens, answer_weights, positions, allowed, is_allowed, gold, choice_weights)
    return tuple(map(mx.array, arrays))


def count_tokens(examples: Sequence[TokenizedExample]) -> int:
    """The tokens that are read for some examples: each path from its first token."""
    return sum(len(path.tokens) for example in examples for path in _list_gold_paths(example))


def _list_gold_paths(example: TokenizedExample) -> list[TokenPath]:
    return [example.paths[index] for index in example.gold_paths]
