"""Drafts of task files from a table, with placeholders for the user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import yaml

from medtask.display import format_columns
from medtask.tables.cell_values import read_cell, read_present_cell
from medtask.tasks.input_template import read_template
from medtask.tasks.label_definitions import PLACEHOLDER_LABELS

_TASK_FILE_TEMPLATE = """\
# What is asked about every row. Fill in the labels, then: medtask check {name}
name: {name}
instruction: Decide which label fits the text best.  # what matters, in a sentence or two
{data}
{id}
{input}
# gold: COLUMN                    # the column that holds the right answers, if any
# group: COLUMN                   # rows that belong together, such as those of one patient

answer:
  kind: label
  labels:                         # name: what belongs there, as you would tell a new colleague
    {first}:                # what belongs here, and what does not
    {second}:
  # abstain: not enough information   # an answer for rows that do not say enough

# examples:                       # worked rows that the model is shown
#   - {{{example}: "...", answer: ...}}
# review:                         # rows that a person should look at
#   confidence_below: 0.5
"""


def guess_id_column(columns: Sequence[str], sample: Sequence[Mapping[str, object]]) -> str | None:
    """The id column by its name, or else one with short, unique values without blanks."""
    distinct = [column for column in columns if _is_distinct([row.get(column) for row in sample])]
    named = sorted(
        filter(_is_named_id, distinct),
        key=lambda column: _normalize_column(column) not in ("id", "case_id"),
    )
    short = (column for column in distinct if all(_looks_like_id(row[column]) for row in sample))
    return next(iter(named), None) or next(short, None)


def guess_text_column(columns: Sequence[str], sample: Sequence[Mapping[str, object]]) -> str | None:
    """The column with the longest text on average; the first one without a sample."""
    others = [column for column in columns if not _is_named_id(column)] or columns
    return max(
        others,
        key=lambda column: sum(len(read_present_cell(row.get(column)) or "") for row in sample),
        default=None,
    )


def draft_task_file(
    name: str,
    columns: Sequence[str],
    sample: Sequence[Mapping[str, object]] = (),
    data: str | None = None,
) -> str:
    """Draft the YAML text of a task over a table.

    Args:
        name: The name of the task.
        columns: The columns of the table.
        sample: Some of its rows; a hundred are enough.
        data: The table's path as written in the task file.

    Returns:
        The text. Its two labels are placeholders, which `load_task` rejects until they are
        replaced.
    """
    text = guess_text_column(columns, sample)
    known_id = guess_id_column([column for column in columns if column != text], sample)
    example = text or "text"
    return _TASK_FILE_TEMPLATE.format(
        name=_format_yaml_scalar(name),
        data=f"data: {_format_yaml_scalar(data)}"
        if data
        else "# data: TABLE                     # the table's path, from this folder",
        id=f"id: {_format_yaml_scalar(known_id)}"
        if known_id
        else "# id: COLUMN                      # what tells rows apart",
        input=(
            f"input: {_format_yaml_scalar(_format_input(example))}  # Jinja over the columns: "
            f"{format_columns(columns)}"
        ),
        example=_format_yaml_scalar(example),
        first=_format_yaml_scalar(PLACEHOLDER_LABELS[0]),
        second=_format_yaml_scalar(PLACEHOLDER_LABELS[1]),
    )


def _format_input(column: str) -> str:
    plain = f"{{{{ {column} }}}}"
    # Columns that are not valid names ("Procedure name", "True") are looked up in ``row``.
    if list(read_template(plain).columns) == [column]:
        return plain
    return f"{{{{ row[{json.dumps(column, ensure_ascii=False)}] }}}}"


def _format_yaml_scalar(text: str) -> str:
    """The text as a YAML scalar, quoted if necessary."""
    if not text.isprintable():
        return yaml.safe_dump(text, default_style='"', width=10**6).strip()
    return yaml.safe_dump(text, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


def _normalize_column(column: str) -> str:
    return column.casefold().replace("-", "_").replace(" ", "_")


def _is_named_id(column: str) -> bool:
    return _normalize_column(column) == "id" or _normalize_column(column).endswith("_id")


def _is_distinct(values: Sequence[object]) -> bool:
    texts = {read_cell(value) for value in values}
    return bool(values) and None not in texts and len(texts) == len(values)


def _looks_like_id(value: object) -> bool:
    text = read_cell(value) or ""
    return len(text) <= 64 and len(text.split()) == 1
