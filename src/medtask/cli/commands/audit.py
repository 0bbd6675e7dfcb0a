"""`medtask audit`: an honest accuracy without gold, from some hundred looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AnswersPath, AsJson, TaskFile
from medtask.display import format_count

if TYPE_CHECKING:
    from medtask.evaluation.statistics.audit import AuditResult
    from medtask.runs.audit_sample import AuditSample

DEFAULT_AUDIT_ROWS = 120


def audit(
    source: AnswersPath,
    budget: Annotated[
        int | None,
        typer.Option(
            min=30, metavar="N", help=f"Number of rows to label; default: {DEFAULT_AUDIT_ROWS}."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed of the sample; default: 0.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table with the columns id and gold; default: the filled-in sample.",
        ),
    ] = None,
    task: TaskFile = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the sample; default: RUN/audit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the accuracy from a hand-labelled sample.

    The first call writes a sample of rows: fill in its column gold without looking at the answers.
    The same command then reads these labels and estimates the accuracy on the whole table.
    """
    from medtask.privacy import block_network
    from medtask.runs.answer_table import open_answers
    from medtask.runs.audit_sample import draw_audit_sample, estimate_from_labels, read_audit_sample
    from medtask.tasks.load import load_task

    with block_network():
        answers = open_answers(source, task=load_task(task) if task else None)
        folder = out or (
            answers.folder / "audit"
            if answers.folder
            else source.with_name(f"{answers.name}-audit")
        )
        sample = read_audit_sample(folder)
        redraw = labels is None and (sample is None or budget is not None or seed is not None)
        if redraw:
            sample = draw_audit_sample(
                answers, folder, budget=budget or DEFAULT_AUDIT_ROWS, seed=seed or 0
            )
        result = (
            estimate_from_labels(answers, folder, labels)
            if labels or (sample and sample.labelled_rows)
            else None
        )
    if as_json:
        show.print_json(
            {
                "folder": str(folder),
                "sample": _describe_sample(sample),
                "audit": result.to_json() if result else None,
            }
        )
    elif result:
        _print_result(result)
        if answers.task.group_column:
            note = (
                f"rows of the same {answers.task.group_column} are treated as independent; if "
                "they are similar, the intervals are too narrow"
            )
            show.print_fact("note", note)
    elif sample:
        _print_sample(sample, source)


def _describe_sample(sample: AuditSample | None) -> dict[str, object] | None:
    return (
        {
            "file": str(sample.table_path),
            "rows": sample.rows,
            "looks": sample.drawn_rows,
            "labelled": sample.labelled_rows,
        }
        if sample
        else None
    )


def _print_result(result: AuditResult) -> None:
    from medtask.evaluation.report.audit_report import list_audit_lines

    for line in list_audit_lines(result):
        show.print_line(line)


def _print_sample(sample: AuditSample, source: Path) -> None:
    summary = (
        f"{sample.drawn_rows:,} of {format_count(sample.rows, 'row')} to label, in random "
        "order, "
        "without their answers"
    )
    show.print_line((str(sample.table_path), "bold"), f"   {summary}")
    show.print_line(f"Fill in the column gold from the top, then run: medtask audit {source}")
