"""`medtask audit`: an honest accuracy without gold, from some hundred looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import show
from medtask.cli.inputs import AnswersPath, AsJson, TaskFile

if TYPE_CHECKING:
    from medtask.evaluate.audit import AuditResult
    from medtask.runs.audited import Sample

DEFAULT_BUDGET = 120


def audit(
    source: AnswersPath,
    budget: Annotated[
        int | None,
        typer.Option(
            min=30, metavar="N", help=f"How many rows to look at; default: {DEFAULT_BUDGET}."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; default: 0.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table with the columns id and gold; default: the sample, filled in.",
        ),
    ] = None,
    task: TaskFile = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the sample lies; default: RUN/audit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which rows to label by hand, and what they tell of all.

    First it writes a sample: fill in its column gold, without looking at the answers. The same
    command again then reads the labels and tells what they say of the whole table.
    """
    from medtask.privacy import no_network
    from medtask.runs.answered import open_answers
    from medtask.runs.audited import draw_sample, estimate_from_labels, read_sample
    from medtask.tasks.load import load_task

    with no_network():
        answers = open_answers(source, task=load_task(task) if task else None)
        folder = out or (
            answers.folder / "audit"
            if answers.folder
            else source.with_name(f"{answers.name}-audit")
        )
        sample = read_sample(folder)
        redraw = labels is None and (sample is None or budget is not None or seed is not None)
        if redraw:
            sample = draw_sample(answers, folder, budget=budget or DEFAULT_BUDGET, seed=seed or 0)
        found = (
            estimate_from_labels(answers, folder, labels)
            if labels or (sample and sample.labelled)
            else None
        )
    if as_json:
        show.show_json(
            {
                "folder": str(folder),
                "sample": _describe(sample),
                "audit": found.to_json() if found else None,
            }
        )
    elif found:
        _show(found)
        if answers.task.group_column:
            told = (
                f"rows of one {answers.task.group_column} are taken as independent: where "
                "they are alike, the intervals are too narrow"
            )
            show.fact("note", told)
    elif sample:
        _show_sample(sample, source)


def _describe(sample: Sample | None) -> dict[str, object] | None:
    return (
        {
            "file": str(sample.file),
            "rows": sample.rows,
            "looks": sample.looks,
            "labelled": sample.labelled,
        }
        if sample
        else None
    )


def _show(found: AuditResult) -> None:
    for line in found.describe():
        show.say(line)


def _show_sample(sample: Sample, source: Path) -> None:
    told = (
        f"{sample.looks:,} of {show.count(sample.rows, 'row')} to look at, in random order, "
        "without their answers"
    )
    show.say((str(sample.file), "bold"), f"   {told}")
    show.say(
        f"Fill in the column gold (as many as you can, from the top), then: medtask audit {source}"
    )
