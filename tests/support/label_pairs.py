"""Rows of gold and answer as the findings count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtask.evaluation.labels.pair_counts import GoldAnswerCounts

Names = str | Sequence[str] | None
LABELS = ["a", "b", "c", "d"]


def make_confused_rows(seed: int = 0, n: int = 300) -> list[tuple[str, str]]:
    """Answers that are right in three of four rows; "b" is taken for "c" in half of its rows."""
    random = np.random.default_rng(seed)
    rows = []
    for gold in random.choice(LABELS, n):
        answer = gold if random.random() < 0.75 else random.choice(LABELS)
        rows.append((str(gold), "c" if gold == "b" and random.random() < 0.5 else str(answer)))
    return rows


def count_label_pairs(
    labels: Sequence[str], rows: Sequence[tuple[Names, Names]], *, abstain: str | None = None
) -> GoldAnswerCounts:
    """Rows of (gold, answer), each one name, several, or None where there is none."""
    counted = GoldAnswerCounts(tuple(labels), abstain)
    for gold, answer in rows:
        counted.add(_to_label_tuple(answer), _to_label_tuple(gold), None)
    return counted


def _to_label_tuple(names: Names) -> tuple[str, ...] | None:
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)
