"""How good a model is in the middle of its training, by the very scoring that a run uses."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from medtask.engines.base import Engine
from medtask.prediction.asking import ask_prompts
from medtask.prediction.deciding import to_probabilities
from medtask.prediction.engine_output import EngineOutput
from medtask.records import Value
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingExample

MIN_PROBABILITY = (
    1e-6  # a probability below it counts as this: one row must not outweigh all others
)


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What a validation found: mean loss of a row in nats, and in [0, 1] what the kind is judged by
    (None: nothing).
    """

    loss: float
    score: float | None = None


def name_score(tasks: Iterable[Task]) -> str:
    """What the score of their validations is, in words."""
    return "decisions right" if any(task.several for task in tasks) else "accuracy"


def validate_examples(
    task: Task, engine: Engine, examples: Sequence[TrainingExample]
) -> ValidationResult:
    """Mean loss of gold among the allowed answers (nats a row; of several labels the mean over
    labels), and the share of rows whose likeliest answer is gold (of several labels, of all
    yes-or-no decisions). For the kinds that are scored.

    A row that the engine cannot answer counts as wrong, at the floor.
    """
    by_id = {str(index): example for index, example in enumerate(examples)}
    # Ids of lessons may repeat where validation has a table of its own.
    prompts = [replace(example.prompt, record_id=name) for name, example in by_id.items()]
    losses = dict.fromkeys(by_id, -math.log(MIN_PROBABILITY))
    right = dict.fromkeys(by_id, 0.0)
    for output in ask_prompts(task, engine, prompts):
        if isinstance(output, EngineOutput) and output.scores is not None:
            name = output.prompt.record_id
            found = to_probabilities(task, output.prompt, output.scores)
            if found is not None:
                gold = by_id[name].record.gold
                losses[name], right[name] = (
                    _score_multilabel if task.several else _score_single_label
                )(found.by_outcome, gold)
    count = max(1, len(examples))
    return ValidationResult(math.fsum(losses.values()) / count, math.fsum(right.values()) / count)


def combine_validation_results(results: Sequence[tuple[int, ValidationResult]]) -> ValidationResult:
    """One verdict over several tasks, each with its number of rows."""
    rows = sum(count for count, _ in results)
    scores = [(count, result.score) for count, result in results if result.score is not None]
    judged = sum(count for count, _ in scores)
    return ValidationResult(
        sum(count * result.loss for count, result in results) / rows,
        sum(count * score for count, score in scores) / judged if judged else None,
    )


def _score_single_label(
    probabilities: Mapping[str, float], gold: Value | None
) -> tuple[float, float]:
    return -math.log(max(probabilities.get(str(gold), 0.0), MIN_PROBABILITY)), float(
        max(probabilities, key=probabilities.__getitem__) == gold
    )


def _score_multilabel(
    probabilities: Mapping[str, float], gold: Value | None
) -> tuple[float, float]:
    right: Collection[object] = gold if isinstance(gold, tuple) else ()
    applies = {name: name in right for name in probabilities}
    given = [
        probabilities[name] if yes else 1.0 - probabilities[name] for name, yes in applies.items()
    ]
    loss = -math.fsum(math.log(max(share, MIN_PROBABILITY)) for share in given) / len(given)
    return loss, sum((probabilities[name] >= 0.5) == yes for name, yes in applies.items()) / len(
        given
    )
