"""What a gatherer knows after all rows: counts, the rows to look at, gold; and how much memory that
takes.
"""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import pytest

from medtask.evaluation.report.run_summary import RunSummary, SummaryAccumulator
from medtask.evaluation.report.sections import draw_confidence_histograms
from medtask.evaluation.report.terminal_summary import format_summary_lines
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import Baseline, BaselineComparison
from medtask.records import Answer, AnsweredRow, Status
from support.imaging_run import ABSTAIN, HOSTILE_TEXTS, LABELS, make_imaging_run


def make_answer(
    value: str | None, confidence: float | None = None, status: Status = Status.OK, **more: object
) -> Answer:
    shares = (
        {value: confidence, "other": 1 - confidence} if value and confidence is not None else None
    )
    return Answer("id", status, value, confidence, shares, **more)  # type: ignore[arg-type]


def make_gatherer(
    *rows: tuple[Answer, str | None], has_gold: bool = True, abstain: str | None = None
) -> RunSummary:
    gatherer = SummaryAccumulator("label", ["a", "b"], abstain, has_gold)
    for number, (given, gold) in enumerate(rows, start=1):
        gatherer.add(AnsweredRow(number, given, f"text {number}", gold))
    return gatherer.finish()


def test_rows_are_counted_by_status_and_answer() -> None:
    summary = make_imaging_run().finish()
    assert sum(summary.statuses.values()) == summary.rows == 300 + len(HOSTILE_TEXTS)
    assert summary.answered == summary.statuses[Status.OK] + summary.statuses[Status.REVIEW]
    rows = list(summary.answer_statistics.to_json().values())
    assert rows == sorted(rows, reverse=True)  # type: ignore[type-var]
    assert sum(rows) == summary.answered  # type: ignore[arg-type]
    assert sum(int(bins.sum()) for bins in summary.confidence_bins.values()) == summary.answered


def test_confidence_is_binned_by_what_gold_says() -> None:
    summary = make_gatherer(
        (make_answer("a", 1.0), "a"),
        (make_answer("a", 0.96), "b"),
        (make_answer("b", 0.0), None),
        (make_answer("b", 0.05), "no label"),
    )
    assert np.flatnonzero(summary.confidence_bins["right"]).tolist() == [19]
    assert np.flatnonzero(summary.confidence_bins["wrong"]).tolist() == [19]
    assert np.flatnonzero(summary.confidence_bins["unknown"]).tolist() == [0, 1]


def test_an_unknown_confidence_is_not_drawn_as_zero() -> None:
    unknown = make_gatherer((make_answer("a"), "a"), (make_answer("b"), None))
    assert draw_confidence_histograms(unknown)["confidence"] is None
    some = make_gatherer((make_answer("a", 0.9), "a"), (make_answer("b"), None))
    drawn = draw_confidence_histograms(some)
    assert drawn["confidence"] is not None
    assert [layer.counts.sum() for layer in drawn["layers"]] == [1]
    assert drawn["missing"] == 1


def test_costs_and_off_set_mass_add_up() -> None:
    summary = make_gatherer(
        (
            make_answer(
                "a", 0.9, off_set=0.2, slack=1e-5, ms=2.0, tokens_read=10, tokens_reused=90
            ),
            None,
        ),
        (
            make_answer(
                "a", 0.9, off_set=0.4, slack=1e-4, ms=3.0, tokens_read=20, tokens_reused=90
            ),
            None,
        ),
        (make_answer("a", 0.9), None),
    )
    assert (summary.tokens_read, summary.tokens_reused, summary.total_ms) == (30, 180, 5.0)
    assert summary.off_set_mean == pytest.approx(0.3)
    assert int(summary.off_set_bins.sum()) == 2
    assert summary.slack_max == 1e-4


def test_reasons_that_differ_in_figures_only_are_one_cause() -> None:
    reasons = ["confidence 0.41 is below 0.5", "confidence 0.3 is below 0.5", "the input is empty"]
    summary = make_gatherer(
        *((make_answer(None, status=Status.FAILED, reason=reason), None) for reason in reasons)
    )
    assert [(cause.count, cause.example, cause.first_rows) for cause in summary.causes] == [
        (2, "confidence 0.41 is below 0.5", (1, 2)),
        (1, "the input is empty", (3,)),
    ]


def test_any_number_of_different_reasons_stays_bounded() -> None:
    words = [f"reason {chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(500)]
    summary = make_gatherer(
        *((make_answer(None, status=Status.FAILED, reason=word), None) for word in words)
    )
    assert len(summary.causes) == 101
    assert (summary.causes[0].example, summary.causes[0].count) == ("other reasons", 400)


def test_the_least_sure_rows_that_need_a_person_come_first() -> None:
    summary = make_gatherer(
        (make_answer("a", 0.9), None),
        (make_answer("a", 0.4, Status.REVIEW), None),
        (make_answer(None, status=Status.FAILED, reason="broken"), None),
        (make_answer("a", 0.3, Status.REVIEW), None),
        (make_answer(None, status=Status.EMPTY_INPUT), None),
        (Answer("id", Status.ABSTAINED, probabilities={"a": 0.2, "none": 0.35}), None),
    )
    assert [case.row for case in summary.doubtful] == [4, 6, 2, 3]
    assert summary.doubtful_rows == 4
    assert summary.doubtful[0].text == "text 4"


def test_the_most_confident_errors_come_first() -> None:
    summary = make_gatherer(
        (make_answer("a", 0.6), "b"),
        (make_answer("a", 0.9), "b"),
        (make_answer("b", 0.99), "b"),
        (make_answer(None, status=Status.FAILED), "b"),
    )
    assert summary.gold is not None
    assert [case.row for case in summary.gold.errors] == [2, 1]


def test_gold_that_is_missing_or_no_label_is_counted_and_not_used() -> None:
    summary = make_gatherer(
        (make_answer("a", 0.9), "a"),
        (make_answer("a", 0.9), "A"),
        (make_answer("a", 0.9), ""),
        (make_answer("a", 0.9), None),
    )
    gold = summary.gold
    assert gold is not None
    assert gold.evaluation is not None
    assert (gold.unknown, gold.missing, dict(gold.unknown_values), gold.rows) == (1, 2, {"A": 1}, 1)
    assert gold.sample.gold == ("a",)


def test_gold_may_abstain_too() -> None:
    rows = [
        (Answer("id", Status.ABSTAINED, probabilities={"a": 0.2, "none": 0.8}), gold)
        for gold in ("none", "a")
    ]
    gold = make_gatherer(*rows, abstain="none").gold
    assert gold is not None
    assert gold.evaluation is not None
    accuracy = gold.evaluation.metrics["accuracy"]
    assert accuracy is not None
    assert accuracy.value == 0.5
    assert gold.evaluation.metrics["accuracy_answered"] is None
    assert sorted(zip(gold.sample.gold, gold.sample.answers, strict=True)) == [
        ("a", "none"),
        ("none", "none"),
    ]


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = [
        (
            n,
            make_answer("ab"[n % 2], n / 3000, Status.REVIEW, reason=f"confidence {n}"),
            f"text {n}",
            "ab"[n % 3 % 2],
        )
        for n in range(3000)
    ]
    found = []
    for seed in (0, 1):
        random.Random(seed).shuffle(rows)
        gatherer = SummaryAccumulator("label", ["a", "b"], None, True)
        for row in rows:
            gatherer.add(AnsweredRow(*row))
        found.append(gatherer.finish())
    first, second = found
    assert first.gold is not None
    assert second.gold is not None
    assert len(first.gold.sample.texts) == 2000
    assert first.gold.sample == second.gold.sample
    assert (first.doubtful, first.gold.errors, first.causes) == (
        second.doubtful,
        second.gold.errors,
        second.causes,
    )
    assert first.gold.mean_confidence == pytest.approx(second.gold.mean_confidence)
    assert (first.statuses, first.answer_statistics) == (second.statuses, second.answer_statistics)


def test_memory_grows_by_a_few_numbers_for_a_row_with_gold_and_by_no_text() -> None:
    gatherer = SummaryAccumulator("label", LABELS, ABSTAIN, True)
    chance = random.Random(0)
    sizes = []
    tracemalloc.start()
    for row in range(1, 12_001):
        confidence = chance.random()
        given = Answer(
            str(row),
            Status.REVIEW,
            LABELS[row % 12],
            confidence,
            {"x": confidence},
            reason=f"confidence {confidence:.2f}",
        )
        gatherer.add(AnsweredRow(row, given, f"text {row} " * 20, LABELS[row % 11]))
        if row in (4000, 12_000):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] < 1.1 * sizes[0] + 64 * 8000


def test_a_run_without_gold_has_no_gold() -> None:
    summary = make_imaging_run(100, has_gold=False).finish()
    assert summary.gold is None
    assert all(case.gold is None for case in summary.doubtful)
    assert len(format_summary_lines(summary)) == 1


def test_no_rows_and_only_failures_are_no_errors() -> None:
    assert format_summary_lines(make_gatherer()) == [
        "ok 0   review 0   failed 0",
        "no row has usable gold, so there are no metrics",
    ]
    failed = make_gatherer(
        (make_answer(None, status=Status.FAILED), "a"),
        (make_answer(None, status=Status.FAILED), "a"),
    )
    assert failed.gold is not None
    assert failed.gold.mean_confidence is None
    assert format_summary_lines(failed) == [
        "ok 0   review 0   failed 2",
        "accuracy 0.000 (0.000-0.658, n = 2 with gold)",
    ]


def test_one_class_in_gold_is_no_error() -> None:
    summary = make_gatherer(*((make_answer("a", 0.9), "a") for _ in range(5)))
    assert summary.gold is not None
    assert summary.gold.evaluation is not None
    assert summary.gold.evaluation.metrics["macro_f1"] == Metric(1.0, 5)


def test_the_json_has_no_text_of_records() -> None:
    summary = make_imaging_run(300).finish()
    written = json.dumps(summary.to_json())
    assert "years" not in written
    assert "script" not in written
    assert "CT brain" not in written
    assert json.loads(written)["gold"]["unknown"] == 6


def test_the_terminal_shows_accuracy_beside_the_baselines() -> None:
    rows = (
        [(make_answer("a", 0.9), "a")] * 18
        + [(make_answer("a", 0.9), "b")] * 2
        + [(make_answer("a", 0.9), "c")]
    )
    baselines = [
        Baseline(
            "TF-IDF",
            "learned",
            {"accuracy": Metric(0.861, 20, 0.7, 0.9)},
            BaselineComparison("worse", 0.01, 0.9),
            role="learned",
        ),
        Baseline("MiniLM", "near", note="not installed"),
        Baseline(
            "majority",
            "always 'a'",
            {"accuracy": Metric(0.9, 20, 0.7, 0.9)},
            BaselineComparison("no clear difference", 1.0, 0.9),
            role="floor",
        ),
    ]
    assert format_summary_lines(make_gatherer(*rows), baselines) == [
        "ok 21   review 0   failed 0",
        "gold of 1 row is not a label of the task: not counted",
        "accuracy 0.900 (0.699-0.972, n = 20 with gold)   TF-IDF 0.861   majority 0.900",
        (
            "Majority (always 'a') shows no clear difference from the model here: 0.900 against "
            "0.900 on 20 rows, p = 1.000."
        ),
        "Use a stronger model, or one trained on these labels, before relying on the answers.",
    ]


def test_baselines_on_some_gold_rows_are_marked() -> None:
    baseline = Baseline("TF-IDF", "learned", {"accuracy": Metric(0.8, 10, 0.5, 0.9)})
    assert (
        "(baselines on 10 random rows of them)"
        in format_summary_lines(make_gatherer(*[(make_answer("a", 0.9), "a")] * 20), [baseline])[1]
    )
