"""What reports say about reliability, calibration, acceptance and prediction sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtask.evaluation.calibration.acceptance import Acceptance, ClassThreshold
from medtask.evaluation.calibration.prediction_sets import PredictionSets
from medtask.evaluation.calibration.reliability import compute_reliability
from medtask.evaluation.calibration.transforms import Calibration, CalibrationScores
from medtask.evaluation.presentation.blocks import Paragraph, ReportPlot, ReportTable
from medtask.evaluation.report.calibration_report import (
    build_reliability_blocks,
    build_result_blocks,
    describe_result,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.refusal import Refusal

CONFIDENCE = np.linspace(0.5, 1, 200)
RELIABILITY = compute_reliability(CONFIDENCE, np.arange(200) % 2 == 0)
BEFORE = CalibrationScores(Metric(0.7, 90), Metric(0.3, 90), 0.12, Metric(0.75, 90))
AFTER = CalibrationScores(Metric(0.5, 90, 0.4, 0.6), Metric(0.2, 90), 0.05, Metric(0.8, 90))
CALIBRATION = Calibration(
    "temperature", ("a", "b"), True, 90, temperature=1.5, before=BEFORE, after=AFTER
)
ACCEPTANCE = Acceptance(
    threshold=0.91234567,
    class_thresholds={},
    coverage=Metric(0.6, 200, 0.53, 0.67),
    accepted=120,
    errors=3,
    rows=200,
    rows_without_confidence=0,
    grouped=False,
    max_error=0.05,
    level=0.95,
    risk_curve=RELIABILITY.risk_curve,
)
SETS = PredictionSets("lac", 0.2, 0.1, 100, False, (0, 80, 20), 100)


def get_bodies(blocks: list) -> list[str]:
    return [block.body for block in blocks if isinstance(block, Paragraph)]


def get_table(blocks: list, about: str) -> ReportTable:
    return next(
        block for block in blocks if isinstance(block, ReportTable) and block.about == about
    )


def test_overconfidence_is_stated_with_what_chance_would_give() -> None:
    text = describe_result(RELIABILITY)
    assert "the model is overconfident (mean confidence 0.750, accuracy 0.500)" in text
    assert f"where chance gives {RELIABILITY.ece_by_chance:.3f}" in text
    under = replace(RELIABILITY, mean_confidence=0.3)
    assert "the model is underconfident (mean confidence 0.300" in describe_result(under)
    parts = replace(RELIABILITY, mean_confidence=0.501)
    text = describe_result(parts)
    assert (
        "they differ in parts of the range, but not clearly on the whole (mean confidence" in text
    )
    assert "confident" not in text.replace("confidence", "")


def test_an_error_that_chance_explains_is_no_sign_of_miscalibration() -> None:
    assert describe_result(replace(RELIABILITY, p=0.4)).endswith("no sign of miscalibration")


def test_reliability_has_a_diagram_a_table_and_optionally_the_error_curve() -> None:
    scored = replace(
        RELIABILITY, distribution_scores={"brier": Metric(0.3, 200)}, rows_without_confidence=4
    )
    blocks = build_result_blocks(scored)
    assert len([block for block in blocks if isinstance(block, ReportPlot)]) == 2
    assert get_bodies(blocks)[0].endswith("4 rows with gold have no confidence and are left out.")
    assert [line[0] for line in get_table(blocks, "Metrics of the confidence").lines] == [
        "Expected calibration error",
        "Brier score of the confidence",
        "Log loss of the confidence",
        "Brier score, all labels",
        "Area under the error curve",
    ]
    without = build_reliability_blocks(scored, include_risk=False)
    assert len([block for block in without if isinstance(block, ReportPlot)]) == 1


@pytest.mark.parametrize(
    ("method", "phrase"),
    [
        ("temperature", "calibrated by temperature 1.50, fitted on 90 rows"),
        ("bias", "calibrated by temperature 1.50 and a bias for each label, fitted on 90 rows"),
        ("isotonic", "calibrated by isotonic regression, fitted on 90 rows"),
    ],
)
def test_a_calibration_names_its_method_and_the_scores_before_and_after(
    method: str, phrase: str
) -> None:
    text = describe_result(replace(CALIBRATION, method=method))  # type: ignore[arg-type]
    assert text.startswith(phrase)
    assert text.endswith(
        "on held-out rows log loss 0.700 -> 0.500 (0.400-0.600), calibration error 0.120 -> 0.050, "
        "accuracy 0.750 -> 0.800"
    )


def test_a_batch_calibration_states_its_assumption() -> None:
    batch = Calibration("batch", ("a", "b"), True, 90)
    assert "assumes that all labels are about equally frequent" in describe_result(batch)


def test_an_unused_calibration_gives_the_reason() -> None:
    unused = Calibration("none", ("a", "b"), True, 90, reason="no method lowers the log loss")
    assert describe_result(unused) == "uncalibrated: no method lowers the log loss"
    assert get_bodies(build_result_blocks(unused)) == [
        "Uncalibrated: no method lowers the log loss."
    ]


def test_acceptance_states_threshold_coverage_bound_and_what_gold_must_be() -> None:
    assert describe_result(ACCEPTANCE) == (
        "accept answers with a confidence of 0.9123 or more: 60.0 % of the rows (53.0-67.0 %, "
        "n = 200), and at most 5 % of the accepted are wrong, with 95 % confidence (of the gold "
        "rows 120 are accepted, 3 of them wrong)"
    )
    blocks = build_result_blocks(ACCEPTANCE)
    caution = blocks[-1]
    assert isinstance(caution, Paragraph)
    assert caution.tone == "caution"
    assert "they must be a random sample" in caution.body
    assert "about 5 at most give a threshold with more errors" in caution.body


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [(0.99996, "0.99996"), (0.99994, "0.9999"), (1 - 1e-9, "0.999999999"), (1.0, "1"), (0.0, "0")],
)
def test_a_threshold_below_1_is_not_shown_as_1(threshold: float, shown: str) -> None:
    text = describe_result(replace(ACCEPTANCE, threshold=threshold))
    assert f"with a confidence of {shown} or more" in text


def test_acceptance_by_class_lists_the_classes_the_most_accepted_first() -> None:
    by_class = replace(
        ACCEPTANCE,
        threshold=None,
        grouped=True,
        class_thresholds={
            0: ClassThreshold("rare", None, 12, 0, 0),
            1: ClassThreshold("common", 0.8, 188, 120, 3),
        },
    )
    text = describe_result(by_class)
    assert text.startswith("accept answers that reach the threshold of their class: 60.0 %")
    assert "n = 200 groups, one row of each" in text
    assert "at most 5 % of the accepted of every class are wrong" in text
    table = get_table(build_result_blocks(by_class), "Thresholds by class")
    assert list(table.lines) == [
        ("common", "0.8", "120", "3", "188"),
        ("rare", "–", "0", "0", "12"),
    ]


def test_prediction_sets_state_their_size_and_bound() -> None:
    text = describe_result(SETS)
    assert text.startswith(
        "sets of 1.20 labels on average (n = 100) miss at most 10 % of the gold labels on average"
    )
    assert "0.800 (" in text and "of the rows have one label" in text
    assert "true labels" in describe_result(replace(SETS, method="crc"))
    sizes = get_table(build_result_blocks(SETS), "Sizes of the sets")
    assert [line[:2] for line in sizes.lines] == [("1", "80"), ("2", "20")]


def test_sets_that_are_all_empty_have_no_single_label() -> None:
    assert describe_result(replace(SETS, sizes=(100,))).endswith("no row has a label")


def test_a_refusal_is_shown_in_place_of_the_result() -> None:
    refusal = Refusal("too few rows", 20, needed=59)
    text = "refused: too few rows (about 39 more gold rows would be enough)"
    assert describe_result(refusal) == text
    assert build_result_blocks(refusal) == [
        Paragraph("Refused: too few rows (about 39 more gold rows would be enough).", "note")
    ]


def test_other_results_have_no_description() -> None:
    with pytest.raises(TypeError, match="no description of int"):
        describe_result(3)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_that_take_rows_of_groups_as_independent_say_so(grouped: bool) -> None:
    found = compute_reliability(
        CONFIDENCE, np.arange(200) % 2 == 0, groups=np.arange(200) // 4 if grouped else None
    )
    assert found is not None
    plots = [one for one in build_reliability_blocks(found) if isinstance(one, ReportPlot)]
    assert len(plots) == 2
    assert all(("taken as independent" in one.caption) is grouped for one in plots)
