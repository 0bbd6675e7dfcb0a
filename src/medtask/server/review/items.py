"""Items of a queue from the rows of a run: equal texts become one item, in the queue's order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medtask.display import format_row_count
from medtask.evaluation.calibration.review_order import rank_for_review
from medtask.evaluation.kinds.protocols import compute_sample_key
from medtask.near_duplicates import cluster_near_duplicates, sketch_texts
from medtask.records import (
    Answer,
    AnsweredRow,
    Option,
    Record,
    Status,
    comparable_value,
    list_names,
)
from medtask.server.review.settings import QueueSettings, RowQuery
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import render_text
from medtask.tasks.task import Task

_CONTENT_KEY = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """An item before it is stored; see `ReviewItem`. ``rows`` are the rows with its text."""

    text: str
    options: tuple[Option, ...]
    rows: list[AnsweredRow] = field(default_factory=list)

    @property
    def first(self) -> AnsweredRow:
        return self.rows[0]


@dataclass(frozen=True, slots=True)
class DraftedItems:
    """The items in the queue's order.

    Attributes:
        items: The items.
        clusters: For each item, the index of the first item with a nearly equal text.
        without_text: The number of rows that were left out because there is nothing to read.
        unmatched: The number of rows that do not meet the query.
    """

    items: Sequence[ItemDraft]
    clusters: Sequence[int]
    without_text: int
    unmatched: int

    def describe_left_out(self) -> list[str]:
        """Notes on rows that were left out, for users."""
        if not self.without_text:
            return []
        return [f"{format_row_count(self.without_text)} without text left out"]


def draft_items(task: Task, rows: Iterable[AnsweredRow], settings: QueueSettings) -> DraftedItems:
    """Select, merge and order rows.

    ``task`` names the columns as the rows' fields do.
    """
    units: dict[_CONTENT_KEY, ItemDraft] = {}
    without_text = unmatched = 0
    for row in rows:
        text, options = _read_content(task, row)
        if not text:
            without_text += 1
        elif not _matches(task, settings.query, row, text):
            unmatched += 1
        else:
            key = text, tuple(option.text for option in options)
            units.setdefault(key, ItemDraft(text, options)).rows.append(row)
    items = list(units.values())
    clusters = _find_clusters(items)
    order = _order_items(items, clusters, settings)[: settings.max_items]
    firsts: dict[int, int] = {}
    for place, index in enumerate(order):
        firsts.setdefault(clusters[index], place)
    return DraftedItems(
        [items[index] for index in order],
        [firsts[clusters[index]] for index in order],
        without_text,
        unmatched,
    )


def count_readers(draft: ItemDraft, settings: QueueSettings) -> int:
    """How many people should read an item; which ones overlap depends on the id only."""
    drawn = compute_sample_key(draft.first.answer.record_id, seed=1) / 2**48
    return settings.readers_per_item if drawn < settings.overlap else 1


def describe_model_answer(task: Task, answer: Answer) -> dict[str, Any] | None:
    """The model's answer as JSON; None without a value and without probabilities."""
    value = comparable_value(answer.status, answer.value, task.abstain_name)
    if value is None and not answer.probabilities and not answer.reason:
        return None
    return {
        "value": value,
        "confidence": answer.confidence,
        "probabilities": dict(answer.probabilities or {}),
        "status": str(answer.status),
        "reason": answer.reason,
        "quotes": [
            {"start": quote.input_start, "end": quote.input_end, "field": name}
            for name, quote in (answer.quotes or {}).items()
        ],
    }


def _read_content(task: Task, row: AnsweredRow) -> tuple[str, tuple[Option, ...]]:
    """The row's text and options, also of a row that the gate has rejected."""
    if row.text:
        return row.text, tuple(row.options)
    text = render_text(task.input, Record(row.answer.record_id, row.fields)) if task.input else ""
    extras = get_task_kind(task).read_extras(row.fields)
    if not isinstance(text, str) or isinstance(extras, str):
        return "", ()
    return text, extras.options


def _matches(task: Task, query: RowQuery, row: AnsweredRow, text: str) -> bool:
    answer = row.answer
    value = comparable_value(answer.status, answer.value, task.abstain_name)
    low = query.confidence_below
    return (
        query.contains.casefold() in text.casefold()
        and (not query.answers or not set(query.answers).isdisjoint(list_names(value)))
        and (not query.statuses or answer.status in query.statuses)
        and (low is None or answer.confidence is None or answer.confidence < low)
        and not (query.without_gold and row.gold is not None)
    )


def _find_clusters(items: Sequence[ItemDraft]) -> list[int]:
    """The cluster of each item. Items with different options are never in one cluster."""
    clusters: list[int] = list(range(len(items)))
    by_options: dict[tuple[Option, ...], list[int]] = {}
    for index, item in enumerate(items):
        by_options.setdefault(item.options, []).append(index)
    for indices in by_options.values():
        if len(indices) > 1:
            found = cluster_near_duplicates(sketch_texts([items[index].text for index in indices]))
            for index, first in zip(indices, found.tolist(), strict=True):
                clusters[index] = indices[first]
    return clusters


def _order_items(
    items: Sequence[ItemDraft], clusters: Sequence[int], settings: QueueSettings
) -> list[int]:
    """The indices of the items in the queue's order; what is not text comes last in every order."""
    orders = {"worth": _order_by_worth, "random": _order_randomly, "table": _keep_order}
    order = orders[settings.order](items, clusters)
    return sorted(order, key=lambda index: items[index].first.answer.status is Status.NOT_TEXT)


def _keep_order(items: Sequence[ItemDraft], clusters: Sequence[int]) -> list[int]:
    return list(range(len(items)))


def _order_randomly(items: Sequence[ItemDraft], clusters: Sequence[int]) -> list[int]:
    return sorted(
        range(len(items)),
        key=lambda index: compute_sample_key(items[index].first.answer.record_id),
    )


def _order_by_worth(items: Sequence[ItemDraft], clusters: Sequence[int]) -> list[int]:
    owners = [index for index, item in enumerate(items) for _ in item.rows]
    answers = [row.answer for item in items for row in item.rows]
    order, _ = rank_for_review(
        np.array(
            [
                np.nan if answer.confidence is None or answer.value is None else answer.confidence
                for answer in answers
            ],
            dtype=np.float64,
        ),
        duplicate_codes=np.array([clusters[owner] for owner in owners], dtype=np.int64),
        off_set=np.array(
            [np.nan if answer.off_set is None else answer.off_set for answer in answers],
            dtype=np.float64,
        ),
    )
    return list(dict.fromkeys(owners[row] for row in order.tolist()))
