"""Intervals: against published numbers, statsmodels and plain bootstraps over rows and over
groups.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    ResamplingUnits,
    bootstrap_interval,
    bootstrap_intervals,
    compute_wilson_bounds,
    estimate_clustered_proportion,
    estimate_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.resampling import build_resampling_units


def test_wilsons_interval_has_the_textbook_numbers() -> None:
    estimate = estimate_proportion(81, 263)  # Newcombe 1998, table I, method 3
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_equals_statsmodels(counts: tuple[int, int]) -> None:
    estimate = estimate_proportion(*counts)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx(
        proportion_confint(*counts, method="wilson"), abs=1e-12
    )
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1  # type: ignore[operator]


def test_wilsons_interval_of_no_errors_still_has_a_width() -> None:
    estimate = estimate_proportion(20, 20)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.low < 0.85


def test_a_share_of_nothing_is_no_number() -> None:
    assert estimate_proportion(0, 0) is None
    assert np.isnan(compute_wilson_bounds(np.array([0]), np.array([0]))).all()


@pytest.mark.parametrize("cells", [[2000], [3] * 400, [1] * 2000])
def test_cells_are_drawn_as_rows_would_be(cells: list[int]) -> None:
    """By multinomial draws or by number: 1,000 draws of the first cell's rows have the binomial's
    mean and variance.
    """
    counts, found = np.array(cells), []

    def watch(drawn: IntArray) -> FloatArray:
        assert (drawn.sum(axis=1) == counts.sum()).all()
        found.append(drawn[:, 0])
        return np.asarray(drawn[:, 0], dtype=np.float64)

    bootstrap_interval(counts, watch)
    n, share = counts.sum(), counts[0] / counts.sum()
    first = np.concatenate(found)
    assert len(first) == 1000
    assert first.mean() == pytest.approx(
        n * share, abs=4 * np.sqrt(n * share * (1 - share) / 1000) + 1e-9
    )
    assert first.var() == pytest.approx(n * share * (1 - share), rel=0.3, abs=1e-9)


def test_the_bootstrap_repeats_itself_with_the_same_seed() -> None:
    over, under = np.random.default_rng(0).random((2, 50))
    assert (
        estimate_ratio(over, under, seed=3)
        == estimate_ratio(over, under, seed=3)
        != estimate_ratio(over, under, seed=4)
    )


def test_a_mean_has_the_interval_of_a_plain_bootstrap() -> None:
    random = np.random.default_rng(0)
    values = random.random(300)
    plain = [values[random.integers(0, 300, 300)].mean() for _ in range(2000)]
    estimate = estimate_ratio(values, np.ones(300))
    assert estimate is not None
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        tuple(np.percentile(plain, [2.5, 97.5])), abs=0.006
    )


def test_draws_that_leave_a_figure_undefined_are_left_out_unless_they_are_most() -> None:
    def figures(drawn: IntArray) -> FloatArray:
        column = np.arange(len(drawn))
        known = np.linspace(0, 1, len(drawn))
        return np.column_stack(
            [
                known,
                np.where(column % 3, known, np.nan),
                np.where(column % 3, np.nan, known),
                np.ones(len(drawn)),
            ]
        )

    low, high = bootstrap_intervals(np.array([5, 5]), figures)
    assert (low[0], high[0]) == pytest.approx((0.025, 0.975))
    assert (low[1], high[1]) == pytest.approx((0.025, 0.975), abs=0.003)
    assert np.isnan([low[2], high[2], low[3], high[3]]).all()


def test_rows_that_show_no_spread_give_no_interval() -> None:
    assert estimate_ratio(np.ones(5), np.ones(5)) == Metric(1.0, 5)
    assert bootstrap_interval(np.zeros(3, dtype=np.int64), lambda drawn: drawn.sum(axis=1)) is None


def test_a_ratio_of_nothing_is_no_number() -> None:
    assert estimate_ratio(np.zeros(0), np.zeros(0)) is None
    assert estimate_ratio(np.zeros(3), np.zeros(3)) is None


@pytest.mark.parametrize("size", [1, 10])
def test_groups_are_drawn_whole(size: int) -> None:
    """Against a bootstrap over lists of rows; where rows of a group agree it is wider than without,
    by about the root of its size.
    """
    random = np.random.default_rng(1)
    right = np.repeat(random.random(60) < 0.7, size)
    groups = [f"patient {row // size}" for row in range(len(right))]
    units = build_resampling_units(groups, len(right))
    grouped, alone = (estimate_ratio(right, np.ones(len(right)), one) for one in (units, None))
    members = right.reshape(60, size)
    plain = [members[random.integers(0, 60, 60)].mean() for _ in range(2000)]
    assert grouped is not None
    assert alone is not None
    assert (grouped.value, grouped.n, units.n_groups) == (
        pytest.approx(right.mean()),
        60 * size,
        None if size == 1 else 60,
    )
    assert (grouped.low, grouped.high) == pytest.approx(
        tuple(np.percentile(plain, [2.5, 97.5])), abs=0.02
    )
    width, plain_width = (one.high - one.low for one in (grouped, alone))  # type: ignore[operator]
    assert width / plain_width == pytest.approx(np.sqrt(size), rel=0.15)


def test_rows_without_a_group_are_their_own() -> None:
    values = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    units = build_resampling_units(["a", None, "a", "", "b", None], 6)
    assert (units.n_groups, units.n_rows) == (5, 6)
    assert units.count_rows_per_cell().tolist() == [1] * 6
    estimate = estimate_ratio(values, np.ones(6), units)
    assert estimate is not None
    assert estimate.value == pytest.approx(4 / 6)
    assert build_resampling_units(["a", "b", None], 3).n_groups is None


def test_a_rate_is_wilsons_where_rows_are_independent_and_of_groups_otherwise() -> None:
    hits, every = np.array([1, 0]), np.array([1, 1])
    assert estimate_clustered_proportion(
        hits, every, ResamplingUnits(np.array([7, 3]))
    ) == estimate_proportion(7, 10)
    assert estimate_clustered_proportion(
        hits, [1, 0], ResamplingUnits(np.array([7, 3]))
    ) == estimate_proportion(7, 7)
    assert estimate_clustered_proportion(hits, [0, 0], ResamplingUnits(np.array([7, 3]))) is None
    units = build_resampling_units(["a", "a", "b", "b", "c", "c"], 6)
    always = estimate_clustered_proportion(np.ones(6), np.ones(6), units)
    three = estimate_proportion(3, 3)
    assert three is not None
    assert always == Metric(1.0, 6, three.low, three.high)  # six rows, but three patients
    some = estimate_clustered_proportion([1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0], units)
    # Of the rows it is a share of.
    assert (
        some is not None
        and some.low is not None
        and (some.value, some.n) == (pytest.approx(1 / 3), 3)
    )


def test_intervals_of_grouped_rows_hold_the_truth() -> None:
    """200 tables of 40 patients with 1 to 9 rows each, whose chance of being right differs by
    patient: 0.7 in the mean of rows.
    """
    random = np.random.default_rng(2)
    inside = {True: 0, False: 0}
    for trial in range(200):
        sizes = random.integers(1, 10, 40)
        chances = np.repeat(random.beta(1.4, 0.6, 40), sizes)
        right = (random.random(len(chances)) < chances).astype(np.int64)
        groups = np.repeat([f"{patient}" for patient in range(40)], sizes).tolist()
        for full in inside:
            units = build_resampling_units(groups if full else (), len(right))
            found = estimate_clustered_proportion(right, np.ones(len(right)), units, seed=trial)
            assert found is not None
            inside[full] += found.low <= 0.7 <= found.high  # type: ignore[operator]
    assert inside[True] / 200 > 0.9
    assert inside[False] / 200 < 0.85  # as if rows were independent


def test_an_estimate_is_reported_with_its_interval() -> None:
    assert str(Metric(0.9134, 420, 0.8841, 0.9362)) == "0.913 (0.884-0.936)"
    assert str(Metric(1.0, 5)) == "1.000 (no interval)"
    assert str(Metric(-0.05, 420, -0.11, -0.01)) == "-0.050 (-0.110 to -0.010)"
