"""A task in a few words: what there is to answer, from which columns, and in which passes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

from medtask.display import format_count, format_list, join_alternatives, quote
from medtask.tasks.prompt import find_extra_columns, find_prompt_columns
from medtask.tasks.task import Fields, FreeText, MultipleChoice, Task

_MAX_GOLD_CHARACTERS = 40  # characters


def describe_answer_spec(task: Task) -> str:
    """What there is to answer: "3 labels", "options in the columns a, b", "6 fields"."""
    match task.answer_spec:
        case MultipleChoice(columns=columns, several=several):
            where = (
                f"the column{'s' if len(columns) > 1 else ''} "
                f"{format_list([quote(column) for column in columns])}"
            )
            return f"{'any number' if several else 'one'} of the options in {where}"
        case FreeText(max_tokens=most, sections=sections):
            return f"at most {format_count(most, 'token')}" + (
                f", sections {format_list(sections)}" if sections else ""
            )
        case Fields(schema=schema, quoted=quoted):
            written = cast("Mapping[str, object]", schema["properties"])
            fields = len(written) - sum(
                len(path) == 1 for path in quoted
            )  # a quote is written beside its field
            return format_count(fields, "field") + (
                f", {len(quoted)} with a quote" if quoted else ""
            )
    return format_count(len(task.labels), "label")


def describe_passes(task: Task) -> Iterator[str]:
    """ "refine: asks again where confidence is below 0.4 or the status is abstained"; one line a
    pass.
    """
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


def describe_invalid_gold(task: Task, value: str) -> str:
    """What is wrong with gold that the task could not answer; ``value``: as find_strange tells
    it.
    """
    shown = quote(value, _MAX_GOLD_CHARACTERS)
    match task.answer_spec:
        case MultipleChoice():
            return f"gold {shown} is no option of its row"
        case Fields(schema=schema):
            # The name of a field (stage.t, nodes[0]) may be told; gold that is no object is a
            # record's text.
            is_field = re.split(r"[.\[]", value)[0] in cast(
                "Mapping[str, object]", schema["properties"]
            )
            return (
                f"gold of the field {shown} does not fit the schema"
                if is_field
                else "gold that is no object of the schema"
            )
    return f"gold {shown} is no label"


def list_input_columns(task: Task) -> str:
    """The columns that the task's input names, in alphabetical order."""
    columns = sorted(find_prompt_columns(task) - set(find_extra_columns(task.answer_spec)))
    return ", ".join(map(quote, columns)) or "all columns"
