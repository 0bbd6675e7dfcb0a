"""Rows are reviewed in the order of the errors that a review is expected to correct."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.evaluation.calibration.review_order import rank_for_review

shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])
rows = st.lists(st.tuples(shares, shares, st.integers(0, 3)), max_size=12)


@settings(deadline=None)
@given(rows)
def test_the_order_is_that_of_the_expected_errors_per_text(
    table: list[tuple[float, float, int]],
) -> None:
    confidence, off_set, codes = (np.array([row[at] for row in table]) for at in range(3))
    order, errors = rank_for_review(
        confidence.astype(float),
        duplicate_codes=codes.astype(np.int64),
        off_set=off_set.astype(float),
    )
    expected = dict.fromkeys(codes.tolist(), 0.0)
    for sure, outside, code in table:
        right = (0.0 if sure != sure else sure) * (1 - (0.0 if outside != outside else outside))
        expected[code] += 1 - right
    assert sorted(order.tolist()) == list(range(len(table)))
    assert np.allclose(errors, [expected[table[row][2]] for row in order.tolist()])
    assert all(first >= second - 1e-9 for first, second in pairwise(errors))
    # Rows of equal text are next to each other.
    in_order = [table[row][2] for row in order.tolist()]
    runs = [code for at, code in enumerate(in_order) if at == 0 or in_order[at - 1] != code]
    assert len(runs) == len(set(runs))


def test_ties_keep_the_order_of_the_table() -> None:
    order, errors = rank_for_review(np.array([0.5, 0.9, 0.5, np.nan]))
    assert order.tolist() == [3, 0, 2, 1]
    assert np.allclose(errors, [1.0, 0.5, 0.5, 0.1])


def test_one_review_of_a_repeated_text_corrects_all_its_rows() -> None:
    order, errors = rank_for_review(
        np.array([0.2, 0.6, 0.6, 0.6]), duplicate_codes=np.array([7, 5, 5, 5])
    )
    assert order.tolist() == [1, 2, 3, 0]
    assert np.allclose(errors, [1.2, 1.2, 1.2, 0.8])
