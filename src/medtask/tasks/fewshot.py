"""Examples: worked rows from the task file itself, or from a table beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medtask.errors import InputError, TaskFault
from medtask.records import Fault, Record
from medtask.tasks.hints import did_you_mean, quote
from medtask.tasks.hygiene import read_cell
from medtask.tasks.prompt import render_text
from medtask.tasks.source import Document, NullWord
from medtask.tasks.task import Example
from medtask.tasks.template import read_template

MAX_EXAMPLES = 200
LISTED_FAULTS = 10

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What an example of this task looks like.

    ``input`` is the task's template. ``answers``: what an example may answer; empty where the labels are not known.
    """

    input: str
    answers: Sequence[str]
    gold_column: str | None = None
    id_column: str | None = None


def read_examples(document: Document, raw: object, folder: Path, shape: Shape) -> tuple[tuple[Example, ...], list[TaskFault]]:
    """The examples of a task and what is wrong with them; ``raw`` is a list of rows, or a table's path from ``folder``."""
    template = read_template(shape.input)
    if raw is None or isinstance(raw, NullWord):
        return (), []
    if "answer" in template.columns:
        message = 'input uses a column named "answer", but in an example that is the right answer - rename the column'
        return (), [document.fault(message, "examples")]
    try:
        rows = raw if isinstance(raw, list) else _read_table(folder, raw)
    except InputError as error:
        return (), [document.fault(f"examples: {error} - {error.fix}", "examples")]
    if len(rows) > MAX_EXAMPLES:
        return (), [document.fault(f"more than {MAX_EXAMPLES} examples - every row's prompt repeats them all", "examples")]
    examples: list[Example] = []
    faults: list[TaskFault] = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            troubles = ["is not a row - write the columns that input uses, and answer"]
        else:
            if rows is raw:
                faults += _check_keys(document, row, index, shape)
            example = Example(_pick_fields(row, shape), read_cell(_read_answer(row, shape)) or "")
            examples.append(example)
            troubles = list(_find_trouble(example, shape))
        faults += [document.fault(f"example {index + 1} {trouble}", "examples", index) for trouble in troubles]
        if len(faults) >= LISTED_FAULTS:
            faults.append(document.fault("the examples after this one were not looked at", "examples", index))
            break
    return tuple(examples), faults


def _read_table(folder: Path, raw: object) -> Sequence[object]:
    if not isinstance(raw, str) or not raw.strip():
        raise InputError("they are a list of rows, or the path of a table", fix="begin every example with a dash")
    # The tables' room opens polars; most tasks have no table of examples.
    from medtask.data.read import read_table

    return list(islice(read_table(folder / raw.strip()).rows(), MAX_EXAMPLES + 1))


def _check_keys(document: Document, row: _Row, index: int, shape: Shape) -> Iterator[TaskFault]:
    template = read_template(shape.input)
    if template.whole_row or not template.columns:
        return
    known = [*template.columns, "answer", *(column for column in (shape.gold_column, shape.id_column) if column)]
    for key in row:
        if key not in known:
            hint = did_you_mean(key, known) or f" - input uses {', '.join(template.columns)}"
            yield document.fault(f"unknown key {quote(key)}{hint}", "examples", index, key)


def _pick_fields(row: _Row, shape: Shape) -> dict[str, object]:
    template = read_template(shape.input)
    truth = ("answer", shape.gold_column)
    return {column: value for column, value in row.items() if column in template.columns or (template.whole_row and column not in truth)}


def _read_answer(row: _Row, shape: Shape) -> object:
    return row["answer"] if "answer" in row else row.get(shape.gold_column or "")


def _find_trouble(example: Example, shape: Shape) -> Iterator[str]:
    if not example.answer:
        yield "has no answer"
    elif shape.answers and example.answer not in shape.answers:
        yield f"answers {quote(example.answer)}, which is no label{did_you_mean(example.answer, shape.answers)}"
    template = read_template(shape.input)
    missing = [column for column in template.columns if column not in example.fields]
    if missing:
        yield f"lacks {', '.join(map(quote, missing))}, which input uses"
    elif not (template.columns or template.whole_row):
        return  # the input itself is at fault, and that is told already
    elif isinstance(text := render_text(shape.input, Record("", example.fields)), Fault):
        yield f"cannot be shown: {text.reason}"
