"""Jobs that grade the answers of a run: by another model, or by a labelled sample of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.server.jobs.arguments import JobArguments, make_loader
from medtask.server.jobs.messages import JobOutcome, make_problem
from medtask.server.jobs.observer import JobObserver

if TYPE_CHECKING:
    from medtask.runs.judging import JudgeResult


def judge_run(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
    """`medtask.judge`. Judgements are in the run's folder, where a further job continues them."""
    from medtask.runs.judging import judge

    observer.set_phase("reading")
    result = judge(
        arguments["folder"],
        make_loader(arguments, observer),
        against=arguments["against"],
        allow_remote=arguments["load_options"]["allow_remote"],
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


def audit_run(arguments: JobArguments, observer: JobObserver) -> JobOutcome:
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
