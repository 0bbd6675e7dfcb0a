"""What grades and verdicts say in sum, on random and on degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from medtask.evaluation.report.judge_report import (
    UNKNOWN_ERROR,
    format_judge_metrics,
    format_pairwise_metrics,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.judge_metrics import (
    MIN_KAPPA,
    GradedAnswer,
    GradeScale,
    JudgeAgreement,
    JudgeMetrics,
    compute_judge_metrics,
)
from medtask.evaluation.statistics.pairwise_judge_metrics import compute_pairwise_judge_metrics
from medtask.evaluation.statistics.refusal import Refusal

SCALE = GradeScale(("1", "2", "3", "4", "5"), (1.0, 2.0, 3.0, 4.0, 5.0), 3)


def get_agreement(judged: JudgeMetrics) -> JudgeAgreement:
    assert judged.human_agreement
    return judged.human_agreement


def draw_graded_rows(seed: int, rows: int, human: int, noise: float = 0.8) -> list[GradedAnswer]:
    """Grades near people's, the first ``human`` of which people have graded, and a judge that fails
    now and then.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, rows)
    grade = np.clip(np.round(truth + random.normal(0.3, noise, rows)), 0, 4).astype(int)
    fails = random.random(rows) < 0.1
    people = [int(truth[row]) if row < human else None for row in range(rows)]
    judge = [
        (None, None) if fails[row] else (int(grade[row]), float(grade[row]) + 0.9)
        for row in range(rows)
    ]
    return [
        GradedAnswer(index, expected, person)
        for (index, expected), person in zip(judge, people, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_independent_computations(seed: int) -> None:
    rows = draw_graded_rows(seed, 200, 80)
    judged = compute_judge_metrics(SCALE, rows, unanswered=3, unreferenced=2)
    grades = np.array([row.grade for row in rows if row.grade is not None])
    assert judged.n == len(grades)
    assert judged.missing.failed == 200 - len(grades)
    assert judged.missing_rate == (200 - len(grades)) / 200
    assert sum(judged.grades.values()) == judged.n
    assert judged.mean and judged.expected and judged.acceptable
    assert judged.mean.value == pytest.approx(grades.mean() + 1)
    assert judged.expected.value == pytest.approx(grades.mean() + 0.9)
    assert judged.mean.low is not None and judged.mean.high is not None
    middle, half = grades.mean() + 1, 1.96 * grades.std() / np.sqrt(len(grades))
    assert [judged.mean.low, judged.mean.high] == pytest.approx(
        [middle - half, middle + half], abs=0.05
    )
    wilson = proportion_confint(int((grades >= 3).sum()), len(grades), method="wilson")
    assert (judged.acceptable.low, judged.acceptable.high) == (
        pytest.approx(wilson[0]),
        pytest.approx(wilson[1]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_people_is_that_of_scikit_learn(seed: int) -> None:
    rows = draw_graded_rows(seed, 200, 80)
    against = get_agreement(compute_judge_metrics(SCALE, rows))
    both = [
        (row.human_grade, row.grade)
        for row in rows
        if row.human_grade is not None and row.grade is not None
    ]
    human, grade = np.array(both).T
    assert (against.n, against.lost) == (len(both), 80 - len(both))
    assert (
        against.sensitivity and against.specificity and against.kappa and against.kappa_acceptable
    )
    assert against.sensitivity.value == pytest.approx(recall_score(human >= 3, grade >= 3))
    assert against.specificity.value == pytest.approx(recall_score(human < 3, grade < 3))
    assert against.sensitivity.n + against.specificity.n == against.n
    assert against.kappa.value == pytest.approx(
        cohen_kappa_score(human, grade, weights="quadratic", labels=range(5))
    )
    assert against.kappa_acceptable.value == pytest.approx(
        cohen_kappa_score(human >= 3, grade >= 3)
    )
    assert isinstance(against.share, Metric) and isinstance(against.mean, Metric)
    assert against.share.n == count_judged(rows)


def count_judged(rows: list[GradedAnswer]) -> int:
    return sum(row.grade is not None for row in rows)


def test_the_interval_of_kappa_is_that_of_drawing_rows_again() -> None:
    rows = [row for row in draw_graded_rows(1, 60, 60) if row.grade is not None]
    human, grade = np.array([(row.human_grade, row.grade) for row in rows]).T
    random = np.random.default_rng(3)
    draws = [random.integers(0, len(rows), len(rows)) for _ in range(300)]
    kappas = [
        cohen_kappa_score(human[drawn], grade[drawn], weights="quadratic", labels=range(5))
        for drawn in draws
    ]
    kappa = get_agreement(compute_judge_metrics(SCALE, rows)).kappa
    assert kappa and kappa.low is not None and kappa.high is not None
    low, high = np.percentile(kappas, [2.5, 97.5])
    assert (kappa.low, kappa.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))


def test_nothing_judged_is_no_figure() -> None:
    judged = compute_judge_metrics(SCALE, [], unanswered=4)
    assert judged.n == 0
    assert [
        judged.missing_rate,
        judged.mean,
        judged.expected,
        judged.acceptable,
        judged.human_agreement,
    ] == [None] * 5
    assert format_judge_metrics(judged) == [
        "4 rows without an answer to judge",
        "no judgement, so there are no metrics",
    ]
    assert judged.to_json()["metrics"] == {}


def test_judgements_that_all_failed_are_no_agreement() -> None:
    judged = compute_judge_metrics(SCALE, [GradedAnswer(None, None, 4)] * 7)
    against = get_agreement(judged)
    assert (judged.n, judged.missing_rate, judged.mean, judged.acceptable) == (0, 1.0, None, None)
    assert (against.n, against.lost, against.kappa, against.sensitivity, against.human_share) == (
        0,
        7,
        None,
        None,
        None,
    )
    assert isinstance(against.share, Refusal) and isinstance(against.mean, Refusal)


def test_a_failed_judgement_moves_no_figure() -> None:
    rows = draw_graded_rows(2, 100, 50)
    kept = [row for row in rows if row.grade is not None]
    with_failed, without = compute_judge_metrics(SCALE, rows), compute_judge_metrics(SCALE, kept)
    assert with_failed.missing.failed > 0
    assert (with_failed.mean, with_failed.acceptable, with_failed.expected) == (
        without.mean,
        without.acceptable,
        without.expected,
    )
    assert get_agreement(with_failed).share == get_agreement(without).share


def test_one_row_has_a_mean_without_interval() -> None:
    judged = compute_judge_metrics(SCALE, [GradedAnswer(4, 4.5)])
    assert judged.mean and judged.acceptable
    assert (judged.mean.value, judged.mean.low) == (5.0, None)
    assert (judged.acceptable.value, judged.acceptable.n) == (1.0, 1)
    assert UNKNOWN_ERROR in format_judge_metrics(judged)


def test_people_of_one_opinion_tell_half_of_the_errors() -> None:
    rows = [GradedAnswer(grade, None, 4) for grade in (4, 4, 3, 1)] * 15
    against = get_agreement(compute_judge_metrics(SCALE, [*rows, GradedAnswer(4)]))
    assert against.sensitivity and against.sensitivity.value == 0.75
    assert against.specificity is None
    assert (
        isinstance(against.share, Refusal) and "60 acceptable and 0 other" in against.share.reason
    )


def test_one_opinion_of_both_is_no_kappa() -> None:
    against = get_agreement(compute_judge_metrics(SCALE, [GradedAnswer(3, None, 3)] * 40))
    assert (against.kappa, against.kappa_acceptable) == (None, None)
    assert against.human_share and against.human_share.value == 1.0


@pytest.mark.parametrize(
    ("hits", "reason"),
    [
        ((5, 5), "at least as often as good ones"),
        ((2, 2), "at least as often as good ones"),
        ((6, 5), "hardly agrees with people"),
    ],
)
def test_a_judge_at_chance_gets_no_corrected_share(hits: tuple[int, int], reason: str) -> None:
    good = [GradedAnswer(4 if index < hits[0] else 0, None, 4) for index in range(10)]
    bad = [GradedAnswer(0 if index < hits[1] else 4, None, 0) for index in range(10)]
    against = get_agreement(
        compute_judge_metrics(SCALE, [*(good + bad) * 3, *[GradedAnswer(4)] * 50])
    )
    assert isinstance(against.share, Refusal) and reason in against.share.reason
    assert against.kappa_acceptable and against.kappa_acceptable.value < MIN_KAPPA
    # People's own grades still hold, and the judge's weigh next to nothing.
    assert isinstance(against.mean, Metric)


def test_a_lucky_judge_gets_no_corrected_share() -> None:
    good = [GradedAnswer(4, None, 4)] * 4 + [GradedAnswer(0, None, 4)] * 2
    bad = [GradedAnswer(4, None, 0)] * 2 + [GradedAnswer(0, None, 0)] * 4
    against = get_agreement(compute_judge_metrics(SCALE, [*good, *bad, *[GradedAnswer(4)] * 50]))
    assert against.kappa_acceptable and against.kappa_acceptable.value > MIN_KAPPA
    assert (
        isinstance(against.share, Refusal)
        and "12 rows" in against.share.reason
        and "distinguished from chance" in against.share.reason
    )


def test_where_people_graded_all_their_own_figures_stand() -> None:
    rows = [
        GradedAnswer(grade, None, human)
        for grade, human in ((4, 4), (3, 4), (0, 0), (1, 3), (0, 1))
    ] * 10
    against = get_agreement(compute_judge_metrics(SCALE, rows))
    assert isinstance(against.mean, Refusal)
    assert isinstance(against.share, Refusal) and "every judged row" in against.share.reason
    assert against.human_share and against.human_share.value == 0.6


def test_a_corrected_mean_is_on_the_scale() -> None:
    """The judge gives the rows that people graded less than the others: the correction adds to a
    mean that is nearly the best grade.
    """
    random = np.random.default_rng(0)
    truth = np.where(random.random(60) < 0.9, 4, 3)
    rows = [GradedAnswer(int(grade), None, int(grade)) for grade in truth]
    rows += [GradedAnswer(4)] * 500 + [GradedAnswer(3)] * 100
    rows[:10] = [GradedAnswer(2, None, 3)] * 5 + [GradedAnswer(3, None, 4)] * 5
    mean = get_agreement(compute_judge_metrics(SCALE, rows)).mean
    assert isinstance(mean, Metric)
    assert mean.low is not None
    assert mean.high is not None
    assert 1 <= mean.low <= mean.value <= mean.high <= 5
    assert mean.high == 5
    apart = [GradedAnswer(index % 2, None, 3 + index % 2) for index in range(60)]
    found = get_agreement(compute_judge_metrics(SCALE, [*apart, *[GradedAnswer(4)] * 600])).mean
    assert isinstance(found, Refusal)
    assert "outside of the scale" in found.reason


def test_rows_of_one_patient_are_drawn_together() -> None:
    alone = compute_judge_metrics(SCALE, [GradedAnswer(row % 5) for row in range(100)])
    together = compute_judge_metrics(
        SCALE, [GradedAnswer(row // 20, None, row // 20, str(row // 20)) for row in range(100)]
    )
    assert alone.mean and together.mean and alone.mean.low and together.mean.low
    assert together.mean.value == alone.mean.value
    assert together.mean.low < alone.mean.low
    refused = get_agreement(together).share
    assert isinstance(refused, Refusal) and "not independent" in refused.reason


@pytest.mark.parametrize(
    ("wins", "losses", "first", "second", "same"),
    [(30, 10, 5, 2, 3), (0, 0, 4, 0, 0), (0, 0, 0, 0, 6), (1, 0, 0, 0, 0)],
)
def test_verdicts_are_counted(wins: int, losses: int, first: int, second: int, same: int) -> None:
    outcomes = (
        ["win"] * wins
        + ["loss"] * losses
        + ["first"] * first
        + ["second"] * second
        + ["same"] * same
    )
    compared = compute_pairwise_judge_metrics([*outcomes, None, None], unanswered=1)
    n, asked = len(outcomes), len(outcomes) - same
    assert (compared.n, compared.missing.failed, compared.missing_rate) == (n, 2, 2 / (asked + 2))
    assert compared.win_rate and compared.win_rate.value == pytest.approx(
        (wins + (first + second + same) / 2) / n
    )
    if asked:
        wilson = proportion_confint(first + second, asked, method="wilson")
        assert compared.by_place and (compared.by_place.low, compared.by_place.high) == (
            pytest.approx(wilson[0]),
            pytest.approx(wilson[1]),
        )
    else:
        assert compared.by_place is None
    assert compared.p == (binomtest(wins, wins + losses).pvalue if wins + losses else None)
    assert format_pairwise_metrics(compared, "A", "B")


def test_no_verdict_is_no_figure() -> None:
    compared = compute_pairwise_judge_metrics([None, None])
    assert (
        compared.n,
        compared.missing_rate,
        compared.win_rate,
        compared.by_place,
        compared.p,
    ) == (0, 1.0, None, None, None)
    assert format_pairwise_metrics(compared, "A", "B")[-1] == "no verdict, so there are no metrics"
    assert compute_pairwise_judge_metrics([]).missing_rate is None


def test_wins_of_rows_that_belong_together_are_tested_group_by_group() -> None:
    outcomes = ["win"] * 60 + ["loss"] * 20
    alone = compute_pairwise_judge_metrics(outcomes)
    assert alone.test == "sign test"
    assert alone.p == pytest.approx(binomtest(60, 80).pvalue)
    # Four groups, three of which win: as often as three of four coins show the same side.
    grouped = compute_pairwise_judge_metrics(
        outcomes, [str(row // 20) for row in range(len(outcomes))]
    )
    assert grouped.test == "randomisation of whole groups"
    assert grouped.p == pytest.approx(10 / 16, abs=0.03)
