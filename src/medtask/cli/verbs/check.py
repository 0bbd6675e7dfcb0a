"""`medtask check`: what a run would do, before it does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import show
from medtask.cli.inputs import (
    AllowRemote,
    DataSource,
    ModelName,
    SheetName,
    TaskPath,
    check_table,
    choose_model,
    describe_table,
    load_engine,
    open_table,
)
from medtask.errors import TableError, TaskFaults

if TYPE_CHECKING:
    from medtask.cli.census import Census
    from medtask.data.table import Table
    from medtask.engines.base import Engine
    from medtask.records import Prompt
    from medtask.tasks.rows import UnknownGold
    from medtask.tasks.task import Task

_NEIGHBOURS = 64  # rows that are read beside the one that is shown, to find what they share
_TRIALS = (8, 32)  # rows that are timed: a few first, since a big model may need minutes for many
_PATIENCE_SECONDS = 3.0


def check(
    task: TaskPath,
    data: DataSource = None,
    row: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Show the exact text that is read for row K."),
    ] = None,
    record_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The same, for the row with this id.")
    ] = None,
    model: ModelName = None,
    sheet: SheetName = None,
    measure: Annotated[
        bool, typer.Option(help="Time a few rows, to tell how long a run takes.")
    ] = True,
    allow_remote: AllowRemote = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON document about one row (the first, if none is named)."
        ),
    ] = False,
) -> None:
    """Try a task on its table before it is run."""
    from medtask.tasks.load import load_task

    try:
        question = load_task(task)
        with open_table(question, data, sheet) as table:
            check_table(question, table)
            load = partial(load_engine, choose_model(question, model), allow_remote=allow_remote)
            if as_json or row is not None or record_id is not None:
                _show_row(question, table, load, row or 1, record_id, as_json)
            else:
                _show_all(question, table, load, measure)
    except TaskFaults as error:
        if as_json:
            from medtask.cli.look import describe_faults

            show.show_json(describe_faults(error))
        raise


def _show_row(
    task: Task,
    table: Table,
    load: Callable[[], Engine],
    row: int,
    record_id: str | None,
    as_json: bool,
) -> None:
    from medtask.cli.look import describe_look, find_record, look_at, show_look
    from medtask.records import Prompt
    from medtask.tasks.prompt import build_prompt
    from medtask.tasks.rows import read_records

    record = find_record(task, table, row, record_id)
    others = [build_prompt(task, other) for other in islice(read_records(task, table), _NEIGHBOURS)]
    with closing(load()) as engine:
        look = look_at(
            task, engine, record, [other for other in others if isinstance(other, Prompt)]
        )
    if as_json:
        show.show_json(describe_look(look))
    else:
        show_look(look)


def _show_all(task: Task, table: Table, load: Callable[[], Engine], measure: bool) -> None:
    from medtask.cli.census import Census, take_census
    from medtask.data.read import survey
    from medtask.tasks.rows import read_records, unknown_gold

    survey(table, task.id_column)
    census = Census()
    unknown = unknown_gold(task, take_census(task, read_records(task, table), census))
    _show_task(task, table, census)
    for warning in (*task.warnings, *_warn_of_gold(task, unknown)):
        show.warn(warning)
    if not census.asked:
        raise TableError(
            f"{table.source} has no row with a text to ask about",
            fix="check which column the task's input uses",
        )
    with closing(load()) as engine:
        _show_cost(task, engine, census)
        _show_plan(task, engine, census, measure)


def _show_task(task: Task, table: Table, census: Census) -> None:
    from medtask.cli.outline import describe_form, describe_passes, list_inputs

    names = f"id {task.id_column}" if task.id_column else "rows numbered"
    show.say(f"{task.name}: {task.kind}, {describe_form(task)}, input {list_inputs(task)}, {names}")
    show.fact("table", describe_table(table, census.rows))
    for status, rows in sorted(census.unaskable.items()):
        show.fact(
            status.value.replace("_input", "").replace("_", " "),
            f"{show.count(rows, 'row')} cannot be asked",
        )
    repeats = census.asked - census.count_different()
    if repeats:
        many = (
            "repeat an earlier text: they are" if repeats > 1 else "repeats an earlier text: it is"
        )
        show.fact(
            "duplicates", f"{repeats:,} of {show.count(census.rows, 'row')} {many} asked once"
        )
    if task.gold_column:
        show.fact(
            "gold", f'{show.count(census.gold, "row")} with gold in column "{task.gold_column}"'
        )
    if task.reasoning:
        show.fact(
            "reasoning",
            f"the model thinks for at most {show.count(task.reasoning.budget, 'token')} before "
            "it answers",
        )
    for line in describe_passes(task):
        show.fact("pass", line)


def _warn_of_gold(task: Task, unknown: dict[str, UnknownGold]) -> Iterator[str]:
    from medtask.cli.outline import describe_strange_gold

    for value, found in unknown.items():
        meant = f' - did you mean "{found.meant}"?' if found.meant else ""
        yield (
            f"{describe_strange_gold(task, value)}: {show.count(found.count, 'row')}, the "
            f"first is row {found.first_row:,}{meant}"
        )


def _show_cost(task: Task, engine: Engine, census: Census) -> None:
    """Tokens of the sample, and warnings about the longest rows."""
    from medtask.tasks.task import Fields, FreeText

    plan, longest, rendering = (
        engine.plan(census.sample),
        engine.plan(census.longest),
        engine.render(census.longest[0]),
    )
    if plan is None or longest is None or rendering is None:
        show.fact("prompt", f"{engine.info.title} does not tell its tokens")
        return
    own = sum(plan.own) / len(plan.own)
    sizes = [longest.shared + tokens for tokens in longest.own]
    tokens = f"{plan.shared:,} shared + {own:.0f} own tokens a row (longest {max(sizes):,})"
    if isinstance(task.form, FreeText | Fields):
        more = f"at most {task.form.max_tokens:,} to write"
    else:
        more = (
            f"{plan.label:.1f} more to tell the "
            f"{'options' if task.kind == 'choice' else 'labels'} apart"
        )
    show.fact("prompt", f"{tokens}, {more}")
    for warning in plan.warnings:
        show.warn(warning)
    answer = max(map(len, rendering.candidate_tokens), default=1)
    too_long = sum(size + answer > plan.limit for size in sizes)
    if too_long:
        least = "at least " if too_long == len(sizes) else ""
        fate = {
            "error": "be too long",
            "head_tail": "lose their middle",
            "chunk": "be read in parts",
        }[task.gate.too_long]
        show.warn(
            f"{least}{show.count(too_long, 'row')} will {fate}: the model reads at most "
            f"{plan.limit:,} tokens"
        )


def _show_plan(task: Task, engine: Engine, census: Census, measure: bool) -> None:
    different = census.count_different()
    if not measure:
        show.fact("plan", f"{engine.info.title}: {show.count(different, 'prompt')} to ask")
        return
    rows, seconds = _time_rows(task, engine, census.sample)
    expected = show.duration(different * seconds / rows)
    first = " for the first pass" if task.passes else ""
    show.fact(
        "plan",
        f"{engine.info.title}: {expected} on this machine{first} (measured on "
        f"{show.count(rows, 'row')})",
    )


def _time_rows(task: Task, engine: Engine, sample: Sequence[Prompt]) -> tuple[int, float]:
    """How many different prompts were asked, and in how many seconds."""
    from medtask.decision.asking import ask
    from medtask.tasks.prompt import prompt_key

    different = list({prompt_key(prompt): prompt for prompt in sample}.values())
    rows, seconds = 1, 0.0
    for size in _TRIALS:
        trial = different[:size]
        start = time.perf_counter()
        for _ in ask(task, engine, trial):
            pass
        rows, seconds = len(trial), time.perf_counter() - start
        if seconds > _PATIENCE_SECONDS or len(trial) < size:
            break
    return rows, seconds
