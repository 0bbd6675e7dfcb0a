"""Two piles: the answers that may be accepted without a look, and the rest, what is most worth a
look first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtask.data.table import Column
from medtask.data.write import write_answers
from medtask.evaluate.accept import Acceptance, rank_for_review
from medtask.evaluate.prediction_sets import PredictionSets
from medtask.runs.answered import AnsweredRow, Answers
from medtask.runs.evaluation import collect_shares, list_outcomes
from medtask.runs.finalise import write_cell

CHUNK = 50_000  # rows that are put in order at a time
_TOLD = ("answer", "confidence", "status", "reason")
Places = NDArray[np.int64]


def write_piles(folder: Path, answers: Answers, acceptance: Acceptance) -> tuple[int, int]:
    """Write accepted.csv and review.csv with the table's columns and the answers; how many rows
    each has.

    In review.csv the rows come in the order in which they are worth a look; ``expected_errors`` is
    how many errors one look is expected to mend (rows with the same text count together).
    """
    accepted, review, worth = split_rows(answers, acceptance)
    inputs = [name for name in answers.table.columns if name in answers.own_columns]
    ours = [Column(name, "float" if name == "confidence" else "text") for name in _TOLD]
    columns = [*(Column(name) for name in inputs), *ours]
    taken = frozenset(accepted.tolist())
    chosen = (row for row in answers.rows() if row.row in taken)
    write_answers(
        folder / "accepted.csv", columns, (_list_cells(answers, row, inputs) for row in chosen)
    )
    ranked = zip(_fetch(answers, review), worth.tolist(), strict=True)
    cells = ([*_list_cells(answers, row, inputs), round(value, 4)] for row, value in ranked)
    write_answers(folder / "review.csv", [*columns, Column("expected_errors", "float")], cells)
    return len(accepted), len(review)


def write_sets(folder: Path, answers: Answers, sets: PredictionSets) -> None:
    """Write sets.csv: for every row its id, how many answers remain possible, and which; blank
    where a row has no probabilities.
    """
    names = list_outcomes(answers.task)
    columns = [Column("id", "text"), Column("size", "int"), Column("possible", "text")]
    write_answers(
        folder / "sets.csv",
        columns,
        (_list_possible(answers, row, names, sets) for row in answers.rows()),
    )


def _list_possible(
    answers: Answers, row: AnsweredRow, names: Sequence[str], sets: PredictionSets
) -> Sequence[object]:
    shares, _, _ = collect_shares(answers, [row], names, graded=False, raw=False)
    if not len(shares):
        return [row.answer.record_id, None, None]
    inside = [
        name for name, held in zip(names, sets.apply(shares)[0].tolist(), strict=True) if held
    ]
    return [row.answer.record_id, len(inside), "; ".join(inside)]


def split_rows(
    answers: Answers, acceptance: Acceptance
) -> tuple[Places, Places, NDArray[np.float64]]:
    """The numbers of the rows that are accepted, in their order; of the others, those most worth a
    look first, and that worth.
    """
    codes = {rule.name: number for number, rule in acceptance.by_class.items()}
    rows, sure, off_set, classes, same = [], [], [], [], []
    texts: dict[str, int] = {}
    for row in answers.rows():
        given = row.answer
        rows.append(row.row)
        sure.append(np.nan if given.confidence is None or given.value is None else given.confidence)
        off_set.append(np.nan if given.off_set is None else given.off_set)
        classes.append(codes.get(given.value, -1) if isinstance(given.value, str) else -1)
        same.append(texts.setdefault(row.text, len(texts)) if row.text else -row.row)
    numbers, confidence = np.array(rows, dtype=np.int64), np.array(sure, dtype=np.float64)
    taken = acceptance.accepts(
        confidence, np.array(classes, dtype=np.int64) if acceptance.by_class else None
    )
    left = np.flatnonzero(~taken)
    order, worth = rank_for_review(
        confidence[left], same=np.array(same, dtype=np.int64)[left], off_set=np.array(off_set)[left]
    )
    return numbers[taken], numbers[left[order]], worth


def _fetch(answers: Answers, order: Places) -> Iterator[AnsweredRow]:
    """The rows in this order; of a long table a part at a time, so that memory does not grow with
    it.
    """
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        wanted = frozenset(part.tolist())
        found = {row.row: row for row in answers.rows() if row.row in wanted}
        yield from (found[number] for number in part.tolist())


def _list_cells(answers: Answers, row: AnsweredRow, inputs: Iterable[str]) -> Sequence[object]:
    return [
        *(row.fields[answers.own_columns[name]] for name in inputs),
        *(write_cell(name, row.answer, True) for name in _TOLD),
    ]
