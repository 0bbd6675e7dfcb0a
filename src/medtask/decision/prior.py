"""What a model answers when there is nothing to read: its own leaning towards labels, or towards
letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from medtask.decision.shares import Shares, weigh
from medtask.engines.base import Engine
from medtask.errors import EngineError, UsageError
from medtask.records import Fault, Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import AnyLabels, Choice, OneLabel, Task

# The three of Zhao et al. 2021, "Calibrate Before Use" (ICML): their mean is steadier than any of
# them.
CONTENT_FREE = ("N/A", "", "[MASK]")
OPTIONS = 4


@dataclass(frozen=True, slots=True)
class Prior:
    """``shares``: the probability of each label (or letter), the mean of ``inputs``, which has it
    for each input by itself.

    They sum to 1 where exactly one applies, else each is the probability that it applies.
    """

    shares: Shares
    inputs: Mapping[str, Shares]


def measure_prior(task: Task, engine: Engine, *, options: int = OPTIONS) -> Prior:
    """Score the task's prompt with inputs that say nothing, in place of a record's text.

    Of kind ``choice`` the letters are scored, for ``options`` options (as many as there are
    columns, where each has its own); their texts say nothing either and stand at every place in
    turn, so that only the places count. Thinking is left out: there is nothing to think about.
    UsageError for kinds that choose from nothing; EngineError for a model that tells no
    probabilities.
    """
    if not isinstance(task.form, OneLabel | AnyLabels | Choice):
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
    if isinstance(task.form, Choice):
        task = replace(task, form=replace(task.form, debias="none"))
    prompts = dict(_list_prompts(task, options))
    heard = {scores.record_id: scores for scores in engine.score(list(prompts.values()))}
    found: dict[str, list[Shares]] = {text: [] for text in CONTENT_FREE}
    for (text, _), prompt in prompts.items():
        found[text].append(_read(task, prompt, heard.get(prompt.record_id)))
    inputs = {text: _average(rows) for text, rows in found.items()}
    return Prior(_average(list(inputs.values())), inputs)


def _list_prompts(task: Task, options: int) -> Iterator[tuple[tuple[str, int], Prompt]]:
    """Prompts by input and by turn of the options."""
    form = task.form
    columns = form.columns if isinstance(form, Choice) else ()
    count = len(columns) if len(columns) > 1 else options
    texts = [f"Option {number}" for number in range(1, count + 1)] if columns else []
    for number, text in enumerate(CONTENT_FREE, 1):
        for turn in range(max(1, len(texts))):
            turned = texts[turn:] + texts[:turn]
            fields: dict[str, object] = (
                dict(zip(columns, turned, strict=True))
                if len(columns) > 1
                else dict.fromkeys(columns, turned)
            )
            prompt = build_prompt(task, Record(f"content-free {number}.{turn + 1}", fields), text)
            if isinstance(prompt, Fault):
                raise EngineError(
                    f"the prompt without content cannot be made: {prompt.reason}",
                    fix="correct the task's input",
                )
            yield (text, turn), prompt


def _read(task: Task, prompt: Prompt, heard: Scores | Fault | None) -> Shares:
    if heard is None or isinstance(heard, Fault):
        reason = heard.reason if heard else "it gave no scores"
        raise EngineError(
            f"the model could not be asked without content: {reason}", fix="take another model"
        )
    if any(branch.chosen for branch in heard.branches):
        raise EngineError(
            "the model chooses without telling probabilities",
            fix="name a model in this process with --model",
        )
    weighed = weigh(task, prompt, heard)
    if weighed is None:
        raise EngineError("the model's scores are no numbers", fix="take another model")
    return weighed.shares


def _average(rows: list[Shares]) -> Shares:
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
