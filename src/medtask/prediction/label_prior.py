"""The prior of a model over labels or letters, measured on content-free inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.prediction.deciding import to_probabilities
from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.probabilities import OutcomeProbabilities
from medtask.records import Fault, Prompt, Record, Scores
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task

# The three inputs of Zhao et al. 2021, "Calibrate Before Use" (ICML): their mean is more stable
# than any one of them.
CONTENT_FREE_INPUTS = ("N/A", "", "[MASK]")
OPTION_COUNT = 4


@dataclass(frozen=True, slots=True)
class LabelPrior:
    """A model's prior over labels or letters.

    Attributes:
        probabilities: The mean of ``by_input``, by label or letter; they sum to 1 if exactly one
            applies.
        by_input: The probabilities for each content-free input.
    """

    probabilities: OutcomeProbabilities
    by_input: Mapping[str, OutcomeProbabilities]


def measure_prior(task: Task, engine: Engine, *, option_count: int = OPTION_COUNT) -> LabelPrior:
    """Score the task's prompt with content-free inputs instead of a record's text.

    For kind ``choice`` the letters are scored; the options' texts are also content-free, and each
    is shown at every position. Reasoning is omitted.

    Args:
        task: A task of a kind with labels or options.
        engine: A model that returns probabilities.
        option_count: How many options are shown, unless each has a column.

    Raises:
        UsageError: The task's kind has no labels or options.
        EngineError: The model returns no probabilities.
    """
    if task.kind_spec.generated:
        raise UsageError(
            f"a task of the kind {task.kind} has no labels or options",
            fix="name a task of the kind label, labels or choice",
        )
    if engine.caps.score == "none":
        raise EngineError(
            f"{engine.info.title} returns no probabilities",
            fix="name a model in this process with --model",
        )
    task = replace(get_kind_prediction(task).without_reordering(), reasoning=None)
    prompts = dict(_build_prompts(task, option_count))
    results = {scores.record_id: scores for scores in engine.score(list(prompts.values()))}
    found: dict[str, list[OutcomeProbabilities]] = {text: [] for text in CONTENT_FREE_INPUTS}
    for (text, _), prompt in prompts.items():
        found[text].append(_read_probabilities(task, prompt, results.get(prompt.record_id)))
    by_input = {text: _average_probabilities(rows) for text, rows in found.items()}
    return LabelPrior(_average_probabilities(list(by_input.values())), by_input)


def _build_prompts(task: Task, option_count: int) -> Iterator[tuple[tuple[str, int], Prompt]]:
    """Prompts, by input and by rotation of the options."""
    columns = get_task_kind(task).columns
    count = len(columns) if len(columns) > 1 else option_count
    texts = [f"Option {number}" for number in range(1, count + 1)] if columns else []
    for number, text in enumerate(CONTENT_FREE_INPUTS, 1):
        for rotation in range(max(1, len(texts))):
            rotated = texts[rotation:] + texts[:rotation]
            fields: dict[str, object] = (
                dict(zip(columns, rotated, strict=True))
                if len(columns) > 1
                else dict.fromkeys(columns, rotated)
            )
            prompt = build_prompt(
                task, Record(f"content-free {number}.{rotation + 1}", fields), text
            )
            if isinstance(prompt, Fault):
                raise EngineError(
                    f"the prompt without content cannot be made: {prompt.reason}",
                    fix="correct the task's input",
                )
            yield (text, rotation), prompt


def _read_probabilities(
    task: Task, prompt: Prompt, result: Scores | Fault | None
) -> OutcomeProbabilities:
    if result is None or isinstance(result, Fault):
        reason = result.reason if result else "it returned no scores"
        raise EngineError(
            f"the model could not be asked without content: {reason}", fix="take another model"
        )
    if result.choice_only:
        raise EngineError(
            "the model chooses without probabilities",
            fix="name a model in this process with --model",
        )
    probabilities = to_probabilities(task, prompt, result)
    if probabilities is None:
        raise EngineError("the model's scores are not numbers", fix="take another model")
    return probabilities.by_outcome


def _average_probabilities(rows: list[OutcomeProbabilities]) -> OutcomeProbabilities:
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
