"""`medtask run`: answer a task for every row of a table."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    GoldColumn,
    ModelName,
    Offline,
    OnDuplicate,
    Quiet,
    TaskPath,
    choose_model,
    describe_default_model,
    disable_downloads,
    open_table,
    split_formats,
)
from medtask.cli.model_options import add_load_options, load_shown_engine
from medtask.cli.ray_options import RayOptions, add_ray_options
from medtask.cli.table_options import add_read_options
from medtask.cli.tracking import TrackingStore, open_tracking, report_to_tracker
from medtask.display import format_count, format_path
from medtask.engines.load_options import LoadOptions
from medtask.errors import UsageError
from medtask.records import Status
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.cli.progress import RunProgressDisplay
    from medtask.engines.base import Engine
    from medtask.runs.local_run import Run
    from medtask.tables.table import Table
    from medtask.tasks.task import Task


@add_read_options
@add_load_options
@add_ray_options
def run(
    task: TaskPath,
    data: DataSource = None,
    model: ModelName = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder; default: a new folder in TASK/runs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use only the first N rows.")
    ] = None,
    gold: GoldColumn = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS",
            help="Answer tables to write, separated by commas: csv, parquet, xlsx, jsonl; default: "
            "csv,parquet, and xlsx if the table is a workbook.",
        ),
    ] = None,
    *,
    wide: Annotated[
        bool,
        typer.Option("--wide", help="Give fields columns of their own in CSV, as in XLSX."),
    ] = False,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    load_options: LoadOptions,
    ray_options: RayOptions | None,
    uncalibrated: Annotated[
        bool,
        typer.Option("--uncalibrated", help="Do not apply a stored calibration."),
    ] = False,
    cascade: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="Let a small classifier answer the rows in which it agrees with the model; at "
            "most this share of all rows may differ, such as 0.02.",
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Reuse answers of earlier runs, and keep those of this one."),
    ] = False,
    cache_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE.db", help="The cache; default: in the user's cache folder."),
    ] = None,
    flip_check: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Ask N rows again in other batches, and report how many answers change.",
        ),
    ] = 0,
    track: TrackingStore = None,
    max_error_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Exit with code 3 if the share of rows without an answer is higher."
        ),
    ] = 0.05,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Answer the rows in N parts, of which each is complete or not; for large tables.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Answer in N processes on this machine, which divide its cores; each loads the "
            "model.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="GPUs by number or UUID: one process for each, or --workers N divided among them.",
        ),
    ] = None,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Start a new run instead of resuming.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take over a run whose process on another host has died."),
    ] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer a task's question for every row of a table.

    Running the same command again resumes an interrupted run; answered rows are not repeated. When
    the table has changed, rows whose text is unchanged keep their answers.
    """
    if not quiet:  # before the imports, which take most of the time until the next line
        show.print_line(f"Reading {format_path(task)}", stderr=True)
    from medtask.cli.progress import RunProgressDisplay
    from medtask.tasks.load import load_task

    disable_downloads(offline)
    gpus = tuple(filter(None, (name.strip() for name in (devices or "").split(","))))
    workers = workers or len(gpus) or None
    if data == "-" and (shards or workers):
        raise UsageError(
            "a run in shards cannot read standard input",
            fix="write the table to a file, and name it",
        )
    loaded_task = load_task(task)
    display = RunProgressDisplay(quiet=quiet, activity=loaded_task.kind_spec.activity)
    allow_remote = load_options.allow_remote
    read_options = replace(read_options, on_duplicate=on_duplicate)
    tracker = open_tracking(track, loaded_task, out, allow_remote=allow_remote)
    with (
        open_table(
            loaded_task, data, read_options, partial(_open_spool_folder, loaded_task, out, new_run)
        ) as table,
        display,
        redirect_stdout(sys.stderr),
    ):
        in_shards = partial(_run_in_shards, split=(shards, workers or 1, gpus))
        result = (in_shards if shards or workers else _run_task)(
            loaded_task,
            table,
            (model, load_options),
            display,
            ray_options,
            out=out,
            limit=limit,
            gold=gold,
            formats=None if to is None else split_formats(to),
            max_error_rate=max_error_rate,
            new_run=new_run,
            force_lock=force,
            calibrated=not uncalibrated,
            cascade=cascade,
            cache=cache_file or cache,
            wide=wide,
            flip_check=flip_check,
        )
    document = result.to_json()
    if display.first_answer_s is not None:
        # From the start of the command: reading the table is part of what the user waits for.
        document["seconds_to_first_answer"] = round(display.first_answer_s, 3)
    document = report_to_tracker(
        tracker if result.summary else None, "run", loaded_task, result.folder, document
    )
    show.print_json(document) if as_json else print_result(
        result, resume_note=" without --new-run" if new_run else "", quiet=quiet
    )
    if not (as_json or quiet):
        for hint in _list_hints(result, loaded_task):
            show.print_line(("note: ", "yellow"), hint, stderr=True)
    raise typer.Exit(result.exit_code)


def _run_task(
    task: Task,
    table: Table,
    model: tuple[str | None, LoadOptions],
    display: RunProgressDisplay,
    ray_options: RayOptions | None,
    **options: Any,
) -> Run:
    """Answer the rows in this process, or on a Ray cluster."""
    reference, load_options = model
    if ray_options is None:
        from medtask.runs.local_run import run as run_task

        return run_task(
            task,
            lambda: _load_engine(task, reference, load_options, display),
            table,
            progress=display,
            allow_remote=load_options.allow_remote,
            **options,
        )
    from medtask.scaling.ray_shards import run_on_ray

    if options.pop("cascade") is not None or options.pop("cache") or options.pop("flip_check"):
        raise UsageError(
            "--cascade, --cache and --flip-check are for runs in one process",
            fix="leave them out, or run without --ray",
        )
    return run_on_ray(
        task,
        choose_model(task, reference),
        table,
        address=ray_options.address,
        workers=ray_options.workers,
        shards=ray_options.shards,
        progress=display,
        **options,
        **{name: getattr(load_options, name) for name in load_options.list_given()},
    )


def _run_in_shards(
    task: Task,
    table: Table,
    model: tuple[str | None, LoadOptions],
    display: RunProgressDisplay,
    ray_options: RayOptions | None,
    *,
    split: tuple[int | None, int, tuple[str, ...]],
    **options: Any,
) -> Run:
    """`medtask.run` with its options, in shards: ``split`` is their number, that of workers, and
    the GPUs of which each worker sees one.
    """
    shards, workers, devices = split
    from medtask.scaling.plan import PlannedOptions
    from medtask.scaling.planning import PlanRequest
    from medtask.scaling.sharded_run import check_sharded_options, run_in_shards

    check_sharded_options(
        cache=bool(options["cache"]),
        cascade=options["cascade"],
        flip_check=options["flip_check"],
    )
    if ray_options is not None:
        raise UsageError(
            "--shards and --workers are for this machine",
            fix="leave them out: --ray-shards and --ray-workers are those of a Ray cluster",
        )
    reference, load_options = model
    kept = PlannedOptions(
        limit=options["limit"],
        gold=options["gold"],
        formats=None if options["formats"] is None else tuple(options["formats"]),
        max_error_rate=options["max_error_rate"],
        calibrated=options["calibrated"],
        wide=options["wide"],
    )
    request = PlanRequest(
        task,
        table,
        (choose_model(task, reference), load_options),
        kept,
        shards,
        workers,
        new_run=options["new_run"],
        devices=devices,
    )
    return run_in_shards(
        request,
        options["out"],
        load=partial(_load_engine, task, reference, load_options, display),
        force_lock=options["force_lock"],
        progress=display,
    )


def _load_engine(
    task: Task, model: str | None, options: LoadOptions, display: RunProgressDisplay
) -> Engine:
    reference = choose_model(task, model)
    if not (model or task.model):
        display.on_note(describe_default_model(reference))
    return load_shown_engine(reference, options, display)


def _open_spool_folder(task: Task, out: Path | None, new_run: bool) -> Path:
    """The folder that standard input is stored in: the run folder, so that no text remains
    elsewhere after a kill.
    """
    from medtask.runs.folder import open_run_folder, open_runs_folder

    return open_run_folder(out, new_run=new_run) if out else open_runs_folder(task)


def _list_hints(result: Run, task: Task) -> list[str]:
    """What to do about rows that have no answer, or that all need a person."""
    hints = []
    reviewed, sure = (result.statuses.get(status, 0) for status in (Status.REVIEW, Status.OK))
    if reviewed > sure and task.kind_spec.has_labels:
        hints.append(
            f"{reviewed:,} of {format_count(reviewed + sure, 'answer')} have a confidence below "
            f"{task.review.confidence_below:g} and are review: a model that was not trained on "
            "these labels spreads its confidence over all of them. Gold gives a threshold that "
            "fits: medtask evaluate --max-error 0.05, or --calibrate auto"
        )
    too_long = result.statuses.get(Status.TOO_LONG, 0)
    if too_long and task.gate.too_long == "error":
        hints.append(
            f"{format_count(too_long, 'row')} too long for the model: gate: {{too_long: chunk}} in "
            "the task reads such rows in parts"
        )
    return hints


def _is_first_run(folder: Path) -> bool:
    return len(list(folder.parent.glob("*/manifest.json"))) == 1


def print_result(result: Run, *, resume_note: str = "", quiet: bool = False) -> None:
    """Print the statistics and the files of a run."""
    if result.summary is None:
        answered = sum(result.statuses.values())
        show.print_line(
            f"Stopped: {answered:,} of {format_count(result.rows, 'row')} are answered, in "
            f"{result.folder}"
        )
        show.print_line(f"Run the same command again{resume_note} to resume.")
        return
    from medtask.evaluation.report.terminal_summary import format_summary_lines

    for line in format_summary_lines(result.summary, result.baselines):
        show.print_line(line)
    if result.cached_answers:
        show.print_line(
            f"{result.cached_answers:,} of {format_count(result.rows, 'row')} from the cache"
        )
    files = [*sorted(file.name for file in result.folder.glob("answers.*")), "report.html"]
    show.print_line((f"{result.folder}{os.sep}", "bold"), f"   {'  '.join(files)}")
    if not quiet and "answers.xlsx" not in files and _is_first_run(result.folder):
        show.print_line(
            "For spreadsheets: --to xlsx writes answers.xlsx, in which ids keep their zeros",
            stderr=True,
        )
    if result.exit_code == 3:
        show.print_line(
            ("warning: ", "yellow"),
            "more rows than --max-error-rate allows have no answer; see the report",
            stderr=True,
        )
