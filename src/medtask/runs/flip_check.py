"""How many answers change if rows are asked again in other batches."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping

from medtask.engines.base import Engine
from medtask.evaluation.statistics.intervals import estimate_proportion
from medtask.prediction.predictor import predict_uncalibrated
from medtask.records import Record
from medtask.runs.session import Session
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import STUDENT_PASS

_SEED = 0


def check_flips(
    session: Session,
    models: tuple[Engine, Mapping[str, Engine]],
    records: Iterable[Record],
    count: int,
) -> None:
    """Ask rows again, in another order and thus in other batches, and compare the answers.

    The result is a note of the session and the entry "flip_check" of its manifest. The ledger is
    not changed.

    Args:
        session: A session in which all rows are answered.
        models: The model, and those of further passes by their references.
        records: The rows, from row 1.
        count: How many rows are asked again, drawn at random. Rows of a cascade's student are not
            among them: the model has not answered them.
    """
    from medtask.evaluation.report.sections import describe_flips

    rows = session.request.rows
    if get_task_kind(session.request.task).threshold_fit:
        session.add_note("answers are not asked again: thresholds are fitted on the whole table")
        return
    draw = random.Random(_SEED)  # noqa: S311 - not a secret
    asked = array(
        "q",
        (
            row_answer.row
            for row_answer in session.ledger.read_answers(rows)
            if row_answer.answer.pass_name != STUDENT_PASS
        ),
    )
    chosen = set(draw.sample(asked, min(count, len(asked))))
    picked = [(row, record) for row, record in enumerate(records, 1) if row in chosen]
    draw.shuffle(picked)
    known = {
        row_answer.row: row_answer.answer
        for row_answer in session.ledger.read_answers(rows)
        if row_answer.row in chosen
    }
    engine, pass_engines = models
    again = predict_uncalibrated(
        session.request.task,
        engine,
        [record for _, record in picked],
        pass_engines=pass_engines,
    )
    flips, largest = 0, 0.0
    for (row, _), answer in zip(picked, again, strict=True):
        before = known[row]
        flips += (answer.value, answer.status) != (before.value, before.status)
        if answer.confidence is not None and before.confidence is not None:
            largest = max(largest, abs(answer.confidence - before.confidence))
    share = estimate_proportion(flips, len(picked))
    assert share is not None and share.high is not None  # a run has rows
    session.manifest["flip_check"] = {
        "rows": share.n,
        "flips": flips,
        "share": share.value,
        "low": share.low,
        "high": share.high,
        "largest_confidence_difference": largest,
    }
    session.add_note(f"asked again in other batches: {describe_flips(session.manifest)}")
