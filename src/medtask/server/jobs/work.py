"""The functions that run in the processes of jobs: the verbs of medtask, with paths as arguments.

Heavy modules are imported when they are used. No result contains the text of a record.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.errors import RunMismatch
from medtask.records import Status
from medtask.runs.lock import lock_run
from medtask.server.jobs.arguments import (
    JobArguments,
    drop_paths,
    get_load_options,
    make_loader,
    open_table,
    open_task,
)
from medtask.server.jobs.messages import JobOutcome, make_problem
from medtask.server.jobs.observer import JobObserver

# Statuses of rows that have been read by a model and have an answer, or a reasoned "none".
_ANSWERED = (Status.OK, Status.REVIEW, Status.ABSTAINED)
_SELECTION_FIELDS = ("share", "min_count", "cap", "max_validation")


def answer_table(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.run`. A run in which no row has an answer is a failure."""
    from medtask.runs.local_run import run

    observer.set_phase("reading")
    folder = Path(arguments["folder"])
    _take_over(folder, arguments)
    result = run(
        open_task(arguments),
        make_loader(arguments, observer),
        open_table(arguments),
        out=folder,
        allow_remote=arguments["load_options"]["allow_remote"],
        progress=observer,
        **arguments["settings"],
    )
    document = drop_paths(result.to_json())
    if result.state == "interrupted":
        return JobOutcome("interrupted", document)
    if not any(result.statuses.get(status, 0) for status in _ANSWERED):
        return JobOutcome("failed", document, _describe_no_answers(result.statuses))
    return JobOutcome("succeeded", document)


def _describe_no_answers(statuses: Mapping[Status, int]) -> dict[str, str]:
    listed = ", ".join(f"{rows:,} {status.value}" for status, rows in sorted(statuses.items()))
    return make_problem(
        "No results",
        f"no row has an answer ({listed})",
        "look at the column reason of the answers, and at the input columns of the task",
    )


def train_model(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.train`. After a signal, the best state so far is a model if there is one.

    A training that cannot be resumed, because the task has changed since, starts anew.
    """
    observer.set_phase("reading")
    folder = Path(arguments["folder"])
    if arguments["starts_anew"] and not arguments["is_retry"]:
        _empty_folder(folder)
    _take_over(folder, arguments)
    if not arguments["method"]:
        return _measure_base(arguments, observer)
    try:
        return _train(arguments, observer)
    except RunMismatch:
        observer.on_note("the earlier training is of another task or other settings: starting anew")
        _empty_folder(folder)
        return _train(arguments, observer)


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


def _train(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    from medtask.training.train import train
    from medtask.training.training_data import RowSelection

    settings = dict(arguments["settings"])
    selection = {name: settings.pop(name) for name in _SELECTION_FIELDS if name in settings}
    memory = arguments["load_options"]["memory"]
    if memory is not None:
        settings["memory"] = memory
    model = train(
        open_task(arguments),
        open_table(arguments),
        out=Path(arguments["folder"]),
        method=arguments["method"],
        base=arguments["base"],
        selection=RowSelection(**selection),
        observer=observer,
        **settings,
    )
    has_model = bool(model.task_results) or model.state == "finished"
    document = drop_paths(model.to_json()) if has_model else None
    return JobOutcome("succeeded" if model.state == "finished" else "interrupted", document)


def _measure_base(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """Measure a model that is used without training: a run over some rows, beside the model.

    The result has the form of a training's, so that models can be compared.
    """
    folder = Path(arguments["folder"]) / "validation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    run_arguments = {**arguments, "folder": str(folder), "model": arguments["base"]}
    run_arguments["settings"] = {**arguments["settings"], "baselines": False}
    outcome = answer_table(run_arguments, observer)
    if outcome.result is None:
        return outcome
    metrics = {
        name: metric
        for name, metric in (outcome.result["metrics"] or {}).items()
        if isinstance(metric, dict) and "value" in metric
    }
    measured = {"metrics": metrics, "measure": next(iter(metrics), "")}
    return replace(outcome, result={**outcome.result, "tasks": [measured]})


def evaluate_run(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.evaluate` of a run folder."""
    from medtask.runs.evaluation import evaluate

    observer.set_phase("evaluating")
    evaluation = evaluate(
        arguments["folder"], progress=observer.on_baseline, **arguments["settings"]
    )
    return _finish(evaluation.to_json(), evaluation.n, "no row has both an answer and gold")


def compare_runs(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.compare` of run folders."""
    from medtask.runs.comparison import compare

    observer.set_phase("comparing")
    comparison = compare(
        arguments["folders"],
        out=arguments["page"],
        progress=observer.on_baseline,
        **arguments["settings"],
    )
    return _finish(comparison.to_json(), comparison.n, "no row was answered by all of the runs")


def measure_models(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.benchmark` of models on a data set."""
    from medtask.runs.benchmark import benchmark

    observer.set_phase("measuring")
    result = benchmark(
        open_task(arguments),
        open_table(arguments),
        models=arguments["models"],
        rows=arguments["rows"],
        load_options=get_load_options(arguments),
        progress=observer.on_note,
    )
    if result.exit_code:
        return JobOutcome("interrupted", drop_paths(result.to_json()))
    return _finish(result.to_json(), len(result.models), "no model could be measured")


def _finish(document: Mapping[str, Any], results: int, nothing: str) -> JobOutcome:
    if not results:
        problem = make_problem("No results", nothing, "check the gold column and the runs")
        return JobOutcome("failed", drop_paths(document), problem)
    return JobOutcome("succeeded", drop_paths(document))


def _take_over(folder: Path, arguments: JobArguments) -> None:
    """Mark the folder as free that a worker on another host has left.

    The lease proves that this worker may use it; a process that still runs on this host keeps its
    lock, and RunLocked is raised.
    """
    if arguments["is_retry"]:
        with lock_run(folder, force=True):
            pass
