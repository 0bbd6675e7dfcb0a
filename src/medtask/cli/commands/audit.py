"""`medtask audit`: estimate the accuracy without gold from a labelled sample."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AnswersPath, AsJson, TaskFile
from medtask.cli.table_options import add_read_options, format_read_options
from medtask.display import format_count
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.runs.audit_sample import AuditSample

DEFAULT_AUDIT_ROWS = 120  # as in medtask.runs.audit, which --help does not load


@add_read_options
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
    *,
    read_options: ReadOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the sample; default: RUN/audit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the accuracy from a hand-labelled sample.

    The first call writes a sample of rows: fill in its column gold without looking at the answers.
    The same command then reads these labels and estimates the accuracy on the whole table.
    """
    from medtask.evaluation.report.audit_report import list_audit_lines
    from medtask.runs.audit import audit as audit_answers
    from medtask.tasks.load import load_task

    audited = audit_answers(
        source,
        budget=budget,
        seed=seed,
        labels=labels,
        task=load_task(task) if task else None,
        out=out,
        **read_options.to_values(),
    )
    if as_json:
        show.print_json(audited.to_json())
    elif audited.result:
        for line in list_audit_lines(audited.result):
            show.print_line(line)
    elif audited.sample:
        # Without the folder of the sample, the command would draw another one.
        given = [("--task", task), ("--out", out)]
        words = [str(word) for option in given if option[1] is not None for word in option]
        command = shlex.join(["medtask", "audit", str(source), *words])
        _print_sample(audited.sample, command + format_read_options(read_options))
    if not as_json:
        for note in audited.notes:
            show.print_fact("note", note)


def _print_sample(sample: AuditSample, next_command: str) -> None:
    summary = (
        f"{sample.drawn_rows:,} of {format_count(sample.rows, 'row')} to label, in random order, "
        "without their answers"
    )
    show.print_line((str(sample.table_path), "bold"), f"   {summary}")
    mark = ", or an x in none_applies," if sample.has_none_column else ""
    show.print_line(
        f"Fill in the column gold{mark} from the top (in a spreadsheet: of sample.xlsx), then run: "
        + next_command
    )
