"""Corrected figures: equal to independent computations, and intervals that hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medtask.evaluation.statistics.intervals import Metric, estimate_proportion
from medtask.evaluation.statistics.judge_correction import (
    compute_ppi_weight,
    correct_mean,
    correct_proportion,
)

TRIALS = 400


def compute_rogan_gladen_interval(
    found: tuple[int, int], good: tuple[int, int], bad: tuple[int, int]
) -> tuple[float, float]:
    """Lang and Reiczigel 2014, step by step, before it is cut to [0, 1]."""
    z = 1.959963984540054
    n, n_se, n_sp = found[1] + z * z, good[1] + 2, bad[1] + 2
    ap, se, sp = (found[0] + z * z / 2) / n, (good[0] + 1) / n_se, (bad[0] + 1) / n_sp
    p = (ap + sp - 1) / (se + sp - 1)
    dp = 2 * z * z * (p * se * (1 - se) / n_se - (1 - p) * sp * (1 - sp) / n_sp)
    variance = (
        ap * (1 - ap) / n + p * p * se * (1 - se) / n_se + (1 - p) ** 2 * sp * (1 - sp) / n_sp
    )
    reach = z * math.sqrt(variance) / (se + sp - 1)
    return p + dp - reach, p + dp + reach


@pytest.mark.parametrize(
    ("found", "good", "bad"),
    [
        ((60, 100), (45, 50), (40, 50)),
        ((300, 1000), (95, 100), (70, 100)),
        ((5, 10), (9, 10), (9, 10)),
        ((20, 40), (30, 40), (35, 40)),
    ],
)
def test_the_corrected_share_is_that_of_rogan_and_gladen(
    found: tuple[int, int], good: tuple[int, int], bad: tuple[int, int]
) -> None:
    share = correct_proportion(found, good, bad)
    assert share
    se, sp = good[0] / good[1], bad[0] / bad[1]
    assert share.value == pytest.approx((found[0] / found[1] + sp - 1) / (se + sp - 1))
    low, high = compute_rogan_gladen_interval(found, good, bad)
    assert (share.low, share.high) == (pytest.approx(max(0.0, low)), pytest.approx(min(1.0, high)))


def test_a_judge_without_errors_changes_nothing() -> None:
    share = correct_proportion((60, 100), (10_000, 10_000), (10_000, 10_000))
    plain = estimate_proportion(60, 100)
    assert share and plain and share.low and share.high and plain.low and plain.high
    assert share.value == pytest.approx(plain.value)
    assert (share.low, share.high) == (
        pytest.approx(plain.low, abs=0.01),
        pytest.approx(plain.high, abs=0.01),
    )


@pytest.mark.parametrize(
    ("found", "good", "bad"),
    [
        ((0, 0), (9, 10), (9, 10)),
        ((5, 10), (0, 0), (9, 10)),
        ((5, 10), (9, 10), (0, 0)),
        ((5, 10), (5, 10), (5, 10)),  # a coin
        ((5, 10), (2, 10), (3, 10)),  # worse than a coin
        ((5, 10), (1, 1), (1, 100)),  # above chance before the two are added, not after
        ((5, 100), (50, 50), (40, 50)),  # a fifth of bad answers pass, but of all only a twentieth
    ],
)
def test_nothing_is_corrected_where_nothing_can_be_known(
    found: tuple[int, int], good: tuple[int, int], bad: tuple[int, int]
) -> None:
    assert correct_proportion(found, good, bad) is None


@pytest.mark.parametrize("found", [(8, 50), (50, 50)])
def test_a_corrected_share_is_a_share_and_is_in_its_interval(found: tuple[int, int]) -> None:
    share = correct_proportion(found, (18, 20), (14, 20))
    assert share and share.low is not None and share.high is not None
    assert 0 <= share.low <= share.value <= share.high <= 1


@pytest.mark.parametrize("seed", range(5))
def test_the_corrected_mean_is_that_of_ppi_py(seed: int) -> None:
    ppi_py = pytest.importorskip("ppi_py", reason="ppi-python is not installed")
    random = np.random.default_rng(seed)
    truth = random.integers(1, 6, 40 + 10 * seed).astype(float)
    judged = truth + random.normal(0.5, 1, len(truth))
    others = random.normal(3.5, 1.5, 300)
    mean = correct_mean(truth.tolist(), judged.tolist(), others.tolist())
    assert mean
    weight = compute_ppi_weight(truth, judged, others)
    assert 0 < weight < 1
    point = ppi_py.ppi_mean_pointestimate(truth, judged, others, lam=weight)
    bounds = ppi_py.ppi_mean_ci(truth, judged, others, alpha=0.05, lam=weight)
    assert [mean.value, mean.low, mean.high] == pytest.approx(
        [float(point[0]), *(float(bound[0]) for bound in bounds)]
    )
    chosen = ppi_py.ppi_mean_ci(truth, judged, others, alpha=0.05)  # by a weight of ppi_py's own
    assert [mean.low, mean.high] == pytest.approx([float(bound[0]) for bound in chosen], abs=0.01)


def test_an_uninformative_judge_leaves_the_mean_of_people() -> None:
    human = [1.0, 2.0, 4.0, 5.0]
    alone, idle = correct_mean(human, [3.0] * 4, []), correct_mean(human, [3.0] * 4, [3.0] * 100)
    assert alone and idle
    assert (idle.value, idle.low, idle.high) == (alone.value, alone.low, alone.high)
    assert alone.value == 3.0
    assert alone.low == pytest.approx(3.0 - 1.959963984540054 * np.std(human) / 2)


def test_a_mean_without_rows_or_without_spread() -> None:
    assert correct_mean([], [], [1.0]) is None
    assert correct_mean([4.0, 4.0], [4.0, 4.0], []) == Metric(4.0, 2)


def simulate_coverage(seed: int, human: int) -> tuple[bool, bool, bool, float]:
    """Whether the intervals of one trial cover the truth: corrected share, the judge's own share,
    corrected mean; and the width of the corrected mean's through that of people's alone.
    """
    random = np.random.default_rng(seed)
    true_share, sensitivity, specificity = 0.6, 0.9, 0.7
    good = random.random(600) < true_share
    passes = np.where(good, random.random(600) < sensitivity, random.random(600) >= specificity)
    points, output = good + 0.0, passes + random.normal(0, 0.2, 600)
    share = correct_proportion(
        (int(passes[human:].sum()), 600 - human),
        (int((passes & good)[:human].sum()), int(good[:human].sum())),
        (int((~passes & ~good)[:human].sum()), int((~good)[:human].sum())),
    )
    naive = estimate_proportion(int(passes.sum()), 600)
    mean = correct_mean(points[:human].tolist(), output[:human].tolist(), output[human:].tolist())
    alone = correct_mean(points[:human].tolist(), output[:human].tolist(), [])
    assert (
        mean
        and alone
        and mean.low is not None
        and mean.high is not None
        and alone.low is not None
        and alone.high is not None
    )
    shorter = (mean.high - mean.low) / (alone.high - alone.low)
    return covers(share, true_share), covers(naive, true_share), covers(mean, true_share), shorter


def covers(estimate: Metric | None, truth: float) -> bool:
    return (
        estimate is not None
        and estimate.low is not None
        and estimate.high is not None
        and estimate.low <= truth <= estimate.high
    )


@pytest.mark.parametrize("human", [60, 150])
def test_corrected_intervals_cover_the_truth_and_the_judges_own_does_not(human: int) -> None:
    share, naive, mean, width = np.mean(
        [simulate_coverage(seed, human) for seed in range(TRIALS)], axis=0
    )
    assert share >= 0.9
    assert mean >= 0.9
    assert naive < 0.5
    assert width < 0.95  # the judge's grades are worth something
