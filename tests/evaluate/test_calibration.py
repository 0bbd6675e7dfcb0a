from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medtask.errors import InputError
from medtask.evaluate.calibration import FORMAT, Calibration, Scored, read_calibration
from medtask.evaluate.intervals import Estimate

SCORED = Scored(Estimate(0.5, 90, 0.4, 0.6), Estimate(0.2, 90), 0.05, Estimate(0.8, 90, 0.7, 0.9))
WARM = Calibration(
    "temperature", ("a", "b"), True, 90, temperature=1.5, before=SCORED, after=SCORED
)
BIASED = Calibration("bias", ("a", "b"), False, 90, temperature=0.7, bias=(0.5, -1.0))
BENT = Calibration(
    "isotonic", ("a", "b"), True, 2000, knots=(((0.0, 0.5, 1.0), (0.1, 0.1, 0.8)), ((0.2,), (0.4,)))
)
NONE = Calibration("none", ("a", "b"), True, 90, reason="no method lowers the log loss")


@pytest.mark.parametrize(
    "calibration", [WARM, BIASED, BENT, NONE, replace(BIASED, method="batch", exclusive=True)]
)
def test_what_was_written_is_read_again(calibration: Calibration) -> None:
    assert read_calibration(json.loads(json.dumps(calibration.to_json()))) == calibration


def damage(**more: object) -> dict[str, object]:
    return {**BIASED.to_json(), **more}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {"format": "other"},
        {"format": FORMAT},
        damage(method="pickle"),
        damage(labels=["a", "a"]),
        damage(labels=[]),
        damage(labels=["a", "b", "c"]),
        damage(labels="ab"),
        damage(bias=[0.1]),
        damage(bias=[]),
        damage(bias=[float("nan"), 0.0]),
        damage(bias=[1e9, 0.0]),
        damage(bias=["rm -rf", 0.0]),
        damage(temperature=0.0),
        damage(temperature=-1),
        damage(temperature=float("nan")),
        damage(temperature=float("inf")),
        damage(rows=-5),
        damage(rows="many"),
        damage(exclusive="perhaps"),
        damage(knots=[[[0.0, 1.0], [0.0, 1.0]]]),
        damage(before={"log_loss": 3}),
        {**BENT.to_json(), "knots": [[[0.5, 0.5], [0.1, 0.2]], [[0.0], [0.1]]]},
        {**BENT.to_json(), "knots": [[[0.1, 0.5], [0.3, 0.2]], [[0.0], [0.1]]]},
        {**BENT.to_json(), "knots": [[[], []], [[0.0], [0.1]]]},
        {**BENT.to_json(), "knots": [[[0.0, 2.0], [0.1, 0.2]], [[0.0], [0.1]]]},
    ],
)
def test_a_damaged_file_is_refused_with_a_remedy(document: object) -> None:
    with pytest.raises(InputError) as caught:
        read_calibration(document)
    assert "cannot be read" in str(caught.value)
    assert "rm -rf" not in str(caught.value)
    assert caught.value.fix


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(InputError, match="2 labels"):
        WARM.apply(np.ones((3, 4)) / 4)


def test_by_hand() -> None:
    shares = np.array([[0.8, 0.2], [1.0, 0.0], [0.5, np.nan], [np.nan, np.nan]])
    warm = WARM.apply(shares)
    odds = (0.8 / 0.2) ** (1 / 1.5)
    assert warm[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert 0.999 < warm[1, 0] < 1
    assert warm[2, 0] == 1
    assert np.isnan(warm[3]).all()
    each = BIASED.apply(np.array([[0.8, np.nan]]))
    assert each[0, 0] == pytest.approx(1 / (1 + np.exp(-(np.log(4) / 0.7 + 0.5))))
    bent = BENT.apply(np.array([[0.75, 0.25]]))
    assert bent[0] == pytest.approx([0.45 / 0.85, 0.4 / 0.85])


def test_a_row_whose_labels_all_fall_to_nothing_keeps_its_shares() -> None:
    flat = replace(BENT, knots=(((0.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (0.0, 0.0))))
    assert flat.apply(np.array([[0.7, 0.3]])) == pytest.approx(np.array([[0.7, 0.3]]))


def test_none_changes_nothing_and_says_why() -> None:
    shares = np.array([[0.9, 0.05]])
    assert NONE.apply(shares).tolist() == shares.tolist()
    assert NONE.describe() == "uncalibrated: no method lowers the log loss"
    assert WARM.calibrated
    assert "temperature 1.50" in WARM.describe()
