"""The methods that a training tries, and their comparison on the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.display import format_duration
from medtask.runs.comparison import compare
from medtask.training.recipe import Recipe
from medtask.training.training_context import FitFunction, MethodResult
from medtask.training.training_data import TrainingData

if TYPE_CHECKING:
    from medtask.evaluation.comparison.paired import PairedComparison
    from medtask.evaluation.statistics.intervals import Metric
    from medtask.runs.run_evaluation import Evaluation

MODEL_FOLDER = "model"  # in the folder of an attempt


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method to try.

    Attributes:
        name: The name in notes and folders.
        description: The method in a few words.
        recipe: Its settings.
        fit: Its function; None for the one of the recipe's method.
    """

    name: str
    description: str
    recipe: Recipe
    fit: FitFunction | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trained candidate with its evaluation on the validation rows."""

    candidate: Candidate
    folder: Path
    result: MethodResult
    evaluation: Evaluation
    run_folder: Path
    seconds: float

    @property
    def model_folder(self) -> Path:
        return self.folder / MODEL_FOLDER

    @property
    def score(self) -> Metric | None:
        return self.evaluation.metrics.get(self.evaluation.headline_metric)


def describe_attempts(
    attempts: Sequence[Attempt], chosen: Attempt, data: TrainingData
) -> list[str]:
    """A line for each attempt, with its paired difference from the chosen one."""
    from medtask.evaluation.kinds.metrics import get_metric_title

    title = get_metric_title(chosen.evaluation.headline_metric)
    differences = _compare_with_chosen(attempts, chosen, data)
    lines = []
    for one in attempts:
        name, difference = one.candidate.name, differences.get(one.candidate.name)
        line = (
            f"{name} ({one.candidate.description}): {title} {one.score} on the validation rows, "
            f"{format_duration(one.seconds)}"
        )
        if one is chosen:
            line += "; chosen"
        elif difference is not None:
            line += (
                f"; {difference.value:+.3f} against {chosen.candidate.name} "
                f"({difference.low:+.3f} to {difference.high:+.3f})"
                if difference.low is not None and difference.high is not None
                else f"; {difference.value:+.3f} against {chosen.candidate.name}"
            )
        lines.append(line)
    return lines


def _compare_with_chosen(
    attempts: Sequence[Attempt], chosen: Attempt, data: TrainingData
) -> dict[str, Metric]:
    """The paired difference of each other attempt from the chosen one, by name."""
    if len(attempts) < 2:
        return {}
    folders = [one.run_folder for one in attempts]
    comparison = compare(folders, gold=data.task.gold_column, baselines=False)
    metric, best = comparison.leaderboard.metric, chosen.candidate.name
    found = {}
    for pair in comparison.leaderboard.pairs:
        difference = _get_difference(pair, metric, best)
        if difference is not None:
            found[pair.second if pair.first == best else pair.first] = difference
    return found


def _get_difference(pair: PairedComparison, metric: str, best: str) -> Metric | None:
    """How far the other system of a pair is ahead of ``best``."""
    difference = pair.differences.get(metric)
    if difference is None or best not in (pair.first, pair.second):
        return None
    if pair.second == best:
        return difference
    low, high = difference.low, difference.high
    return replace(
        difference,
        value=-difference.value,
        low=None if high is None else -high,
        high=None if low is None else -low,
    )


def attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    score = attempt.score
    return {
        "name": attempt.candidate.name,
        "metric": attempt.evaluation.headline_metric,
        "value": score.value if score else None,
        "low": score.low if score else None,
        "high": score.high if score else None,
        "rows": score.n if score else 0,
        "seconds": round(attempt.seconds, 1),
    }
