"""`medtask check`: check a task, its table and its model before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    DataSource,
    ModelName,
    OnDuplicate,
    TaskPath,
    choose_model,
    describe_table,
    open_table,
)
from medtask.cli.model_options import add_load_options, load_engine
from medtask.cli.table_options import add_read_options
from medtask.cli.waiting import name_activity, set_activity
from medtask.display import format_count, format_estimated_duration, join_alternatives, quote
from medtask.engines.load_options import LoadOptions
from medtask.errors import TableError, TaskFaults, UsageError
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.runs.run_estimate import PromptTokens
    from medtask.tables.table import Table
    from medtask.tasks.dataset_statistics import DatasetStatistics
    from medtask.tasks.task import Task

_NEIGHBOUR_ROWS = 64  # rows that are read in addition to the shown one, to find their common prefix
_MAX_WARNINGS = 3  # of one kind


@add_read_options
@add_load_options
def check(
    task: TaskPath,
    data: DataSource = None,
    row: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Show the exact prompt of row K."),
    ] = None,
    record_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Show the exact prompt of the row with this id."),
    ] = None,
    model: ModelName = None,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    measure: Annotated[
        bool, typer.Option(help="Time a few rows to estimate the duration of a run.")
    ] = True,
    load_options: LoadOptions,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document about one row (default: the first)."),
    ] = False,
) -> None:
    """Check a task, its table and its model before a run."""
    from medtask.engines.registry import find_prompt_version
    from medtask.tasks.fingerprint import match_prompt_versions
    from medtask.tasks.load import load_task
    from medtask.tasks.rows import require_columns

    if row is not None and record_id is not None:
        raise UsageError("--row and --id name two rows", fix="give one of them")
    try:
        loaded_task = load_task(task)
        options = replace(read_options, on_duplicate=on_duplicate)
        with open_table(loaded_task, data, options) as table:
            require_columns(loaded_task, table)
            reference = choose_model(loaded_task, model)
            load_model = partial(load_engine, reference, load_options)
            pass_versions = {
                one.model: find_prompt_version(one.model) for one in loaded_task.passes if one.model
            }
            loaded_task = match_prompt_versions(
                loaded_task, find_prompt_version(reference, load_options), pass_versions
            )
            if as_json or row is not None or record_id is not None:
                _print_prompt_preview(loaded_task, table, load_model, row or 1, record_id, as_json)
            else:
                _print_task_check(loaded_task, table, load_model, measure)
    except TaskFaults as error:
        if as_json:
            from medtask.prediction.prompt_preview import describe_faults

            show.print_json(describe_faults(error))
        raise


def _print_prompt_preview(
    task: Task,
    table: Table,
    load_model: Callable[[], Engine],
    row: int,
    record_id: str | None,
    as_json: bool,
) -> None:
    from medtask.cli.prompt_preview import print_preview
    from medtask.prediction.prompt_preview import describe_preview, find_record, preview_prompt
    from medtask.records import Prompt
    from medtask.tasks.prompt import build_prompt
    from medtask.tasks.rows import read_records

    record = find_record(task, table, row, record_id)
    neighbours = [
        build_prompt(task, neighbour)
        for neighbour in islice(read_records(task, table), _NEIGHBOUR_ROWS)
    ]
    with closing(load_model()) as engine:
        preview = preview_prompt(
            task, engine, record, [other for other in neighbours if isinstance(other, Prompt)]
        )
    if as_json:
        show.print_json(describe_preview(preview))
    else:
        print_preview(preview)


def _print_task_check(
    task: Task, table: Table, load_model: Callable[[], Engine], measure: bool
) -> None:
    from medtask.runs.run_estimate import count_prompt_tokens
    from medtask.tables.write_excel import MAX_CELL_LENGTH
    from medtask.tasks.table_check import check_table

    checked = check_table(task, table)
    statistics = checked.statistics
    _print_task(task, table, statistics)
    for line in checked.list_missing_words():
        show.print_fact("missing", line)
    for line in checked.gold_cells.describe("gold"):
        show.print_fact("gold", line)
    if table.id_note:
        show.print_warning(table.id_note)
    for warning in checked.list_warnings():
        show.print_warning(warning)
    if long_cells := checked.survey.long_cells:
        show.print_warning(
            f"{format_count(long_cells, 'cell')} with more than {MAX_CELL_LENGTH:,} characters, "
            "the limit of XLSX: with --to xlsx the text is cut there"
        )
    if not statistics.prompt_count:
        raise TableError(
            f"{table.source} has no row with a usable text",
            fix="check the columns that the task's input uses",
        )
    with closing(load_model()) as engine:
        with name_activity("Counting tokens"):
            tokens = count_prompt_tokens(task, engine, statistics)
        _print_prompt_cost(task, engine, tokens)
        plan = _describe_plan(task, engine, statistics, tokens, measure)
        show.print_fact("plan", f"{engine.info.title}: {plan}")
        if task.gold_column:
            set_activity("Comparing the rows with those of the model's training")
            _warn_about_left_out_rows(checked.gold_task, table, engine)


def _warn_about_left_out_rows(task: Task, table: Table, engine: Engine) -> None:
    """Warn about rows with gold that metrics leave out, because they are not new to the model."""
    from medtask.evaluation.presentation.formatting import count_left_out, describe_left_out
    from medtask.runs.measured_rows import collect_fingerprints, find_left_out, make_record_key
    from medtask.tasks.rows import read_records

    fingerprints, _ = collect_fingerprints(task, [engine])
    if not fingerprints:
        return
    keys = (make_record_key(task, record) for record in read_records(task, table))
    left_out = find_left_out(keys, fingerprints)
    graded = [
        row for row, record in enumerate(read_records(task, table), 1) if record.gold is not None
    ]
    counts = count_left_out(left_out[row] for row in graded if row in left_out)
    for sentence in describe_left_out(counts, len(graded) - sum(counts.values())):
        show.print_warning(sentence)


def _print_task(task: Task, table: Table, statistics: DatasetStatistics) -> None:
    from medtask.tasks.kinds import get_task_kind

    names = f"id {task.id_column}" if task.id_column else "rows numbered"
    show.print_line(
        f"{task.name}: {task.kind}, {get_task_kind(task).describe_answers()}, input "
        f"{_list_input_columns(task)}, {names}"
    )
    show.print_fact("table", describe_table(table, statistics.rows))
    about = "about " if statistics.is_sampled else ""
    for status, rows in sorted(statistics.faults_by_status.items()):
        show.print_fact(
            status.value.replace("_input", "").replace("_", " "),
            f"{about}{format_count(statistics.scale(rows), 'row')} cannot be asked",
        )
    repeats = statistics.prompt_count - statistics.count_distinct_prompts()
    if repeats:
        many = "repeat an earlier text and are" if repeats > 1 else "repeats an earlier text and is"
        show.print_fact(
            "duplicates",
            f"{about}{repeats:,} of {format_count(statistics.rows, 'row')} {many} answered once",
        )
    if task.gold_column:
        show.print_fact(
            "gold",
            f'{format_count(statistics.gold_rows, "row")} with gold in column "{task.gold_column}"',
        )
    if task.reasoning:
        show.print_fact(
            "reasoning",
            f"the model thinks for at most {format_count(task.reasoning.budget, 'token')} "
            "before it answers",
        )
    for line in _describe_passes(task):
        show.print_fact("pass", line)


def _describe_passes(task: Task) -> Iterator[str]:
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


def _list_input_columns(task: Task) -> str:
    """The columns used in the task's input, in alphabetical order."""
    from medtask.tasks.kinds import get_task_kind
    from medtask.tasks.prompt import find_prompt_columns

    columns = sorted(find_prompt_columns(task) - set(get_task_kind(task).columns))
    return ", ".join(map(quote, columns)) or "all columns"


def _print_prompt_cost(task: Task, engine: Engine, tokens: PromptTokens | None) -> None:
    """Print the tokens of the sample, and warnings about the longest rows."""
    if tokens is None:
        show.print_fact("prompt", f"{engine.info.title} does not report token counts")
        return
    plan = tokens.plan
    row_tokens = sum(plan.own_tokens) / len(plan.own_tokens)
    if task.kind_spec.generated:
        more = f", at most {task.answer_spec.max_tokens:,} to write"
    elif plan.mean_label_tokens < 0.05:  # as of an encoder, which does not read the labels
        more = ""
    else:
        more = (
            f", {plan.mean_label_tokens:.1f} more to tell the "
            f"{'options' if task.kind_spec.has_options else 'labels'} apart"
        )
    show.print_fact(
        "prompt",
        f"{plan.shared_tokens:,} shared + {row_tokens:.0f} own tokens per row (longest "
        f"{tokens.longest_tokens:,}){more}",
    )
    for warning in plan.warnings[:_MAX_WARNINGS]:
        show.print_warning(warning)
    further = len(plan.warnings) - _MAX_WARNINGS
    if further > 0:
        show.print_warning(f"{format_count(further, 'more warning')} of this kind")
    if tokens.too_long.rows:
        precision = "" if tokens.too_long.precision == "exact" else f"{tokens.too_long.precision} "
        consequence = {
            "error": "be too long (gate: {too_long: chunk} reads them in parts)",
            "head_tail": "lose their middle",
            "chunk": "be read in parts",
        }[task.gate.too_long]
        show.print_warning(
            f"{precision}{format_count(tokens.too_long.rows, 'row')} will {consequence}: the model "
            f"reads at most {plan.max_input_tokens:,} tokens"
        )


def _describe_plan(
    task: Task,
    engine: Engine,
    statistics: DatasetStatistics,
    tokens: PromptTokens | None,
    measure: bool,
) -> str:
    """The time of a run, or the number of its prompts if the time is not known."""
    from medtask.runs.run_estimate import (
        MAX_TIMING_S,
        drop_repeated,
        estimate_seconds,
        measure_speed,
    )

    distinct = tokens.prompts if tokens else statistics.count_distinct_prompts()
    prompts = (
        tokens.readable if tokens else [(prompt, 0) for prompt in drop_repeated(statistics.sample)]
    )
    work = f"{format_count(distinct, 'prompt')} to ask"
    if not measure:
        return work
    if not prompts:
        parts = " whole" if distinct else ""
        return f"{work}; the model cannot read a row of the sample{parts}, so no row is timed"
    with name_activity("Timing some rows"):
        speed = measure_speed(task, engine, prompts)
    if speed is None:
        return (
            f"{work}; their time could not be measured within {MAX_TIMING_S:g} seconds "
            "(medtask bench measures it)"
        )
    expected = format_estimated_duration(estimate_seconds(task, speed, distinct, tokens))
    if tokens and tokens.is_mostly_long:
        expected = f"at least {expected}"  # a token of a long row takes more time
    first = " for the first pass" if task.passes else ""
    rows = "" if distinct == statistics.count_distinct_prompts() else f", {work}"
    measured = f"measured on {format_count(speed.rows, 'row')}"
    return f"{expected} on this machine{first} ({measured}{rows})"
