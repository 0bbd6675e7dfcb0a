"""`medtask bench`: the speed and memory of models on a task, by batch size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    Offline,
    OnDuplicate,
    Quiet,
    TaskPath,
    choose_model,
    disable_downloads,
    open_table,
)
from medtask.cli.model_options import add_load_options
from medtask.cli.table_options import add_read_options
from medtask.display import format_bytes, format_count, format_estimated_duration
from medtask.engines.load_options import LoadOptions
from medtask.errors import UsageError
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.runs.benchmark import ModelBenchmark


@add_read_options
@add_load_options
def bench(
    task: TaskPath,
    data: DataSource = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            "--model",
            metavar="A,B",
            help="Models to measure, separated by commas; default: the task's model.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Rows to measure, short and long ones; default: as many as take about 8 seconds.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the selection of rows.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the curves into a .svg or .png file."),
    ] = None,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    load_options: LoadOptions,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory by batch size; runs use the best size.

    The same rows are asked with each size. Ctrl-C ends the measurements and shows those made so
    far.
    """
    from medtask.runs.benchmark import benchmark
    from medtask.tasks.load import load_task

    disable_downloads(offline)
    loaded_task = load_task(task)
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    if models is not None and not names:
        raise UsageError("--models names no model", fix="name models separated by commas")

    options = replace(read_options, on_duplicate=on_duplicate)
    with open_table(loaded_task, data, options) as table:
        result = benchmark(
            loaded_task,
            table,
            models=names or [choose_model(loaded_task, None)],
            rows=rows,
            seed=seed,
            out=out,
            load_options=load_options,
            progress=show.make_step_printer(quiet=quiet),
        )
    if as_json:
        show.print_json(result.to_json())
    else:
        show.print_line(
            (result.task, "bold"), f": {result.table}, {format_count(result.table_rows, 'row')}"
        )
        for model in result.models:
            _print_model(model)
        if result.report:
            show.print_line((str(result.report), "bold"))
        if result.exit_code:
            show.print_line("Stopped: the measurements are not complete, and no size is chosen.")
    raise typer.Exit(result.exit_code)


def _print_model(model: ModelBenchmark) -> None:
    measured = f"measured on {format_count(model.rows, 'row')}"
    if model.unit is None:
        measured += "; this engine has no batch size to choose"
    show.print_line((f"\n{model.model}", "bold"), f", {measured}")
    header = f"  {model.unit or '':>10}{'rows/s':>12}{'tokens/s':>12}{'memory':>12}"
    show.print_line((header, "dim"))
    for point in model.points:
        size = "" if point.size is None else f"{point.size:,}"
        tokens = "" if point.tokens_per_s is None else f"{point.tokens_per_s:,.0f}"
        memory = "" if point.peak_bytes is None else format_bytes(point.peak_bytes)
        is_chosen = point.size is not None and point.size == model.chosen
        remark = "  used by runs of this task" if is_chosen else ""
        if point.size == model.default != model.chosen:
            remark = "  the default"
        show.print_line(
            f"{'*' if is_chosen else ' '} {size:>10}{point.rows_per_s:>12,.1f}"
            f"{tokens:>12}{memory:>12}",
            (remark, "green"),
        )
    if model.run_seconds is not None:
        tokens = "" if model.run_tokens is None else f", {model.run_tokens:,.0f} tokens"
        show.print_line(
            f"  a full run: {format_count(model.prompts, 'prompt')}{tokens}, "
            f"{format_estimated_duration(model.run_seconds)}"
        )
