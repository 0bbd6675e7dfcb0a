"""Paired tests with Holm's correction, and the number of rows that would show a difference."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from medtask.evaluation.comparison.paired import (
    SystemMetrics,
    compare_pair,
    compare_pairs,
    compute_difference_sample_size,
    compute_mcnemar_sample_size,
    describe_pair,
    describe_rows_needed,
    round_up_rows,
)
from medtask.evaluation.kinds.metrics import build_metric_sums
from medtask.evaluation.statistics.intervals import Metric

GOLD = ["a"] * 100


def make_label_entry(name: str, right: list[bool]) -> SystemMetrics:
    given = ["a" if one else "b" for one in right]
    return SystemMetrics(
        name, build_metric_sums("label", ("a", "b"), ["a"] * len(right), given), right
    )


def make_text_entry(name: str, texts: list[str | None], gold: list[str]) -> SystemMetrics:
    return SystemMetrics(name, build_metric_sums("answer", (), gold, texts))


def test_a_pair_of_right_and_wrong_is_tested_as_mcnemar_did() -> None:
    chance = random.Random(1)
    one, other = ([chance.random() < share for _ in range(100)] for share in (0.85, 0.7))
    pair = compare_pair(make_label_entry("one", one), make_label_entry("other", other))
    table = [
        [sum(x == r and y == s for x, y in zip(one, other, strict=True)) for s in (True, False)]
        for r in (True, False)
    ]
    assert pair.p == pair.p_rows == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (pair.only_first, pair.only_second) == (table[0][1], table[1][0])
    assert pair.test == "McNemar's exact test"
    assert pair.headline[1].value == pytest.approx((sum(one) - sum(other)) / 100)
    assert list(pair.differences) == ["accuracy", "macro_f1"]


def test_rows_of_one_patient_are_not_so_many_proofs() -> None:
    """Ten patients with ten rows each, on six of which the first is right throughout and the second
    never.
    """
    one = [index // 10 < 8 for index in range(100)]
    other = [index // 10 < 5 for index in range(100)]
    groups = [f"patient {index // 10}" for index in range(100)]
    alone, together = (
        compare_pair(make_label_entry("one", one), make_label_entry("other", other), each)
        for each in ([], groups)
    )
    assert alone.p < 0.001
    # Three patients in eight ways, of which two are as uneven.
    assert together.p == pytest.approx(0.25, abs=0.03)
    assert together.test == "randomisation of whole groups"
    assert together.groups == 10
    assert (
        compare_pairs([(make_label_entry("one", one), make_label_entry("other", other))], groups)[
            0
        ].verdict
        == "no clear difference"
    )


def test_texts_are_tested_by_randomisation() -> None:
    gold = [f"word{index} other{index}" for index in range(40)]
    pair = compare_pair(
        make_text_entry("same", list(gold), gold),
        make_text_entry("half", [text.split()[0] for text in gold], gold),
    )
    assert (pair.only_first, pair.p_rows) == (None, None)
    assert pair.p < 0.001
    measure, gap = pair.headline
    assert (measure, gap.n, gap.low) == ("token_f1", 40, None)  # every row differs by the same
    assert gap.value == pytest.approx(1 / 3)


def test_a_system_that_read_fewer_rows_is_compared_on_these() -> None:
    pair = compare_pair(
        make_label_entry("long", [True] * 100), make_label_entry("short", [False] * 30)
    )
    assert pair.n == pair.headline[1].n == 30
    assert pair.headline[1].value == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [([True], [True]), ([True], [False]), ([False] * 5, [False] * 5), ([True] * 4, [True] * 4)],
)
def test_little_or_nothing_to_see_is_no_clear_difference(
    one: list[bool], other: list[bool]
) -> None:
    (pair,) = compare_pairs([(make_label_entry("one", one), make_label_entry("other", other))])
    assert pair.verdict == "no clear difference"
    assert pair.p_holm == 1
    assert describe_pair(pair)


def test_every_pair_of_three_pays_for_being_one_of_three() -> None:
    chance = random.Random(4)
    entries = [
        make_label_entry(name, [chance.random() < share for _ in range(150)])
        for name, share in (("x", 0.9), ("y", 0.8), ("z", 0.6))
    ]
    pairs = [(entries[0], entries[1]), (entries[0], entries[2]), (entries[1], entries[2])]
    family = compare_pairs(pairs)
    alone = [compare_pair(*pair).p for pair in pairs]
    assert [pair.p for pair in family] == alone
    assert [pair.p_holm for pair in family] == pytest.approx(
        list(multipletests(alone, method="holm")[1])
    )
    assert family[1].verdict == "better"
    assert "x is better than z" in describe_pair(family[1])
    assert compare_pairs([pairs[1][::-1]])[0].verdict == "worse"
    assert "x is better than z" in describe_pair(compare_pairs([pairs[1][::-1]])[0])


def test_so_many_rows_have_the_power_that_is_promised() -> None:
    """By simulation, with McNemar's exact test, which is a little too careful."""
    first, second = 0.12, 0.06
    rows = compute_mcnemar_sample_size(first, second)
    assert rows is not None
    chance = np.random.default_rng(0)
    drawn = chance.multinomial(rows, [first, second, 1 - first - second], size=1500)
    found = np.mean(
        [binomtest(int(wins), int(wins + losses)).pvalue < 0.05 for wins, losses, _ in drawn]
    )
    assert 0.75 < found < 0.83


def test_a_difference_without_an_interval_is_still_a_difference() -> None:
    """All groups differ by the same: the bootstrap has no spread, and three groups show nothing."""
    groups = [f"patient {index // 5}" for index in range(15)]
    one, other = make_label_entry("one", [True] * 15), make_label_entry("other", [False] * 15)
    (pair,) = compare_pairs([(one, other)], groups)
    assert (pair.verdict, pair.more_rows) == ("no clear difference", None)
    assert pair.headline[1].value == 1
    assert "no difference at all" not in describe_pair(pair)
    assert "too few to estimate how many would show it" in describe_pair(pair)
    assert "no difference at all" in describe_pair(compare_pairs([(one, one)], groups)[0])


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_so_many_rows_can_be_significant_by_the_exact_test(alpha: float) -> None:
    rows = compute_mcnemar_sample_size(1.0, 0.0, alpha=alpha)
    assert rows is not None
    assert binomtest(rows, rows).pvalue < alpha <= binomtest(rows - 1, rows - 1).pvalue
    (pair,) = compare_pairs(
        [(make_label_entry("one", [True] * 5), make_label_entry("other", [False] * 5))]
    )
    assert describe_rows_needed(pair) == (
        "About 1 more row with gold would be needed to show a difference of this size."
    )


def test_rows_by_the_width_of_an_interval_are_statsmodels() -> None:
    spread, gap, n = 0.4, 0.03, 500
    error = spread / n**0.5
    reach = float(norm.ppf(0.975)) * error
    found = compute_difference_sample_size(Metric(gap, n, gap - reach, gap + reach))
    expected = NormalIndPower().solve_power(
        effect_size=gap / spread, power=0.8, alpha=0.05, ratio=0
    )
    assert found == pytest.approx(expected, rel=0.01)


def test_equal_systems_are_not_distinguished_with_any_number_of_rows() -> None:
    assert compute_mcnemar_sample_size(0.1, 0.1) is None
    assert compute_mcnemar_sample_size(0, 0) is None
    assert compute_difference_sample_size(Metric(0.0, 10, -0.1, 0.1)) is None
    assert compute_difference_sample_size(Metric(0.1, 1)) is None
    one = [True] * 5 + [False] * 5
    (pair,) = compare_pairs([(make_label_entry("one", one), make_label_entry("other", one[::-1]))])
    assert pair.more_rows is None
    assert "no number of rows" in describe_rows_needed(pair)


def test_what_is_needed_is_more_than_there_is_and_reported_in_two_digits() -> None:
    one, other = [True] * 60 + [False] * 40, [True] * 55 + [False] * 42 + [True] * 3
    (pair,) = compare_pairs([(make_label_entry("one", one), make_label_entry("other", other))])
    needed = compute_mcnemar_sample_size(0.05, 0.03)
    assert needed is not None
    assert pair.more_rows == needed - 100
    assert f"About {round_up_rows(pair.more_rows):,} more rows" in describe_pair(pair)
    assert [round_up_rows(rows) for rows in (7, 99, 101, 1234, 60_001)] == [
        7,
        99,
        110,
        1300,
        61_000,
    ]


def test_with_more_pairs_it_takes_more_rows() -> None:
    one, other = [True] * 60 + [False] * 40, [True] * 55 + [False] * 42 + [True] * 3
    pair = (make_label_entry("one", one), make_label_entry("other", other))
    alone, among = compare_pairs([pair])[0], compare_pairs([pair, pair, pair])[0]
    assert alone.more_rows is not None
    assert among.more_rows is not None
    assert among.more_rows > alone.more_rows


@pytest.mark.slow
def test_families_without_any_difference_seldom_show_one() -> None:
    """Three equal systems on 150 rows, 200 times: some pair is called different in at most 5 % of
    them, and chance.
    """
    chance = np.random.default_rng(1)
    shown = covered = 0
    for _ in range(200):
        x, y, z = (make_label_entry(name, (chance.random(150) < 0.75).tolist()) for name in "xyz")
        pairs = compare_pairs([(x, y), (x, z), (y, z)])
        shown += any(pair.verdict != "no clear difference" for pair in pairs)
        gaps = [pair.headline[1] for pair in pairs]
        covered += sum(
            gap.low is not None and gap.high is not None and gap.low <= 0 <= gap.high
            for gap in gaps
        )
    assert shown / 200 <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5
    assert 0.92 <= covered / 600 <= 0.98
