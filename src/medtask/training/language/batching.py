"""Order of training batches, reproducible by seed on any machine and after interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medtask.training.language.tokenized_example import TokenizedExample
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData
from medtask.training.training_plan import plan_training

# Rows are sorted by length within buckets of this many batches: similar lengths need little
# padding. An epoch has four buckets or more, because rows of a single bucket would always be in the
# same batches.
BATCHES_PER_BUCKET = 8
MIN_BUCKETS = 4


def order_batches(
    tasks: Sequence[int], lengths: Sequence[int], batch: int, steps: int, seed: int
) -> list[list[int]]:
    """The rows (indices) of each of ``steps`` steps: each row once per epoch, batches in random
    order.

    Args:
        tasks: The task of each row. A batch has rows of one task, which share a prefix.
        lengths: Number of tokens of each row. Batches have rows of similar length.
        batch: Rows per step.
        steps: Number of steps.
        seed: Seed of the order.
    """
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        draw = np.random.default_rng([seed, epoch])
        rows = draw.permutation(len(lengths)).tolist()
        made = [
            one
            for task in sorted(set(tasks))
            for one in _bucket_by_length(
                [row for row in rows if tasks[row] == task], lengths, batch
            )
        ]
        batches += [made[index] for index in draw.permutation(len(made))]
        epoch += 1
    return batches[:steps]


def _bucket_by_length(
    rows: Sequence[int], lengths: Sequence[int], batch: int
) -> Iterator[list[int]]:
    batches = -(-len(rows) // batch)
    bucket = batch * max(1, min(BATCHES_PER_BUCKET, batches // MIN_BUCKETS))
    for start in range(0, len(rows), bucket):
        stretch = sorted(rows[start : start + bucket], key=lambda row: (-lengths[row], row))
        for at in range(0, len(stretch), batch):
            yield stretch[at : at + batch]


def count_batches(tasks: Sequence[int], batch: int) -> int:
    """The number of batches of an epoch."""
    return sum(-(-list(tasks).count(task) // batch) for task in set(tasks))


def count_steps(training_data: Sequence[TrainingData], recipe: Recipe) -> int:
    """The steps of a training, unless rows are too long."""
    tasks = [
        index for index, data in enumerate(training_data) for _ in (*data.train, *data.injected)
    ]
    return plan_training(count_batches(tasks, recipe.batch), recipe).steps


def split_into_packs(
    examples: Sequence[TokenizedExample], max_tokens: int
) -> Iterator[list[TokenizedExample]]:
    """Split the examples of a step into packs of at most ``max_tokens`` tokens, or of one example,
    the longest first.
    """
    pack: list[TokenizedExample] = []
    tokens = 0
    for example in sorted(examples, key=lambda example: -example.max_length):
        own = sum(len(path.tokens) - example.max_prefix_tokens for path in example.paths)
        if pack and tokens + own > max_tokens:
            yield pack
            pack, tokens = [], 0
        pack.append(example)
        tokens += own
    if pack:
        yield pack
