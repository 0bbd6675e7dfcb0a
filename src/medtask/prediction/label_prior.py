"""What a model answers when there is nothing to read: its own leaning towards labels, or towards
letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.prediction.probabilities import OutcomeProbabilities, to_probabilities
from medtask.records import Fault, Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import MultiLabel, MultipleChoice, SingleLabel, Task

# The three of Zhao et al. 2021, "Calibrate Before Use" (ICML): their mean is steadier than any of
# them.
CONTENT_FREE_INPUTS = ("N/A", "", "[MASK]")
OPTION_COUNT = 4


@dataclass(frozen=True, slots=True)
class LabelPrior:
    """``probabilities``: the probability of each label (or letter), the mean of ``by_input``, which
    has it for each input by itself.

    They sum to 1 where exactly one applies, else each is the probability that it applies.
    """

    probabilities: OutcomeProbabilities
    by_input: Mapping[str, OutcomeProbabilities]


def measure_prior(task: Task, engine: Engine, *, option_count: int = OPTION_COUNT) -> LabelPrior:
    """Score the task's prompt with inputs that say nothing, in place of a record's text.

    Of kind ``choice`` the letters are scored, for ``option_count`` options (as many as there are
    columns, where each has its own); their texts say nothing either and stand at every place in
    turn, so that only the places count. Thinking is left out: there is nothing to think about.
    UsageError for kinds that choose from nothing; EngineError for a model that tells no
    probabilities.
    """
    if not isinstance(task.answer_spec, SingleLabel | MultiLabel | MultipleChoice):
        raise UsageError(
            f"a task of the kind {task.kind} has no labels to prefer",
            fix="name a task of the kind label, labels or choice",
        )
    if engine.caps.score == "none":
        raise EngineError(
            f"{engine.info.title} tells no probabilities",
            fix="name a model in this process with --model",
        )
    task = replace(task, reasoning=None)
    if isinstance(task.answer_spec, MultipleChoice):
        task = replace(task, answer_spec=replace(task.answer_spec, debias="none"))
    prompts = dict(_build_prompts(task, option_count))
    results = {scores.record_id: scores for scores in engine.score(list(prompts.values()))}
    found: dict[str, list[OutcomeProbabilities]] = {text: [] for text in CONTENT_FREE_INPUTS}
    for (text, _), prompt in prompts.items():
        found[text].append(_read_probabilities(task, prompt, results.get(prompt.record_id)))
    by_input = {text: _average_probabilities(rows) for text, rows in found.items()}
    return LabelPrior(_average_probabilities(list(by_input.values())), by_input)


def _build_prompts(task: Task, option_count: int) -> Iterator[tuple[tuple[str, int], Prompt]]:
    """Prompts by input and by turn of the options."""
    form = task.answer_spec
    columns = form.columns if isinstance(form, MultipleChoice) else ()
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
        reason = result.reason if result else "it gave no scores"
        raise EngineError(
            f"the model could not be asked without content: {reason}", fix="take another model"
        )
    if any(branch.choice_only for branch in result.branches):
        raise EngineError(
            "the model chooses without telling probabilities",
            fix="name a model in this process with --model",
        )
    probabilities = to_probabilities(task, prompt, result)
    if probabilities is None:
        raise EngineError("the model's scores are no numbers", fix="take another model")
    return probabilities.by_outcome


def _average_probabilities(rows: list[OutcomeProbabilities]) -> OutcomeProbabilities:
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
