"""`medtask run`: a task's question, put to every row of a table."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtask.cli import show
from medtask.cli.inputs import (
    AllowRemote,
    AllowUnverified,
    AsJson,
    ContextTokens,
    DataSource,
    GoldColumn,
    ModelName,
    NumberFormat,
    Offline,
    Quiet,
    SheetName,
    TaskPath,
    TokenizerName,
    choose_model,
    forbid_downloads,
    load_engine,
    open_table,
)
from medtask.cli.tracking import TrackWhere, open_tracking, tell_tracking
from medtask.errors import UsageError

if TYPE_CHECKING:
    from medtask.cli.progress import Meter
    from medtask.engines.base import Engine
    from medtask.runs.local import RunResult
    from medtask.tasks.task import Task

_DOING = {
    "label": "Labelling",
    "labels": "Labelling",
    "choice": "Answering",
    "answer": "Answering",
    "fields": "Reading the fields of",
}


def run(
    task: TaskPath,
    data: DataSource = None,
    model: ModelName = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder; default: a new one in TASK/runs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask the first N rows only.")
    ] = None,
    gold: GoldColumn = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMATS", help="Tables of answers to write: csv, parquet, xlsx, jsonl."
        ),
    ] = "csv,parquet",
    sheet: SheetName = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A PEFT adapter to put on the model.")
    ] = None,
    dtype: NumberFormat = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the model computes.")
    ] = "auto",
    quantize: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Smaller weights, on CUDA.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="What the model may take, as in 8GB.")
    ] = None,
    allow_remote: AllowRemote = False,
    context_tokens: ContextTokens = None,
    tokenizer: TokenizerName = None,
    allow_unverified_context: AllowUnverified = False,
    uncalibrated: Annotated[
        bool,
        typer.Option("--uncalibrated", help="Leave a calibration of this task and model aside."),
    ] = False,
    track: TrackWhere = None,
    max_error_rate: Annotated[
        float,
        typer.Option(min=0, max=1, help="Exit with 3 where more rows than this got no answer."),
    ] = 0.05,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Start afresh beside earlier runs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take a run over whose process on another host has died."),
    ] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer a task's question for every row of a table.

    Run the same command again to go on where it was stopped: nothing is asked twice.
    """
    from medtask.cli.progress import choose_meter
    from medtask.runs.local import run as run_locally
    from medtask.tasks.load import load_task

    forbid_downloads(offline)
    question = load_task(task)
    meter = choose_meter(quiet=quiet, doing=_DOING[question.kind])
    here = {
        "dtype": dtype,
        "device": device,
        "quantize": quantize,
        "adapter": adapter,
        "memory": memory,
    }
    there = {
        "context": context_tokens,
        "tokenizer": tokenizer,
        "allow_unverified_context": allow_unverified_context,
    }
    options, tracker = (
        {**here, **there, "allow_remote": allow_remote},
        open_tracking(track, question, out, allow_remote=allow_remote),
    )
    with (
        open_table(question, data, sheet, partial(_open_spool, question, out, new_run)) as table,
        meter,
        redirect_stdout(sys.stderr),
    ):
        result = run_locally(
            question,
            lambda: _load(question, model, options, meter),
            table,
            out=out,
            limit=limit,
            gold_column=gold,
            formats=_split_formats(to),
            max_error_rate=max_error_rate,
            new_run=new_run,
            force_lock=force,
            progress=meter,
            allow_remote=allow_remote,
            calibrated=not uncalibrated,
        )
    told = tell_tracking(
        tracker if result.summary else None,
        "run",
        question,
        result.folder,
        _describe(result, meter),
    )
    show.show_json(told) if as_json else _show(
        result, resume=" without --new-run" if new_run else ""
    )
    raise typer.Exit(result.exit_code)


def _split_formats(to: str) -> list[str]:
    return [name.strip().lower() for name in to.split(",") if name.strip()]


def _load(task: Task, model: str | None, options: dict[str, Any], meter: Meter) -> Engine:
    from medtask.hardware import parse_bytes

    reference = choose_model(task, model)
    if not (model or task.model):
        meter.on_note(
            f"no model is named: {reference} answers, which knows little without training; name "
            "one with --model"
        )
    if task.phi and options["allow_remote"]:
        fix = "leave --allow-remote out: such a task is answered on this machine"
        raise UsageError(
            "the task says `phi: true`: its records may go to no other machine", fix=fix
        )
    meter.on_load(reference)
    adapter, memory = options["adapter"], options["memory"]
    plain = {
        "adapter": str(adapter) if adapter else None,
        "memory": parse_bytes(memory) if memory else None,
    }
    engine = load_engine(reference, **options | plain)
    meter.title = engine.info.title
    notes = engine.info.details.get("notes")
    for note in notes if isinstance(notes, list) else ():
        meter.on_note(str(note))
    return engine


def _open_spool(task: Task, out: Path | None, new_run: bool) -> Path:
    """Where standard input is kept meanwhile: with the run, so that even a killed one leaves no
    text elsewhere.
    """
    from medtask.runs.folder import open_folder, open_home

    return open_folder(out, new_run=new_run) if out else open_home(task)


def _describe(result: RunResult, meter: Meter) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "state": result.state,
        "model": meter.title,
        "rows": result.rows,
        "statuses": {status.value: rows for status, rows in result.counts.items()},
        "metrics": _describe_metrics(result),
        "asked": result.asked,
        "seconds": round(result.seconds, 3),
        "seconds_to_first_answer": None
        if meter.first_answer is None
        else round(meter.first_answer, 3),
        "rows_per_s": round(meter.rate(), 3),
        "tokens_read": result.tokens_read,
        "tokens_reused": result.tokens_reused,
        "notes": list(result.notes),
        "exit_code": result.exit_code,
    }


def _describe_metrics(result: RunResult) -> dict[str, Any] | None:
    """Estimates as value, n, low and high (95 %), and for the kinds with more than one part what
    those are; None without gold.
    """
    gold = result.summary.gold if result.summary else None
    if result.summary is None or gold is None or gold.quality is None:
        return None
    figures = {
        measure: asdict(figure) if figure else None
        for measure, figure in gold.quality.figures.items()
    }
    details = {} if result.summary.kind == "label" else {"details": gold.quality.to_json()}
    passes = (
        {"passes": [asdict(one) for one in result.summary.passes]} if result.summary.passes else {}
    )
    return {
        **figures,
        "baselines": {baseline.name: baseline.to_json() for baseline in result.baselines},
        **details,
        **passes,
    }


def _show(result: RunResult, resume: str) -> None:
    if result.summary is None:
        answered = sum(result.counts.values())
        show.say(
            f"Stopped: {answered:,} of {show.count(result.rows, 'row')} have their answers, in "
            f"{result.folder}"
        )
        show.say(f"Run the same command again{resume}: nothing is asked twice.")
        return
    from medtask.evaluate.summary import summary_lines

    for line in summary_lines(result.summary, result.baselines):
        show.say(line)
    files = [*sorted(file.name for file in result.folder.glob("answers.*")), "report.html"]
    show.say((f"{result.folder}{os.sep}", "bold"), f"   {'  '.join(files)}")
    if result.exit_code == 3:
        show.say(
            ("warning: ", "yellow"),
            "more rows than --max-error-rate allows got no answer; the report tells why",
            stderr=True,
        )
