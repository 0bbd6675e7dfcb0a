"""Descriptions of a task for users: kind of answer, columns, passes."""

from __future__ import annotations

from collections.abc import Iterator

from medtask.display import join_alternatives, quote
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task


def describe_passes(task: Task) -> Iterator[str]:
    """One line per pass, such as "refine: asks again where confidence is below 0.4"."""
    for task_pass in task.passes:
        when = task_pass.when
        reasons = (
            [f"confidence is below {when.confidence_below:g}"]
            if when.confidence_below is not None
            else []
        )
        reasons += [f"the status is {join_alternatives(when.status)}"] if when.status else []
        reasons += [f"the answer is {join_alternatives(when.answer_in)}"] if when.answer_in else []
        yield f"{task_pass.name}: asks again where {' or '.join(reasons)}" + (
            f", with {task_pass.model}" if task_pass.model else ""
        )


def list_input_columns(task: Task) -> str:
    """The columns used in the task's input, in alphabetical order."""
    columns = sorted(find_prompt_columns(task) - set(get_task_kind(task).columns))
    return ", ".join(map(quote, columns)) or "all columns"
