"""Loss and score of a model on validation rows, from the probabilities that a run reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medtask.engines.base import Engine
from medtask.prediction.asking import ask_prompts
from medtask.prediction.deciding import to_probabilities
from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.probabilities import OutcomeProbabilities
from medtask.records import Value
from medtask.tasks.task import Task
from medtask.training.training_data import TrainingExample

# Lower probabilities count as this one, so that a single row does not outweigh all others.
MIN_PROBABILITY = 1e-6


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of a validation.

    Attributes:
        loss: Mean loss per row, in nats.
        score: Accuracy, or the share of right decisions, in [0, 1]; None for generated kinds.
    """

    loss: float
    score: float | None = None


def name_score(tasks: Iterable[Task]) -> str:
    """The name of the validation score of these tasks."""
    return "decisions right" if any(task.several for task in tasks) else "accuracy"


def validate_examples(
    task: Task, engine: Engine, examples: Sequence[TrainingExample]
) -> ValidationResult:
    """Mean loss and score over rows, for tasks with scored outcomes; see `score_row`.

    A row that the engine cannot answer counts as wrong, with the loss of MIN_PROBABILITY.
    """
    failed = ValidationResult(-math.log(MIN_PROBABILITY), 0.0)
    rows = dict.fromkeys(range(len(examples)), failed)
    for index, probabilities in predict_examples(task, engine, examples):
        rows[index] = score_row(task, probabilities, examples[index].record.gold)
    return average_results(rows.values())


def predict_examples(
    task: Task, engine: Engine, examples: Sequence[TrainingExample]
) -> Iterator[tuple[int, OutcomeProbabilities]]:
    """The index and the outcomes' probabilities of each row that the engine can answer."""
    # Record ids may repeat if the validation rows are from a separate table.
    prompts = [replace(one.prompt, record_id=str(index)) for index, one in enumerate(examples)]
    for output in ask_prompts(task, engine, prompts):
        if isinstance(output, EngineOutput) and output.scores is not None:
            probabilities = to_probabilities(task, output.prompt, output.scores)
            if probabilities is not None:
                yield int(output.prompt.record_id), probabilities.by_outcome


def get_gold_probabilities(
    task: Task, probabilities: Mapping[str, float], gold: Value | None
) -> list[float]:
    """The probability of gold; with several labels, of each decision in gold."""
    if not task.several:
        return [probabilities.get(str(gold), 0.0)]
    names = gold if isinstance(gold, tuple) else ()
    return [share if name in names else 1.0 - share for name, share in probabilities.items()]


def score_row(
    task: Task, probabilities: Mapping[str, float], gold: Value | None
) -> ValidationResult:
    """The loss of gold, in nats, and whether the most likely outcome is gold.

    With several labels, both are means over the yes-or-no decisions.
    """
    given = get_gold_probabilities(task, probabilities, gold)
    loss = -math.fsum(math.log(max(share, MIN_PROBABILITY)) for share in given) / len(given)
    if not task.several:
        return ValidationResult(
            loss, float(max(probabilities, key=probabilities.__getitem__) == gold)
        )
    names = gold if isinstance(gold, tuple) else ()
    right = sum((share >= 0.5) == (name in names) for name, share in probabilities.items())
    return ValidationResult(loss, right / len(given))


def average_results(rows: Iterable[ValidationResult]) -> ValidationResult:
    """The mean of the results of single rows."""
    results = list(rows)
    count = max(1, len(results))
    return ValidationResult(
        math.fsum(one.loss for one in results) / count,
        math.fsum(one.score or 0.0 for one in results) / count,
    )


def combine_validation_results(results: Sequence[tuple[int, ValidationResult]]) -> ValidationResult:
    """The mean over several tasks, weighted by their numbers of rows."""
    rows = sum(count for count, _ in results)
    scores = [(count, result.score) for count, result in results if result.score is not None]
    scored = sum(count for count, _ in scores)
    return ValidationResult(
        sum(count * result.loss for count, result in results) / rows,
        sum(count * score for count, score in scores) / scored if scored else None,
    )
