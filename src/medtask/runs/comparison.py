"""`medtask.compare`: several systems on the same rows, with paired tests and a leaderboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from medtask.atomic_files import raise_storage_errors
from medtask.errors import UsageError
from medtask.evaluation.baselines.context import BaselineSettings, ProgressListener
from medtask.evaluation.comparison.aligned_rows import ComparisonRows, SystemSource, align_rows
from medtask.evaluation.comparison.leaderboard import Leaderboard, rank_systems
from medtask.evaluation.report.comparison_report import write_comparison
from medtask.names import Names, merge_spellings
from medtask.privacy import block_network
from medtask.runs.answer_table import AnswerTable
from medtask.runs.baselines import make_baseline_settings
from medtask.runs.folder import parse_run_time
from medtask.runs.open_answers import open_answers
from medtask.runs.system_facts import read_system_facts
from medtask.runs.system_ids import match_system_ids, rename_rows
from medtask.tables.read_options import ReadOptions, ReadOptionValues
from medtask.tasks.task import Label, Task


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `medtask.compare`.

    Attributes:
        rows: The rows with gold that all systems answered.
        leaderboard: The systems, best first, and the paired tests between them.
        notes: What the user should know.
        report: The page with the results; None if none was requested.
    """

    rows: ComparisonRows
    leaderboard: Leaderboard
    notes: tuple[str, ...]
    report: Path | None = None

    @property
    def n(self) -> int:
        """The number of rows that were compared."""
        return len(self.rows.ids)

    def to_json(self) -> dict[str, Any]:
        """The JSON document that ``medtask compare --json`` prints; it contains no record text."""
        return {**self.rows.to_json(), **self.leaderboard.to_json(), "notes": list(self.notes)}


def compare(
    systems: Sequence[str | Path],
    *,
    gold: str | None = None,
    kind: str | None = None,
    group: str | None = None,
    baselines: bool = True,
    price_per_hour: float | None = None,
    out: str | Path | None = None,
    progress: ProgressListener | None = None,
    **read: Unpack[ReadOptionValues],
) -> Comparison:
    """Compare systems on the rows that all of them answered.

    Every pair is tested on the same rows; p-values are corrected for the number of pairs (Holm).

    Args:
        systems: Run folders, or tables with the columns id and answer; at least two.
        gold: The column with the correct answers, or a file with the same ids.
        kind: The kind of the tables' answers.
        group: The column that identifies dependent rows, such as those of one patient.
        baselines: Add simple methods on the same rows.
        price_per_hour: Cost of the machine, for a price per 1,000 rows.
        out: The folder for comparison.html and comparison.json, or the path of the page.
        progress: Receives the progress of baselines: the method, its rows that are done, all rows.
        read: How tables are read: fields of `ReadOptions` by name, such as ``encoding="cp1250"``.

    Returns:
        The leaderboard with paired tests, and the rows it is based on.

    Raises:
        UsageError: The systems cannot be compared, or ``out`` is not a valid page name.
        TableError: A table cannot be read.

    Example:
        >>> comparison = medtask.compare(["runs/base", "runs/tuned"], gold="purpose")
        >>> comparison.to_json()["notes"]
    """
    page = _choose_page(Path(out)) if out else None
    open_system = partial(open_answers, kind=kind, group=group, read_options=ReadOptions(**read))
    with block_network():
        answers = _share_labels(
            _open_systems([Path(system) for system in systems], gold, open_system)
        )
        rows, notes = _join_answers(answers)
        task = _choose_task(answers)
        leaderboard = rank_systems(
            rows,
            [(label.name, label.definition) for label in task.candidates],
            keywords=task.keywords,
            baselines=_make_settings(answers, progress) if baselines else None,
            price_per_hour=price_per_hour,
        )
        if page is not None:
            write_comparison(page, rows, leaderboard, notes)
    return Comparison(rows, leaderboard, (*notes, *rows.row_coverage.describe()), page)


def _choose_page(out: Path) -> Path:
    """The page in a folder, which is created; a name that ends in .html is the page itself."""
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        return out
    if out.suffix and not out.is_dir():
        raise UsageError(
            f"{out} is not a valid name for a report",
            fix=f"name a folder, or a page that ends in .html: {out.with_suffix('.html')}",
        )
    with raise_storage_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    return out / "comparison.html"


def _make_settings(
    systems: Sequence[AnswerTable], progress: ProgressListener | None
) -> BaselineSettings:
    """Baselines are kept in the run folders; they may take as long as the slowest system."""
    folders = [answers.folder for answers in systems if answers.folder]
    timings = [answers.manifest.get("timing", {}) for answers in systems]
    return max(
        (make_baseline_settings(folders, timing, progress) for timing in timings),
        key=lambda settings: settings.seconds,
    )


def _open_systems(
    systems: Sequence[Path], gold: str | None, open_system: Callable[..., AnswerTable]
) -> list[AnswerTable]:
    """Open the systems' answers; tables of other tools are read for the first run's task."""
    if len(systems) < 2:
        raise UsageError(
            "a comparison needs at least two systems",
            fix="name two or more; for one: medtask evaluate",
        )
    faults: list[UsageError] = []
    found: dict[Path, AnswerTable] = {}
    task: Task | None = None
    for path in sorted(systems, key=lambda path: not path.is_dir()):
        assumed = None if path.is_dir() else task
        try:
            answers = open_system(path, gold=gold, task=assumed)
        except UsageError as fault:
            if gold is None:
                raise
            # Without the gold column, a system uses the gold of the others.
            faults.append(fault)
            answers = open_system(path, task=assumed)
        found[path] = answers
        task = task or (answers.task if answers.folder else None)
    if len(faults) == len(systems):
        raise faults[0]
    path_counts = Counter(str((found[path].folder or path).resolve()) for path in systems)
    if duplicates := [home for home, count in path_counts.items() if count > 1]:
        raise UsageError(f"{duplicates[0]} is named twice", fix="name every system once")
    return [found[path] for path in systems]


def _share_labels(systems: Sequence[AnswerTable]) -> list[AnswerTable]:
    """The systems, in which a label of inferred tasks has the same spelling."""
    names: tuple[str, ...] = ()
    # The labels of a task come first, then the labels in gold.
    for answers in sorted(systems, key=lambda answers: (_is_inferred(answers), not answers.gold)):
        labels = [label.name for label in answers.task.labels]
        names = (
            merge_spellings(labels, names)
            if _is_inferred(answers)
            else tuple(dict.fromkeys((*names, *labels)))
        )
    return [
        replace(answers, task=_respell_labels(answers.task, Names(names)))
        if _is_inferred(answers)
        else answers
        for answers in systems
    ]


def _is_inferred(answers: AnswerTable) -> bool:
    return answers.folder is None and not answers.external


def _respell_labels(task: Task, names: Names) -> Task:
    spelled = dict.fromkeys(names.find(label.name) or label.name for label in task.labels)
    return replace(task, labels=tuple(Label(name, "", name) for name in spelled))


def _join_answers(systems: Sequence[AnswerTable]) -> tuple[ComparisonRows, list[str]]:
    """The rows that all systems have, and notes about the systems."""
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
    # The notes on one gold file are the same for every system.
    notes = list(dict.fromkeys(note for answers in systems for note in answers.notes))
    notes += [
        line
        for answers in systems
        for name, counts in answers.count_cells().items()
        for line in counts.describe(f"{name} in {answers.name}")
    ]
    missing_labels = {
        answers.name: len(all_labels) - len(answers.task.labels)
        for answers in systems
        if answers.task.kind_spec.has_labels
    }
    notes += [
        f"{name} lacks {n:,} of the {len(all_labels):,} labels of all systems"
        for name, n in missing_labels.items()
        if n
    ]
    names = _name_systems(systems)
    changed_ids, id_notes = match_system_ids(systems, names)
    notes += id_notes
    sources = [
        SystemSource(
            name, partial(rename_rows, answers, changed), read_system_facts(answers.manifest)
        )
        for name, answers, changed in zip(names, systems, changed_ids, strict=True)
    ]
    labels = [name for name in all_labels if name not in abstentions]
    return align_rows(systems[0].task.kind, labels, next(iter(abstentions), None), sources), notes


def _name_systems(systems: Sequence[AnswerTable]) -> list[str]:
    """The systems' names; equal ones are prefixed with their parent folder's name.

    A run in a folder that medtask has named after the time is called by its model and that time.
    """
    own_names = [_name_system(answers) for answers in systems]
    counts = Counter(own_names)
    parents = [
        (answers.folder or Path(answers.table.source)).resolve().parent.name for answers in systems
    ]
    named = [
        name if counts[name] == 1 else f"{home}/{name}"
        for name, home in zip(own_names, parents, strict=True)
    ]
    return [
        name if named.count(name) == 1 else f"{name} ({place})"
        for place, name in enumerate(named, 1)
    ]


def _name_system(answers: AnswerTable) -> str:
    time = parse_run_time(answers.name)
    if time is None or not answers.manifest:
        return answers.name
    return f"{read_system_facts(answers.manifest).title}, {time}"


def _choose_task(systems: Sequence[AnswerTable]) -> Task:
    """The task with keywords, or else with the most label definitions."""
    return max(
        (answers.task for answers in systems),
        key=lambda task: (
            bool(task.keywords),
            sum(bool(label.definition) for label in task.candidates),
        ),
    )
