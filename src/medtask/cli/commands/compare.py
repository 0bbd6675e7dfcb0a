"""`medtask compare`: several systems on the same rows, and whether any of them is better than
chance would have it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, GoldSource, GroupName, KindName
from medtask.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medtask.evaluation.comparison.aligned_rows import ComparisonRows
    from medtask.runs.answer_table import AnswerTable
    from medtask.tasks.task import Task


def compare(
    systems: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...", help="Run folders, or tables with the columns id and answer."
        ),
    ],
    gold: GoldSource = None,
    kind: KindName = None,
    group: GroupName = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Include simple baselines on the same rows."
        ),
    ] = True,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="AMOUNT",
            help="Price of the machine per hour, for the cost of 1,000 rows.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a report, with its numbers as JSON beside it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare systems on the same rows.

    Every pair of systems is tested on the same rows; p values are corrected by Holm's method.
    """
    from medtask.evaluation.comparison.leaderboard import (
        describe_leaderboard,
        format_leaderboard,
        rank_systems,
    )
    from medtask.evaluation.report.comparison_report import write_comparison
    from medtask.privacy import block_network

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{out} is not a valid name for a report",
            fix=f"use a name that ends in .html, such as {out.with_suffix('.html')}",
        )
    with block_network():
        answers = _open_systems(systems, gold, kind, group)
        comparison, notes = _join_answers(answers)
        definitions = [(label.name, label.definition) for label in _choose_task(answers).candidates]
        leaderboard = rank_systems(
            comparison, definitions, baselines=baselines, price_per_hour=price_per_hour
        )
        if out is not None:
            write_comparison(out, comparison, leaderboard, notes)
    if as_json:
        show.print_json(
            {
                **comparison.to_json(),
                **leaderboard.to_json(),
                "notes": [*notes, *comparison.row_coverage.describe()],
            }
        )
        return
    show.print_line(describe_leaderboard(leaderboard, len(comparison.ids)))
    for line in ("", *format_leaderboard(leaderboard)):
        show.print_line(line)
    for note in (*notes, *comparison.row_coverage.describe()):
        show.print_fact("note", note)
    if out is not None:
        show.print_line((str(out), "bold"), f"   {out.with_suffix('.json').name}")


def _open_systems(
    systems: Sequence[Path], gold: str | None, kind: str | None, group: str | None
) -> list[AnswerTable]:
    """Runs first, since they tell what was asked: other tools' tables are read as answers to the
    same question.
    """
    if len(systems) < 2:
        raise UsageError(
            "a comparison needs at least two systems",
            fix="name two or more; for one: medtask evaluate",
        )
    faults: list[UsageError] = []
    found: dict[Path, AnswerTable] = {}
    task: Task | None = None
    for path in sorted(systems, key=lambda path: not path.is_dir()):
        found[path] = answers = _open_system(
            path, gold, kind, group, None if path.is_dir() else task, faults
        )
        task = task or (answers.task if answers.folder else None)
    if len(faults) == len(systems):
        raise faults[0]
    path_counts = Counter(str((found[path].folder or path).resolve()) for path in systems)
    if duplicates := [home for home, count in path_counts.items() if count > 1]:
        raise UsageError(f"{duplicates[0]} is named twice", fix="name every system once")
    return [found[path] for path in systems]


def _open_system(
    path: Path,
    gold: str | None,
    kind: str | None,
    group: str | None,
    task: Task | None,
    faults: list[UsageError],
) -> AnswerTable:
    """A system without the column of gold is compared by the gold of the others; so it is with
    groups.
    """
    from medtask.runs.answer_table import open_answers

    try:
        return open_answers(path, gold=gold, kind=kind, group=group, task=task)
    except UsageError as fault:
        if gold is None:
            raise
        faults.append(fault)
        return open_answers(path, kind=kind, group=group, task=task)


def _join_answers(systems: Sequence[AnswerTable]) -> tuple[ComparisonRows, list[str]]:
    """The rows that all have, and what is to be told about the systems."""
    from medtask.evaluation.comparison.aligned_rows import SystemSource, align_rows

    kinds = {answers.task.kind: answers.name for answers in systems}
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise UsageError(
            f"{first} answers a question of the kind {one}, {second} one of the kind {other}",
            fix="compare answers to the same question; for tables of other tools give --kind",
        )
    abstentions = {answers.task.abstain.name for answers in systems if answers.task.abstain}
    if len(abstentions) > 1:
        raise UsageError(
            "the systems use different names for the abstention",
            fix="compare answers to the same question",
        )
    numbered = [answers for answers in systems if answers.task.id_column is None]
    if (
        numbered
        and len({str(answers.manifest.get("data", {}).get("sha256")) for answers in systems}) > 1
    ):
        fix = "name an id column in the task, and run again"
        raise UsageError(
            f"the rows of {numbered[0].name} have no ids, and the tables differ", fix=fix
        )
    all_labels = dict.fromkeys(label.name for answers in systems for label in answers.task.labels)
    notes = [note for answers in systems for note in answers.notes]
    missing_labels = {
        answers.name: len(all_labels) - len(answers.task.labels)
        for answers in systems
        if answers.task.kind_spec.has_labels
    }
    notes += [
        f"{name} knows {n:,} of {len(all_labels):,} labels fewer than all systems together"
        for name, n in missing_labels.items()
        if n
    ]
    names = _name_systems(systems)
    sources = [
        SystemSource(name, answers.rows, answers.manifest)
        for name, answers in zip(names, systems, strict=True)
    ]
    labels = [name for name in all_labels if name not in abstentions]
    return align_rows(systems[0].task.kind, labels, next(iter(abstentions), None), sources), notes


def _name_systems(systems: Sequence[AnswerTable]) -> list[str]:
    """Each system's own name, with its folder's before it where two have the same."""
    counts = Counter(answers.name for answers in systems)
    parents = [
        (answers.folder or Path(answers.table.source)).resolve().parent.name for answers in systems
    ]
    named = [
        answers.name if counts[answers.name] == 1 else f"{home}/{answers.name}"
        for answers, home in zip(systems, parents, strict=True)
    ]
    return [
        name if named.count(name) == 1 else f"{name} ({place})"
        for place, name in enumerate(named, 1)
    ]


def _choose_task(systems: Sequence[AnswerTable]) -> Task:
    """The task whose labels are defined, if any."""
    return max(
        (answers.task for answers in systems),
        key=lambda task: sum(bool(label.definition) for label in task.candidates),
    )
