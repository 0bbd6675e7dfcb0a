"""Rows of gold and answer, counted."""

from __future__ import annotations

import math
import random

from medtask.evaluation.labels.pair_counts import GoldAnswerCounts, build_pair_cells


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [(("a",), ("b",)), (("a",), None), ((), ("a", "b")), (("b",), ()), (("a",), ("b",))]
    tables = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        counted = GoldAnswerCounts(("a", "b"))
        for gold, answer in rows:
            counted.add(answer, gold, 0.4)
        tables.append(build_pair_cells(counted))
    for table in tables:
        assert table.rows.tolist() == tables[0].rows.tolist()
        assert table.gold.tolist() == tables[0].gold.tolist()
        assert table.answer.tolist() == tables[0].answer.tolist()
    assert tables[0].n == 5
    assert int(tables[0].rows[~tables[0].answered].sum()) == 1


def test_gold_that_is_no_label_is_counted_and_is_in_no_pair() -> None:
    counted = GoldAnswerCounts(("a", "b"))
    counted.add(("a",), ("c",), None)
    counted.add(("a",), None, None)
    counted.add(None, ("b",), None)
    assert (counted.rows, counted.answered, counted.unknown_gold, counted.gold_rows) == (3, 2, 1, 1)
    assert counted.answers_by_label == {"a": 2}


def test_an_answer_without_a_number_for_its_confidence_is_not_rated() -> None:
    counted = GoldAnswerCounts(("a",), confidence_threshold=0.5)
    for confidence in (0.49, 0.5, None, math.nan):
        counted.add(("a",), None, confidence)
    counted.add(None, None, 0.1)
    assert (counted.rows_with_confidence, counted.low_confidence) == (2, 1)


def test_nothing_gives_an_empty_table() -> None:
    table = build_pair_cells(GoldAnswerCounts(("a", "b")))
    assert table.n == 0
    assert table.gold.shape == (0, 2)
