from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from medtask.evaluation.statistics.kappa import (
    build_kappa_sums,
    build_quadratic_kappa_sums,
    estimate_kappa,
)
from medtask.evaluation.statistics.resampling import build_resampling_units

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS, st.booleans())
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]], quadratic: bool) -> None:
    one, other = map(list, zip(*pairs, strict=True))
    found = estimate_kappa(one, other, build_resampling_units([], len(one)), quadratic=quadratic)
    if len({*one, *other}) < 2:
        assert found is None
        return
    assert found is not None
    expected = cohen_kappa_score(
        one, other, labels=[0, 1, 2, 3], weights="quadratic" if quadratic else None
    )
    assert found.value == pytest.approx(expected, abs=1e-9) and found.n == len(one)


def test_kappa_is_statsmodels_too_and_its_interval_is_near_theirs() -> None:
    one = [index % 3 for index in range(300)]
    other = [value if index % 4 else (value + 1) % 3 for index, value in enumerate(one)]
    reference = cohens_kappa(to_table(list(zip(one, other, strict=True)))[0])
    found = estimate_kappa(one, other, build_resampling_units([], 300))
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(reference.kappa)
    assert (found.low, found.high) == (
        pytest.approx(reference.kappa_low, abs=0.02),
        pytest.approx(reference.kappa_upp, abs=0.02),
    )


def test_systems_that_always_agree_have_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimate_kappa([], [], build_resampling_units([], 0)) is None
        assert estimate_kappa(["a"], ["a"], build_resampling_units([], 1)) is None
        assert estimate_kappa([2, 2], [2, 2], build_resampling_units([], 2), quadratic=True) is None
    assert build_kappa_sums(["a", "a"], ["a", "b"]).compute_value() == pytest.approx(0)
    assert build_quadratic_kappa_sums([1, 1], [1, 3]).compute_value() == pytest.approx(0)


def test_no_answer_is_an_admissible_answer() -> None:
    one, other = ["a", None, ("a", "b"), "a"], ["a", None, ("a", "b"), "b"]
    found = estimate_kappa(one, other, build_resampling_units([], 4))
    assert found is not None
    assert found.value == pytest.approx(
        cohen_kappa_score(list(map(str, one)), list(map(str, other)))
    )


def test_rows_of_one_group_are_drawn_together() -> None:
    one = [index // 10 % 2 for index in range(200)]
    other = [value if index // 10 % 4 else 1 - value for index, value in enumerate(one)]
    alone = estimate_kappa(one, other, build_resampling_units([], 200))
    together = estimate_kappa(
        one, other, build_resampling_units([str(index // 10) for index in range(200)], 200)
    )
    assert (
        alone is not None
        and together is not None
        and together.low is not None
        and alone.low is not None
    )
    assert together.low < alone.low - 0.1
