"""Inference of the task from answers that another tool wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from medtask.display import format_count, format_list, quote
from medtask.errors import UsageError
from medtask.kinds import KINDS
from medtask.names import Names, fold_case, merge_spellings
from medtask.tables.cell_values import read_cell, read_present_cell
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.containers import parse_container
from medtask.tasks.kinds.labels import LABEL_SEPARATORS
from medtask.tasks.serialization import make_minimal_task
from medtask.tasks.task import Task

INFERABLE_KINDS = tuple(name for name, spec in KINDS.items() if not spec.has_options)
MAX_LABELS = 2000
MAX_LABEL_CHARACTERS = 120  # characters: longer values are free text
_MAX_EXAMPLES = 3


@dataclass(slots=True)
class CellStatistics:
    """Statistics of a table's cells, collected in one pass.

    ``values`` and ``parts`` grow until they hold more than 2,000 different values each.
    """

    values: dict[str, None] = field(default_factory=dict)
    parts: dict[str, None] = field(default_factory=dict)
    rows: int = 0
    list_cells: int = 0
    object_cells: int = 0
    max_characters: int = 0

    def add(self, cell: object) -> None:
        values = read_annotations(cell)
        if values is not None and len(values) < 2:  # one value in the shape of a list
            cell = values[0] if values else None
        text = read_present_cell(cell)
        if text is None:
            return
        self.rows += 1
        container = parse_container(cell)
        self.list_cells += isinstance(container, list)
        self.object_cells += isinstance(container, dict)
        self.max_characters = max(self.max_characters, len(text))
        parts = (
            [read_cell(item) for item in container]
            if isinstance(container, list)
            else text.split("; ")
        )
        if len(self.values) <= MAX_LABELS:
            self.values.setdefault(text)
        # Few labels make many different sets: the last label may come after the last of the values.
        if len(self.parts) <= MAX_LABELS:
            self.parts.update(dict.fromkeys(part for part in parts if part))


def collect_statistics(
    cells: Iterable[tuple[object, object]],
) -> tuple[CellStatistics, CellStatistics]:
    """The statistics of the answers and of gold, from both cells of every row."""
    answers, gold = CellStatistics(), CellStatistics()
    for answer_cell, gold_cell in cells:
        answers.add(answer_cell)
        gold.add(gold_cell)
    return answers, gold


def infer_task(
    name: str,
    answers: CellStatistics,
    gold: CellStatistics,
    label_names: Iterable[str],
    sums_to_one: bool,
    kind: str | None,
) -> Task:
    """Infer the task from the cells of all rows.

    Args:
        name: The name of the task.
        answers: Statistics of the answers.
        gold: Statistics of gold.
        label_names: The labels that have probabilities.
        sums_to_one: Whether these probabilities sum to 1, so that one label was chosen.
        kind: The kind of the answers; None infers it.

    Raises:
        UsageError: A task of this kind cannot be inferred from a table.
    """
    if kind is not None and kind not in INFERABLE_KINDS:
        fix = f"choose one of {', '.join(INFERABLE_KINDS)}, or name the task with --task"
        raise UsageError(f"a table alone does not make answers of the kind {quote(kind)}", fix=fix)
    known_labels = tuple(label_names)
    kind = kind or _infer_kind(answers, gold, known_labels, sums_to_one)
    labels = _collect_labels(answers, gold, known_labels, kind) if KINDS[kind].has_labels else ()
    if len(labels) > MAX_LABELS:
        fix = "say --kind answer if these are texts, or name the task with --task"
        raise UsageError(f"there are more than {MAX_LABELS:,} different labels", fix=fix)
    return make_minimal_task(name, kind, labels)


def describe_inferred_task(
    task: Task, answers: CellStatistics, gold: CellStatistics, *, is_inferred_kind: bool
) -> list[str]:
    """The notes for a user on the kind and the labels that were inferred."""
    notes = []
    if is_inferred_kind:
        labels = f" with {format_count(len(task.labels), 'label')}" if task.labels else ""
        notes.append(
            f"read as answers of the kind {task.kind}{labels} (change it with --kind or --task)"
        )
    case_variants = len(task.labels) - len({fold_case(label.name) for label in task.labels})
    if case_variants:
        notes.append(
            f"{case_variants:,} of the labels differ from others in capital letters only, and "
            "count as different labels"
        )
    if warning := _describe_disjoint_labels(task, answers, gold):
        notes.append(warning)
    return notes


def _describe_disjoint_labels(
    task: Task, answers: CellStatistics, gold: CellStatistics
) -> str | None:
    """The warning that no label occurs both in the answers and in gold; None if one does."""
    if not task.labels or not answers.values or not gold.values:
        return None
    names = Names(label.name for label in task.labels)
    in_answers, in_gold = (
        {names.find(text) for text in (cells.values if KINDS[task.kind].exclusive else cells.parts)}
        for cells in (answers, gold)
    )
    if in_answers & in_gold:
        return None
    first_answers, first_gold = (
        format_list([quote(text) for text in sorted(cells.values)[:_MAX_EXAMPLES]])
        for cells in (answers, gold)
    )
    return (
        f"no label occurs both in the answers (such as {first_answers}) and in gold (such as "
        f"{first_gold}): if they are codes for the same labels, write them in one way"
    )


def _collect_labels(
    answers: CellStatistics, gold: CellStatistics, known_labels: tuple[str, ...], kind: str
) -> tuple[str, ...]:
    """The known labels, and one spelling of each other label; a spelling in gold comes first."""
    if KINDS[kind].exclusive:
        in_gold, in_answers = sorted(gold.values), sorted(answers.values)
    else:
        in_gold, in_answers = _drop_joined(gold, answers), sorted(answers.parts)
    labels = merge_spellings(in_answers, merge_spellings(in_gold, known_labels))
    return (*known_labels, *sorted(labels[len(known_labels) :]))


def _drop_joined(gold: CellStatistics, answers: CellStatistics) -> list[str]:
    """The parts of gold without those that other parts form with a separator, as in "a,b"."""
    parts = {fold_case(part) for part in (*gold.parts, *answers.parts)}
    return [
        part
        for part in sorted(gold.parts)
        if part in answers.parts
        or not any(
            separator in part
            and all(fold_case(name) in parts for name in part.split(separator) if name.strip())
            for separator in LABEL_SEPARATORS
        )
    ]


def _infer_kind(
    answers: CellStatistics, gold: CellStatistics, label_names: tuple[str, ...], sums_to_one: bool
) -> str:
    if label_names:
        return "label" if sums_to_one else "labels"
    rows = answers.rows + gold.rows
    if 2 * (answers.object_cells + gold.object_cells) > rows:  # some may be malformed
        return "fields"
    if answers.list_cells or gold.list_cells:
        return "labels"
    values = len(answers.values | gold.values)
    if (
        values > MAX_LABELS
        or max(answers.max_characters, gold.max_characters) > MAX_LABEL_CHARACTERS
    ):
        return "answer"
    return "label" if values <= max(20, rows / 4) else "answer"
