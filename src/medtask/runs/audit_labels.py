"""Labels that a person wrote for the rows of an audit sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medtask.display import format_columns, format_suggestion, quote
from medtask.errors import InputError
from medtask.records import Value
from medtask.runs.answer_table import GOLD_COLUMN_NAMES, AnswerTable
from medtask.runs.changed_ids import agree, match_changed_ids
from medtask.tables.cell_values import is_missing, read_cell, read_key, read_present_cell
from medtask.tables.read import read_table
from medtask.tables.read_options import ReadOptions
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Task

LABEL_COLUMN = "gold"  # the column that a person fills in
NONE_COLUMN = "none_applies"  # a mark in it says that no label applies
_NO_MARK = frozenset(("no", "n", "false", "0"))
_MAX_LISTED = 10
_MAX_SHOWN = 60  # characters of a cell


class SampledRow(NamedTuple):
    """A drawn row: its place in the plan, its input fields, and the cells that are shown."""

    place: int
    fields: Mapping[str, object]
    cells: Mapping[str, object]


class LabelledRow(NamedTuple):
    """A row of a filled-in sample.

    Attributes:
        number: The number of the row, from 1.
        name: Its id.
        cell: The cell of labels.
        none_applies: Whether it is marked that no label applies.
        cells: All cells of the row.
    """

    number: int
    name: str
    cell: object
    none_applies: bool
    cells: Mapping[str, object]

    @property
    def is_labelled(self) -> bool:
        return read_cell(self.cell) is not None or self.none_applies


def is_marked(cell: object) -> bool:
    text = read_present_cell(cell)
    return text is not None and text.casefold() not in _NO_MARK


def read_labels(path: Path, options: ReadOptions, *, none_is_word: bool) -> list[LabelledRow]:
    """The rows of a filled-in sample that have an id.

    Raises InputError if columns are missing, or a row has both a label and the mark for none.
    """
    table = read_table(path, options)
    names = [name for name in GOLD_COLUMN_NAMES if name in table.columns]
    if "id" not in table.columns or not names:
        fix = f"it has {format_columns(table.columns)}"
        raise InputError(f"{path} needs the columns id and {LABEL_COLUMN}", fix=fix)
    found: list[LabelledRow] = []
    for number, row in enumerate(table.rows(), 1):
        name, cell = read_key(row["id"]), row[names[0]]
        none_applies = is_marked(row.get(NONE_COLUMN))
        if none_applies and read_cell(cell) is not None:
            raise InputError(
                f"{path} has a label and a mark in {NONE_COLUMN} in row {number:,}",
                fix="leave one of the two cells blank",
            )
        is_none = none_applies or (none_is_word and str(cell).strip().casefold() == "none")
        if name is not None:
            others = {column: row[column] for column in table.columns if column != names[0]}
            found.append(LabelledRow(number, name, cell, is_none, others))
    return found


def match_labels(
    answers: AnswerTable,
    sample: Mapping[str, SampledRow],
    labels: Sequence[LabelledRow],
    source: Path,
) -> tuple[dict[int, Value], tuple[str, ...]]:
    """Gold values by the index of the row, and notes.

    Args:
        answers: The answers that the sample was drawn from.
        sample: The rows of the sample by id, in the order of the file.
        labels: The rows of the filled-in file.
        source: The file, for messages.

    Raises InputError for unknown ids and labels, for ids that are labelled twice, and for ids that
    name other rows than the texts beside them, or may do so.
    """
    if answers.task.id_column is None:
        _refuse_row_numbers(sample, labels, source)
    matched = match_changed_ids(
        [(labelled.name, labelled.cells) for labelled in labels],
        {name: sampled.cells for name, sampled in sample.items()},
        in_order=True,
        verified=True,
    )
    truths: dict[int, Value] = {}
    rows_by_name: dict[str, int] = {}
    unknown_ids: list[LabelledRow] = []
    unknown_labels: dict[int, object] = {}
    for name, labelled in zip(matched.names, labels, strict=True):
        if not labelled.is_labelled:
            continue
        if name is None:
            unknown_ids.append(labelled)
            continue
        if name in rows_by_name:
            raise InputError(
                f"{source} labels the id of row {rows_by_name[name]:,} again in row "
                f"{labelled.number:,}",
                fix="leave one of the two rows out",
            )
        rows_by_name[name] = labelled.number
        truth = read_truth(answers.task, sample[name].fields, labelled)
        if truth is None and not is_missing(labelled.cell):
            unknown_labels[labelled.number] = labelled.cell
        elif truth is not None:
            truths[sample[name].place] = truth
    if moved := [labelled for labelled in unknown_ids if labelled.name in sample]:
        raise _make_moved_id_error(source, moved)
    if unknown_ids:
        raise _make_unknown_id_error(source, unknown_ids, next(iter(sample)))
    if unknown_labels:
        raise InputError(
            f"{source} has labels that the task does not know: "
            f"{describe_unknown_labels(answers.task, unknown_labels)}",
            fix=format_choices(answers.task),
        )
    return truths, matched.notes


def _refuse_row_numbers(
    sample: Mapping[str, SampledRow], labels: Sequence[LabelledRow], source: Path
) -> None:
    """Raise InputError if ids may be the numbers of the file's own rows, and nothing shows which.

    The ids of a task without an id column are numbers of rows of its table.
    """
    names = [labelled.name for labelled in labels]
    if (
        names
        and names == [str(number) for number in range(1, len(names) + 1)]
        and names != list(sample)
        and not any(
            agree(labelled.cells, sample[labelled.name].cells)
            for labelled in labels
            if labelled.name in sample
        )
    ):
        raise InputError(
            f"the ids of {source} are 1, 2, 3 ...: they may be the numbers of its own rows instead "
            "of the ids of the sample, and it has no text of the sample to check them by",
            fix="fill in the sample itself, or keep its columns of texts beside the labels",
        )


def _make_moved_id_error(source: Path, moved: Sequence[LabelledRow]) -> InputError:
    return InputError(
        f"{source} has other texts than the sample beside its ids: "
        f"{_format_rows([labelled.number for labelled in moved])} (the first is the id "
        f"{quote(moved[0].name)}): the labels would count for wrong rows",
        fix=(
            "restore the sample's texts; if only some columns were sorted, fill in the sample "
            "again, and sort all columns together"
        ),
    )


def _make_unknown_id_error(
    source: Path, unknown: Sequence[LabelledRow], example: str
) -> InputError:
    rows = _format_rows([labelled.number for labelled in unknown])
    return InputError(
        f"{source} has ids that are not in the sample: {rows} (the first is "
        f"{quote(unknown[0].name)}; an id of the sample is {quote(example)})",
        fix=(
            "label the rows of the sample, and no others; if a spreadsheet has changed the ids (it "
            "drops zeros and makes dates), fill in sample.xlsx, where they are text"
        ),
    )


def describe_unknown_labels(task: Task, cells: Mapping[int, object]) -> str:
    """The rows whose cells are not labels. Cells that resemble a label are shown.

    Others can be record text, so only their rows are named.
    """
    names = [label.name for label in task.candidates]
    similar = {
        number: f"{quote(cell, _MAX_SHOWN)} in row {number:,}{suggestion}"
        for number, cell in sorted(cells.items())
        if (suggestion := format_suggestion(str(cell), names))
    }
    shown = dict(list(similar.items())[:_MAX_LISTED])
    others = [number for number in cells if number not in shown]
    return "; ".join([*shown.values(), *([_format_rows(others)] if others else [])])


def read_truth(task: Task, fields: Mapping[str, object], labelled: LabelledRow) -> Value | None:
    """The labels of a row as a gold value of the task; None if they are not valid."""
    cell = labelled.cell
    # The sample asks for letters of options, whatever the task's own gold holds.
    for reading in (get_task_kind(task).with_written_values(), task):
        truth = read_gold(reading, fields, cell) if read_cell(cell) is not None else None
        if truth is not None and not find_invalid_gold(reading, fields, truth):
            return truth
    # A label of the task comes first: it can be called "none".
    return () if labelled.none_applies and task.several else None


def _format_rows(numbers: Sequence[int]) -> str:
    """``rows 2, 5 and 9``; the header is not counted."""
    shown = ", ".join(f"{number:,}" for number in sorted(numbers)[:_MAX_LISTED])
    return f"row{'s' * (len(numbers) != 1)} {shown}" + (
        f" and {len(numbers) - _MAX_LISTED:,} more" if len(numbers) > _MAX_LISTED else ""
    )


def format_choices(task: Task) -> str:
    if task.kind_spec.has_options:
        return "write the letter of one of the row's own options"
    if not task.candidates:
        return "write the answer as the table of answers has it"
    names: Iterable[str] = (label.name for label in task.candidates)
    several = (
        f'; several with ";" between them; if none applies, an x in the column {NONE_COLUMN}'
        if task.several
        else ""
    )
    return f"write one of {', '.join(map(quote, names))}{several}"
