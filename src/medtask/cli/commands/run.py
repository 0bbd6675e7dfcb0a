"""`medtask run`: answer a task for every row of a table."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medtask.cli import console as show
from medtask.cli.inputs import (
    AsJson,
    DataSource,
    FlipCheck,
    ModelName,
    Offline,
    OnDuplicate,
    Quiet,
    TaskPath,
    choose_model,
    describe_default_model,
    disable_downloads,
    open_table,
)
from medtask.cli.model_options import add_load_options, load_shown_engine
from medtask.cli.ray_options import RayOptions, add_ray_options
from medtask.cli.run_options import add_run_options
from medtask.cli.table_options import add_read_options
from medtask.cli.tracking import TrackingStore, open_tracking, report_to_tracker
from medtask.display import format_count, format_path
from medtask.engines.load_options import LoadOptions
from medtask.errors import UsageError
from medtask.records import Status
from medtask.runs.run_values import RunValues, ShardedRunValues
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
@add_run_options
def run(
    task: TaskPath,
    data: DataSource = None,
    model: ModelName = None,
    *,
    read_options: ReadOptions,
    on_duplicate: OnDuplicate = None,
    load_options: LoadOptions,
    ray_options: RayOptions | None,
    run_options: RunValues,
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
    flip_check: FlipCheck = 0,
    track: TrackingStore = None,
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
    if data == "-" and (shards or workers or ray_options):
        raise UsageError(
            "a run in shards cannot read standard input",
            fix="write the table to a file, and name it",
        )
    loaded_task = load_task(task)
    display = RunProgressDisplay(quiet=quiet, activity=loaded_task.kind_spec.activity)
    allow_remote = load_options.allow_remote
    read_options = replace(read_options, on_duplicate=on_duplicate)
    out = None if run_options["out"] is None else Path(run_options["out"])
    tracker = open_tracking(track, loaded_task, out, allow_remote=allow_remote)
    with (
        open_table(
            loaded_task,
            data,
            read_options,
            partial(_open_spool_folder, loaded_task, out, run_options["new_run"]),
        ) as table,
        display,
        redirect_stdout(sys.stderr),
    ):
        work = _RunWork(loaded_task, table, model, load_options, display)
        result = _answer(
            work,
            (shards, workers, gpus),
            ray_options,
            **run_options,
            cascade=cascade,
            cache=cache_file or cache,
            flip_check=flip_check,
            force_lock=force,
        )
    document = result.to_json()
    if display.first_answer_s is not None:
        # From the start of the command: reading the table is part of what the user waits for.
        document["seconds_to_first_answer"] = round(display.first_answer_s, 3)
    document = report_to_tracker(
        tracker if result.summary else None, "run", loaded_task, result.folder, document
    )
    show.print_json(document) if as_json else print_result(
        result, resume_note=" without --new-run" if run_options["new_run"] else "", quiet=quiet
    )
    if not (as_json or quiet):
        for hint in _list_hints(result, loaded_task):
            show.print_note(hint)
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True, slots=True)
class _RunWork:
    """What is answered, and where progress is shown; ``model`` is None for the default."""

    task: Task
    table: Table
    model: str | None
    load_options: LoadOptions
    display: RunProgressDisplay

    @property
    def reference(self) -> str:
        """The reference of the model."""
        return choose_model(self.task, self.model)

    def load_engine(self) -> Engine:
        if not (self.model or self.task.model):
            self.display.on_note(describe_default_model(self.reference))
        return load_shown_engine(self.reference, self.load_options, self.display)


def _answer(
    work: _RunWork,
    split: tuple[int | None, int | None, tuple[str, ...]],
    ray_options: RayOptions | None,
    **options: Any,
) -> Run:
    """Answer the rows in this process, in shards on this machine, or on a Ray cluster.

    ``split`` is the number of shards, that of workers, and the GPUs of which each worker sees one.
    """
    shards, workers, devices = split
    if not (shards or workers or ray_options):
        from medtask.runs.local_run import run as run_task

        return run_task(
            work.task,
            work.load_engine,
            work.table,
            progress=work.display,
            allow_remote=work.load_options.allow_remote,
            **options,
        )
    from medtask.scaling.sharded_run import check_sharded_options

    check_sharded_options(cache=bool(options.pop("cache")), cascade=options.pop("cascade"))
    if ray_options is None:
        return _run_in_shards(work, (shards, workers or 1, devices), **options)
    if shards or workers:
        raise UsageError(
            "--shards and --workers are for this machine",
            fix="leave them out: --ray-shards and --ray-workers are those of a Ray cluster",
        )
    from medtask.scaling.ray_shards import run_on_ray

    work.display.model_title = work.reference
    return run_on_ray(
        work.task,
        work.reference,
        work.table,
        address=ray_options.address,
        workers=ray_options.workers,
        shards=ray_options.shards,
        progress=work.display,
        **options,
        **work.load_options.to_values(),
    )


def _run_in_shards(
    work: _RunWork,
    split: tuple[int | None, int, tuple[str, ...]],
    *,
    flip_check: int,
    force_lock: bool,
    **options: Any,
) -> Run:
    from medtask.scaling.planning import make_request
    from medtask.scaling.sharded_run import run_in_shards

    shards, workers, devices = split
    values = cast("ShardedRunValues", {**options, **work.load_options.to_values()})
    request = make_request(work.task, work.table, work.reference, shards, values)
    if workers > 1 or devices:
        work.display.model_title = work.reference
    return run_in_shards(
        replace(request, workers=workers, devices=devices),
        load=work.load_engine,
        flip_check=flip_check,
        force_lock=force_lock,
        progress=work.display,
    )


def _open_spool_folder(task: Task, out: Path | None, new_run: bool) -> Path:
    """The folder that standard input is stored in: the run folder, so that no text remains
    elsewhere after a kill.
    """
    from medtask.runs.folder import open_run_folder, open_runs_folder

    return open_run_folder(out, new_run=new_run) if out else open_runs_folder(task)


def _list_hints(result: Run, task: Task) -> list[str]:
    """What to do about rows that have no answer, or that all need a person."""
    from medtask.runs.manifest import read_manifest

    hints = []
    reviewed, sure = (result.statuses.get(status, 0) for status in (Status.REVIEW, Status.OK))
    bound = f"is below {task.review.confidence_below:g}"
    causes = result.summary.causes if result.summary else ()
    # Other rows are for review for another reason, such as an instruction in their text.
    low = sum(one.count for one in causes if one.status is Status.REVIEW and bound in one.example)
    if low > sure and task.kind_spec.has_labels:
        cause = (
            "the confidence is calibrated, so they are often wrong. A model that is trained on "
            "gold is surer: medtask train"
            if (read_manifest(result.folder) or {}).get("calibration")
            else "a model that has not learned these labels well spreads its confidence over all "
            "of them. Gold gives a threshold that fits: medtask evaluate --max-error 0.05, or "
            "--calibrate auto"
        )
        hints.append(
            f"{low:,} of {format_count(reviewed + sure, 'answer')} have a confidence below "
            f"{task.review.confidence_below:g} and the status review: {cause}"
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
        show.print_note(
            "more rows than --max-error-rate allows have no answer; see the report", "warning"
        )
