"""Agreement of readers on the items that both have decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.evaluation.comparison.annotators import (
    AnnotatedRows,
    compare_annotators,
)
from medtask.records import Value
from medtask.server.review.consensus import parse_stored_value
from medtask.server.review.queues import get_task
from medtask.server.review.tables import (
    ADJUDICATION,
    READ_OUTCOMES,
    ReviewDecision,
    ReviewItem,
    ReviewQueue,
)


class _ReaderValue(NamedTuple):
    """One decision of a reader; ``value`` is None for "cannot tell"."""

    position: int
    reader: str
    value: Value | None
    model: Value | None
    group: str | None


def _compute_agreements(session: Session, queue: ReviewQueue) -> list[dict[str, Any]]:
    """The agreement of every two readers who have items in common, the largest number first.

    Statistics are those of `compare_annotators`; items of one group are resampled together.
    """
    readings = _read_decisions(session, queue.id)
    by_reader: dict[str, dict[int, _ReaderValue]] = {}
    for reading in readings:
        by_reader.setdefault(reading.reader, {})[reading.position] = reading
    pairs = []
    for first, second in combinations(sorted(by_reader), 2):
        shared = sorted(by_reader[first].keys() & by_reader[second].keys())
        if shared:
            columns = [[by_reader[name][place] for place in shared] for name in (first, second)]
            pairs.append(_compare_pair(queue, (first, second), columns))
    return sorted(pairs, key=lambda pair: -pair["items"])


def get_agreements(state: Any, session: Session, queue: ReviewQueue) -> list[dict[str, Any]]:
    """The agreement as JSON. It is computed once for each number of decisions.

    ``state`` is that of the application, which keeps the latest result of each queue.
    """
    if not hasattr(state, "review_agreements"):
        state.review_agreements = {}
    cache: dict[int, tuple[int, list[dict[str, Any]]]] = state.review_agreements
    last = _find_last_decision(session, queue.id)
    known = cache.get(queue.id)
    if known is None or known[0] != last:
        known = cache[queue.id] = last, _compute_agreements(session, queue)
    return known[1]


def _find_last_decision(session: Session, queue_id: int) -> int:
    last = session.scalar(
        select(func.max(ReviewDecision.id))
        .join(ReviewItem, ReviewItem.id == ReviewDecision.item_id)
        .where(ReviewItem.queue_id == queue_id)
    )
    return last or 0


def _compare_pair(
    queue: ReviewQueue, names: tuple[str, str], columns: Sequence[Sequence[_ReaderValue]]
) -> dict[str, Any]:
    """The agreement as JSON; items that one of the two cannot tell are counted and left out."""
    task = get_task(queue)
    first, second = columns
    has_groups = any(reading.group is not None for reading in first)
    agreement = compare_annotators(
        AnnotatedRows(
            [reading.value for reading in first],
            [reading.value for reading in second],
            [reading.model for reading in first],
            groups=[reading.group for reading in first] if has_groups else (),
        ),
        names=names,
        kind=task.kind,
        labels=[label.name for label in task.candidates],
    )
    untold = sum(
        one.value is None or other.value is None for one, other in zip(first, second, strict=True)
    )
    content: dict[str, Any] = {
        "readers": list(names),
        "items": len(first),
        "cannot_tell": untold,
        "n": 0,
        "share": None,
        "kappa": None,
    }
    if agreement is None:
        return content
    found = agreement.inter_annotator
    return content | {
        "n": found.rows,
        "measure": agreement.method.title,
        "share": asdict(found.share),
        "kappa": asdict(found.kappa) if found.kappa else None,
        "labels": {
            name: asdict(metric) if metric else None for name, metric in found.labels.items()
        },
        "note": found.note,
        "disagreements": agreement.n_disagreements,
    }


def _read_decisions(session: Session, queue_id: int) -> list[_ReaderValue]:
    """The latest decisions about items that at least two people have read."""
    rows = session.execute(
        select(
            ReviewItem.position,
            ReviewItem.model,
            ReviewItem.group,
            ReviewDecision.reader_name,
            ReviewDecision.value,
        )
        .join(ReviewDecision, ReviewDecision.item_id == ReviewItem.id)
        .where(
            ReviewItem.queue_id == queue_id,
            ReviewItem.decided >= 2,
            ReviewDecision.is_latest,
            ReviewDecision.seat != ADJUDICATION,
            ReviewDecision.outcome.in_(READ_OUTCOMES),
        )
    )
    return [
        _ReaderValue(
            position,
            reader,
            parse_stored_value(value),
            parse_stored_value(model["value"]) if model else None,
            group,
        )
        for position, model, group, reader, value in rows
    ]
