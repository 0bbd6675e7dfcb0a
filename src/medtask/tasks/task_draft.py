"""Drafts of task files from a table, with placeholders for the user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import yaml

from medtask.display import format_columns, format_count, format_row_count
from medtask.names import normalize_spelling
from medtask.tables.cell_values import read_cell, read_present_cell
from medtask.tables.column_statistics import ColumnStatistics, collect_column_statistics
from medtask.tasks.input_template import read_template
from medtask.tasks.label_definitions import PLACEHOLDER_LABELS

_TASK_FILE_TEMPLATE = """\
# What is asked about every row. Fill in the labels, then: medtask check {name}
name: {name}
instruction: Decide which label fits the text best.  # what matters, in a sentence or two
{data}
{id}
{input}
{gold}
{group}

answer:
  kind: label
  labels:                         # name: what belongs there, as you would tell a new colleague
{labels}
  # abstain: not enough information   # an answer for rows that do not say enough

# examples:                       # worked rows that the model is shown
#   - {{{example}: "...", answer: ...}}
# review:                         # rows that a person should look at
#   confidence_below: 0.5
"""


# A column with names has each in several rows; ids, dates and free text do not repeat.
_MIN_ROWS_PER_NAME = 4
_MAX_NAME_LENGTH = 80
_GOLD_NAMES = frozenset({"gold", "label", "labels", "category", "class", "target", "answer"})
_PATIENT_WORDS = ("patient", "pasient")  # German, English, Danish; Norwegian


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
        sample: Some of its rows, the more the better.
        data: The table's path as written in the task file.

    Returns:
        The text. Its labels are those of the gold column if one is found; otherwise two
        placeholders, which `load_task` rejects until they are replaced.
    """
    text = guess_text_column(columns, sample)
    known_id = guess_id_column([column for column in columns if column != text], sample)
    example = text or "text"
    answers = find_answer_columns(
        [column for column in columns if column not in (text, known_id)], sample
    )
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
        gold=_format_gold(answers),
        group=_format_group(columns),
        labels=_format_labels(answers[0] if len(answers) == 1 else None),
    )


def find_answer_columns(
    columns: Sequence[str], sample: Sequence[Mapping[str, object]]
) -> list[ColumnStatistics]:
    """The columns that may hold gold: a few names, each in several rows.

    The only column of them is gold, and so is one with a name such as "label".
    """
    found = [column for column in collect_column_statistics(columns, sample) if _has_names(column)]
    named = [column for column in found if _normalize_column(column.name) in _GOLD_NAMES]
    return named[:1] or found


def _has_names(column: ColumnStatistics) -> bool:
    values = column.frequent_values
    present = column.rows - column.missing
    return (
        1 < len(values) <= present / _MIN_ROWS_PER_NAME
        and column.max_length <= _MAX_NAME_LENGTH
        and all(any(map(str.isalpha, value)) for value, _ in values)
    )


def _format_gold(answers: Sequence[ColumnStatistics]) -> str:
    if len(answers) == 1:
        (column,) = answers
        present = format_count(column.rows - column.missing, "cell")
        return (
            f"gold: {_format_yaml_scalar(column.name)}  # the right answers: {present} with "
            f"{format_count(len(_merge_spellings(column.frequent_values)), 'value')}"
        )
    names = format_columns([column.name for column in answers])
    which = f"; columns with few values: {names}" if answers else ", if any"
    return f"# gold: COLUMN                    # the column that holds the right answers{which}"


def _format_group(columns: Sequence[str]) -> str:
    found = [
        column
        for column in columns
        if any(word in _normalize_column(column) for word in _PATIENT_WORDS)
    ]
    name = _format_yaml_scalar(found[0]) if len(found) == 1 else "COLUMN"
    return f"# group: {name:<24}# rows that belong together, such as those of one patient"


def _format_labels(gold: ColumnStatistics | None) -> str:
    if gold is None:
        first, second = map(_format_yaml_scalar, PLACEHOLDER_LABELS)
        meaning = "# what belongs here, and what does not"
        return f"    {first}:                {meaning}\n    {second}:"
    return "\n".join(
        f"    {_format_yaml_scalar(name)}:  # {format_row_count(rows)}; write what belongs here"
        for name, rows in _merge_spellings(gold.frequent_values)
    )


def _merge_spellings(values: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The values with their numbers of rows; "Biopsy" and "biopsy " are one label."""
    merged: dict[str, tuple[str, int]] = {}
    for value, rows in values:
        key = normalize_spelling(value).casefold()
        name, known = merged.get(key, (value.strip(), 0))
        merged[key] = (name, known + rows)
    return list(merged.values())


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
