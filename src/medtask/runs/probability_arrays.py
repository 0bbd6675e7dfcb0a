"""Probabilities and gold of answers as arrays, for calibration and prediction sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import assign_singleton_groups
from medtask.records import AnsweredRow
from medtask.runs.answer_table import AnswerTable
from medtask.tasks.task import Task

MAX_PROBABILITIES = 50_000_000  # probabilities in memory at once: 400 MB


def list_outcomes(task: Task) -> tuple[str, ...]:
    """The names of the outcomes with probabilities. Raises UsageError for kinds without any."""
    if task.kind_spec.generated:
        raise UsageError(
            f"answers of the kind {task.kind} have no probabilities",
            fix="leave --calibrate and --sets out",
        )
    return task.outcomes


def refuse_student(answers: AnswerTable) -> Refusal | None:
    """Why no calibration can be fitted; None if no student of a cascade answered the rows."""
    if not answers.manifest.get("cascade", {}).get("student_rows"):
        return None
    reason = (
        "a student has answered rows of this run, and a calibration is fitted on the model's own "
        "probabilities: fit it on a run without a cascade"
    )
    return Refusal(reason, 0)


def collect_probabilities(
    answers: AnswerTable,
    rows: Iterable[AnsweredRow],
    names: Sequence[str],
    *,
    with_gold: bool,
    uncalibrated: bool = True,
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.int64] | None]:
    """Probabilities, gold and groups of the rows that have both probabilities and gold.

    Args:
        answers: The answers that the rows belong to.
        rows: The rows; only the first ones if not all fit into memory. Rows of further passes over
            other outcomes, and gold that is not an outcome, are left out.
        names: The k outcomes.
        with_gold: Whether rows without gold are left out.
        uncalibrated: Whether to return the probabilities before calibration.

    Returns:
        Probabilities [n, k] (NaN: not an option of the row; 0: no column in another tool's table),
        gold ([n] indices, or [n, k] booleans), and group codes [n] if rows have groups.
    """
    index_by_name = {name: index for index, name in enumerate(names)}
    exclusive, optional = not answers.task.several, answers.task.kind_spec.has_options
    allow_missing = optional or answers.folder is None
    collected: list[NDArray[np.float64]] = []
    truths: list[Any] = []
    codes: list[int] = []
    group_codes: dict[str, int] = {}
    for row in rows:
        probabilities = (
            row.answer.uncalibrated if uncalibrated else None
        ) or row.answer.probabilities
        if not probabilities or not (
            probabilities.keys() <= index_by_name.keys()
            if allow_missing
            else probabilities.keys() == index_by_name.keys()
        ):
            continue
        truth = (
            _encode_gold(
                row.gold, probabilities if optional else index_by_name, index_by_name, exclusive
            )
            if with_gold
            else 0
        )
        if truth is None:
            continue
        row_probabilities = np.full(len(names), np.nan if optional else 0.0)
        row_probabilities[[index_by_name[name] for name in probabilities]] = list(
            probabilities.values()
        )
        collected.append(row_probabilities)
        truths.append(truth)
        codes.append(
            -1 if row.group is None else group_codes.setdefault(row.group, len(group_codes))
        )
        if len(collected) * len(names) >= MAX_PROBABILITIES:
            break
    return (
        np.array(collected).reshape(len(collected), len(names)),
        np.array(truths),
        assign_singleton_groups(codes),
    )


def _encode_gold(
    gold: object,
    probabilities: Mapping[str, object],
    index_by_name: Mapping[str, int],
    exclusive: bool,
) -> Any:
    if exclusive:
        return index_by_name[gold] if isinstance(gold, str) and gold in probabilities else None
    if not isinstance(gold, tuple) or not set(gold) <= probabilities.keys():
        return None
    return np.isin(list(index_by_name), gold)
