"""Several labels: all that reach their thresholds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.prediction.kinds.base import select_outcomes
from medtask.records import (
    Status,
)
from medtask.tasks.task import (
    MultiLabel,
    Review,
)
from support.scored_answers import (
    decide_labels,
)


@pytest.mark.parametrize(
    ("spec", "shares", "value"),
    [
        (MultiLabel(), (0.6, 0.4, 0.9), ("curative", "staging")),
        (MultiLabel(), (0.1, 0.2, 0.3), ()),
        (MultiLabel(at_least_one=True), (0.1, 0.3, 0.2), ("palliative",)),
        (
            MultiLabel(at_least_one=True, thresholds={"palliative": 0.9}),
            (0.1, 0.3, 0.2),
            ("staging",),
        ),
        (MultiLabel(at_most=1), (0.6, 0.4, 0.9), ("staging",)),
        (MultiLabel(at_most=2), (0.9, 0.9, 0.9), ("curative", "palliative")),
        (
            MultiLabel(thresholds={"curative": 0.6, "palliative": 0.4}),
            (0.59, 0.41, 0.5),
            ("palliative", "staging"),
        ),
    ],
)
def test_labels_apply_from_their_thresholds_on(
    spec: MultiLabel, shares: tuple[float, ...], value: tuple[str, ...]
) -> None:
    answer = decide_labels(spec, *shares)
    assert answer.value == value
    assert answer.probabilities == pytest.approx(
        dict(zip(("curative", "palliative", "staging"), shares, strict=True))
    )


def test_the_confidence_of_labels_is_the_probability_that_all_decisions_are_right() -> None:
    assert decide_labels(MultiLabel(), 0.6, 0.4, 0.9).confidence == pytest.approx(0.6 * 0.6 * 0.9)
    answer = decide_labels(MultiLabel(), 0.6, 0.4, 0.9, review=Review(confidence_below=0.5))
    assert (answer.status, answer.reason) == (Status.REVIEW, "confidence 0.32 is below 0.5")


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6), st.booleans(), st.none() | st.integers(1, 3)
)
def test_at_most_and_at_least_one_are_respected(
    shares: list[float], at_least_one: bool, at_most: int | None
) -> None:
    named = {f"label {place}": share for place, share in enumerate(shares)}
    chosen = select_outcomes(named, {}, at_least_one, at_most)
    assert list(chosen) == [name for name in named if name in chosen]
    assert len(chosen) <= (at_most or len(named))
    assert chosen or not at_least_one
