from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medtask.errors import InputError
from medtask.evaluation.calibration.transforms import (
    FORMAT,
    Calibration,
    CalibrationScores,
    parse_calibration,
)
from medtask.evaluation.report.calibration_report import describe_result
from medtask.evaluation.statistics.intervals import Metric

CALIBRATION_SCORES = CalibrationScores(
    Metric(0.5, 90, 0.4, 0.6), Metric(0.2, 90), 0.05, Metric(0.8, 90, 0.7, 0.9)
)
TEMPERATURE_CALIBRATION = Calibration(
    "temperature",
    ("a", "b"),
    True,
    90,
    temperature=1.5,
    before=CALIBRATION_SCORES,
    after=CALIBRATION_SCORES,
)
BIAS_CALIBRATION = Calibration("bias", ("a", "b"), False, 90, temperature=0.7, bias=(0.5, -1.0))
ISOTONIC_CALIBRATION = Calibration(
    "isotonic", ("a", "b"), True, 2000, knots=(((0.0, 0.5, 1.0), (0.1, 0.1, 0.8)), ((0.2,), (0.4,)))
)
NO_CALIBRATION = Calibration("none", ("a", "b"), True, 90, reason="no method lowers the log loss")


@pytest.mark.parametrize(
    "calibration",
    [
        TEMPERATURE_CALIBRATION,
        BIAS_CALIBRATION,
        ISOTONIC_CALIBRATION,
        NO_CALIBRATION,
        replace(BIAS_CALIBRATION, method="batch", exclusive=True),
    ],
)
def test_what_was_written_is_read_again(calibration: Calibration) -> None:
    assert parse_calibration(json.loads(json.dumps(calibration.to_json()))) == calibration


def make_damaged_json(**more: object) -> dict[str, object]:
    return {**BIAS_CALIBRATION.to_json(), **more}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {"format": "other"},
        {"format": FORMAT},
        make_damaged_json(method="pickle"),
        make_damaged_json(labels=["a", "a"]),
        make_damaged_json(labels=[]),
        make_damaged_json(labels=["a", "b", "c"]),
        make_damaged_json(labels="ab"),
        make_damaged_json(bias=[0.1]),
        make_damaged_json(bias=[]),
        make_damaged_json(bias=[float("nan"), 0.0]),
        make_damaged_json(bias=[1e9, 0.0]),
        make_damaged_json(bias=["rm -rf", 0.0]),
        make_damaged_json(temperature=0.0),
        make_damaged_json(temperature=-1),
        make_damaged_json(temperature=float("nan")),
        make_damaged_json(temperature=float("inf")),
        make_damaged_json(rows=-5),
        make_damaged_json(rows="many"),
        make_damaged_json(exclusive="perhaps"),
        make_damaged_json(knots=[[[0.0, 1.0], [0.0, 1.0]]]),
        make_damaged_json(before={"log_loss": 3}),
        {**ISOTONIC_CALIBRATION.to_json(), "knots": [[[0.5, 0.5], [0.1, 0.2]], [[0.0], [0.1]]]},
        {**ISOTONIC_CALIBRATION.to_json(), "knots": [[[0.1, 0.5], [0.3, 0.2]], [[0.0], [0.1]]]},
        {**ISOTONIC_CALIBRATION.to_json(), "knots": [[[], []], [[0.0], [0.1]]]},
        {**ISOTONIC_CALIBRATION.to_json(), "knots": [[[0.0, 2.0], [0.1, 0.2]], [[0.0], [0.1]]]},
    ],
)
def test_a_damaged_file_is_refused_with_a_remedy(document: object) -> None:
    with pytest.raises(InputError) as caught:
        parse_calibration(document)
    assert "cannot be read" in str(caught.value)
    assert "rm -rf" not in str(caught.value)
    assert caught.value.fix


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(InputError, match="2 labels"):
        TEMPERATURE_CALIBRATION.apply(np.ones((3, 4)) / 4)


def test_calibrated_probabilities_match_a_worked_example() -> None:
    shares = np.array([[0.8, 0.2], [1.0, 0.0], [0.5, np.nan], [np.nan, np.nan]])
    warm = TEMPERATURE_CALIBRATION.apply(shares)
    odds = (0.8 / 0.2) ** (1 / 1.5)
    assert warm[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert 0.999 < warm[1, 0] < 1
    assert warm[2, 0] == 1
    assert np.isnan(warm[3]).all()
    each = BIAS_CALIBRATION.apply(np.array([[0.8, np.nan]]))
    assert each[0, 0] == pytest.approx(1 / (1 + np.exp(-(np.log(4) / 0.7 + 0.5))))
    bent = ISOTONIC_CALIBRATION.apply(np.array([[0.75, 0.25]]))
    assert bent[0] == pytest.approx([0.45 / 0.85, 0.4 / 0.85])


def test_a_row_whose_labels_all_fall_to_nothing_keeps_its_shares() -> None:
    flat = replace(ISOTONIC_CALIBRATION, knots=(((0.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (0.0, 0.0))))
    assert flat.apply(np.array([[0.7, 0.3]])) == pytest.approx(np.array([[0.7, 0.3]]))


def test_none_changes_nothing_and_reports_why() -> None:
    shares = np.array([[0.9, 0.05]])
    assert NO_CALIBRATION.apply(shares).tolist() == shares.tolist()
    assert describe_result(NO_CALIBRATION) == "uncalibrated: no method lowers the log loss"
    assert TEMPERATURE_CALIBRATION.calibrated
    assert "temperature 1.50" in describe_result(TEMPERATURE_CALIBRATION)
