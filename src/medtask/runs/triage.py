"""Triage of answers: tables of accepted rows and of rows to review, most urgent first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.calibration.acceptance import Acceptance
from medtask.evaluation.calibration.prediction_sets import PredictionSets
from medtask.evaluation.calibration.review_order import rank_for_review
from medtask.records import AnsweredRow
from medtask.runs.answer_table import AnswerTable
from medtask.runs.output_columns import (
    ACCEPTED,
    ANSWER_COLUMNS,
    CORRECTED_COLUMN,
    get_cell,
    round_cell,
)
from medtask.runs.probability_arrays import collect_probabilities, list_outcomes
from medtask.tables.table import Column
from medtask.tables.write import write_answers
from medtask.tasks.kinds import get_task_kind

DEFAULT_TRIAGE_FORMATS = ("csv",)
CHUNK_ROWS = 50_000  # rows that are sorted at a time
_ROW_NUMBER = ""  # the column "id" of a task without ids: rows are found again by their number
RowNumbers = NDArray[np.int64]


class TriageCounts(NamedTuple):
    """The number of rows in accepted.csv and in review.csv."""

    accepted: int
    review: int


def write_triage(
    folder: Path,
    answers: AnswerTable,
    acceptance: Acceptance | None,
    formats: Sequence[str] = DEFAULT_TRIAGE_FORMATS,
) -> TriageCounts:
    """Write accepted.csv and review.csv, or other formats; returns the number of rows in each.

    Without an acceptance no row is accepted, and all are in review.csv.

    The status in accepted.csv is "accepted": an answer below the task's threshold for review can be
    above the one that gold supports.

    review.csv is sorted by ``expected_errors``, the number of errors that reviewing the row is
    expected to correct (rows with the same text count together), highest first. Its column
    ``corrected`` is blank: people write there, and `medtask.gold` reads it.
    """
    accepted, review, expected_errors = triage_rows(answers, acceptance)
    inputs = [name for name in answers.table.columns if name in answers.source_columns]
    if answers.task.id_column is None and "id" not in inputs:
        inputs.insert(0, _ROW_NUMBER)
    reading = get_task_kind(answers.task).list_reading_columns(wide=True)
    names = ["answer", *reading, *ANSWER_COLUMNS[1:]]
    columns = [
        *(Column(name or "id") for name in inputs),
        *(Column(name, "float" if name == "confidence" else "text") for name in names),
    ]
    taken = frozenset(accepted.tolist())
    for suffix in formats:
        chosen = (row for row in answers.rows() if row.row in taken)
        cells = (_list_cells(answers, row, inputs, ACCEPTED) for row in chosen)
        write_answers(folder / f"accepted.{suffix}", columns, cells, byte_order_mark=True)
        ranked = zip(_fetch_rows(answers, review), expected_errors.tolist(), strict=True)
        cells = (
            [*_list_cells(answers, row, inputs), round(value, 4), None] for row, value in ranked
        )
        review_columns = [
            *columns,
            Column("expected_errors", "float"),
            Column(CORRECTED_COLUMN, "text"),
        ]
        write_answers(folder / f"review.{suffix}", review_columns, cells, byte_order_mark=True)
    return TriageCounts(len(accepted), len(review))


def write_prediction_sets(
    folder: Path,
    answers: AnswerTable,
    sets: PredictionSets,
    formats: Sequence[str] = DEFAULT_TRIAGE_FORMATS,
) -> None:
    """Write sets.csv, or other formats: id, set size and labels of every row.

    Rows without probabilities have blank cells.
    """
    names = list_outcomes(answers.task)
    columns = [Column("id", "text"), Column("size", "int"), Column("possible", "text")]
    for suffix in formats:
        cells = (_list_possible_answers(answers, row, names, sets) for row in answers.rows())
        write_answers(folder / f"sets.{suffix}", columns, cells, byte_order_mark=True)


def _list_possible_answers(
    answers: AnswerTable, row: AnsweredRow, names: Sequence[str], sets: PredictionSets
) -> Sequence[object]:
    probabilities, _, _ = collect_probabilities(
        answers, [row], names, with_gold=False, uncalibrated=False
    )
    if not len(probabilities):
        return [row.answer.record_id, None, None]
    inside = [
        name
        for name, held in zip(names, sets.apply(probabilities)[0].tolist(), strict=True)
        if held
    ]
    return [row.answer.record_id, len(inside), "; ".join(inside)]


def triage_rows(
    answers: AnswerTable, acceptance: Acceptance | None
) -> tuple[RowNumbers, RowNumbers, NDArray[np.float64]]:
    """The numbers of the accepted rows, and of the others sorted by review benefit, with it."""
    thresholds = acceptance.class_thresholds if acceptance else {}
    codes = {rule.name: number for number, rule in thresholds.items()}
    rows, confidences, off_set, classes, same = [], [], [], [], []
    texts: dict[str, int] = {}
    for row in answers.rows():
        answer = row.answer
        rows.append(row.row)
        confidences.append(
            np.nan if answer.confidence is None or answer.value is None else answer.confidence
        )
        off_set.append(np.nan if answer.off_set is None else answer.off_set)
        classes.append(codes.get(answer.value, -1) if isinstance(answer.value, str) else -1)
        same.append(texts.setdefault(row.text, len(texts)) if row.text else -row.row)
    numbers, confidence = np.array(rows, dtype=np.int64), np.array(confidences, dtype=np.float64)
    taken = (
        acceptance.select_accepted(
            confidence, np.array(classes, dtype=np.int64) if thresholds else None
        )
        if acceptance
        else np.zeros(len(numbers), dtype=bool)
    )
    left = np.flatnonzero(~taken)
    order, expected_errors = rank_for_review(
        confidence[left],
        duplicate_codes=np.array(same, dtype=np.int64)[left],
        off_set=np.array(off_set)[left],
    )
    return numbers[taken], numbers[left[order]], expected_errors


def _fetch_rows(answers: AnswerTable, order: RowNumbers) -> Iterator[AnsweredRow]:
    """Yield the rows in this order, in chunks, so that memory does not grow with the table."""
    for start in range(0, len(order), CHUNK_ROWS):
        part = order[start : start + CHUNK_ROWS]
        wanted = frozenset(part.tolist())
        found = {row.row: row for row in answers.rows() if row.row in wanted}
        yield from (found[number] for number in part.tolist())


def _list_cells(
    answers: AnswerTable, row: AnsweredRow, inputs: Iterable[str], status: str | None = None
) -> Sequence[object]:
    """The cells of a row; ``status`` replaces the status of its answer, and its reason.

    What people read beside the answer follows it: its fields, or the text of an option.
    """
    columns, answer, kind = answers.source_columns, row.answer, get_task_kind(answers.task)
    cells = {name: round_cell(name, get_cell(name, answer)) for name in ANSWER_COLUMNS}
    if status is not None:
        cells |= {"status": status, "reason": None}
    quotes = {name: quote.text for name, quote in (answer.quotes or {}).items()}
    added = kind.read_reading_cells(row.fields, answer.value, quotes)
    return [
        *(
            row.answer.record_id if name is _ROW_NUMBER else row.fields[columns[name]]
            for name in inputs
        ),
        cells["answer"],
        *(added.get(name) for name in kind.list_reading_columns(wide=True)),
        *(cells[name] for name in ANSWER_COLUMNS[1:]),
    ]
