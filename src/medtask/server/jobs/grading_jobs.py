"""Jobs that grade the answers of a run: by another model, or by a labelled sample of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from medtask.server.jobs.kind import (
    JobContext,
    JobKind,
    Parameters,
    get_run,
    resolve_dataset,
    resolve_model,
)
from medtask.server.jobs.messages import JobOutcome
from medtask.server.jobs.observer import JobObserver
from medtask.server.jobs.queue import make_problem

if TYPE_CHECKING:
    from medtask.runs.judging import JudgeResult


def _resolve_judging(
    session: Session, context: JobContext, parameters: Parameters
) -> dict[str, Any]:
    run = get_run(session, parameters["run_id"])
    other = parameters["against"]
    against = None if other is None else get_run(session, other).id
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "against": None if against is None else str(context.files.get_folder("runs", against)),
        "model": resolve_model(session, context.files, parameters["model"]),
        "load_options": context.to_load_options(),
        "settings": parameters["settings"],
    }


def judge_run(arguments: Mapping[str, Any], observer: JobObserver) -> JobOutcome:
    """`medtask.judge`. Judgements are in the run's folder, where a further job continues them."""
    from medtask.engines.load_options import LoadOptions
    from medtask.engines.registry import load_model
    from medtask.runs.judging import judge

    observer.set_phase("reading")
    options = LoadOptions(**arguments["load_options"])

    def load() -> Any:
        observer.on_load(arguments["model"])
        return load_model(arguments["model"], options)

    result = judge(
        arguments["folder"],
        load,
        against=arguments["against"],
        allow_remote=options.allow_remote,
        force_lock=arguments["is_retry"],
        progress=observer,
        **arguments["settings"],
    )
    document = {
        **result.to_json(),
        "table": result.table.name,
        "lines": _describe_judgements(result),
    }
    del document["exit_code"]
    if result.metrics is None:
        return JobOutcome("interrupted", document)
    if not result.metrics.n:
        problem = make_problem(
            "No results",
            "the judge graded no answer",
            "look at the column reason of the judgements, and choose another judge",
        )
        return JobOutcome("failed", document, problem)
    return JobOutcome("succeeded", document)


def _describe_judgements(result: JudgeResult) -> list[str]:
    from medtask.evaluation.report.judge_report import (
        format_judge_metrics,
        format_pairwise_metrics,
    )
    from medtask.evaluation.statistics.judge_metrics import JudgeMetrics

    if result.metrics is None:
        return []
    if isinstance(result.metrics, JudgeMetrics):
        return format_judge_metrics(result.metrics)
    return format_pairwise_metrics(result.metrics, result.answers, result.alternative)


def _resolve_audit(session: Session, context: JobContext, parameters: Parameters) -> dict[str, Any]:
    run = get_run(session, parameters["run_id"])
    labels = parameters["labels_dataset_id"]
    return {
        "folder": str(context.files.get_folder("runs", run.id)),
        "labels": None if labels is None else resolve_dataset(session, context.files, labels),
        "settings": parameters["settings"],
    }


def audit_run(arguments: Mapping[str, Any], observer: JobObserver) -> JobOutcome:
    """`medtask.audit`: draw a sample of a run, or estimate its accuracy from labels."""
    from medtask.evaluation.report.audit_report import list_audit_lines
    from medtask.runs.audit import audit

    observer.set_phase("auditing")
    labels: Mapping[str, Any] = arguments["labels"] or {"table": None, "read_options": {}}
    result = audit(
        arguments["folder"],
        labels=labels["table"],
        **arguments["settings"],
        **labels["read_options"],
    )
    lines = list_audit_lines(result.result) if result.result else []
    document = {**result.to_json(), "lines": lines}
    del document["folder"]
    if sample := document["sample"]:
        del sample["file"]
        sample["files"] = [Path(name).name for name in sample["files"]]
    return JobOutcome("succeeded", document)


JUDGE = JobKind("judge", f"{__name__}:judge_run", _resolve_judging)
AUDIT = JobKind("audit", f"{__name__}:audit_run", _resolve_audit)
