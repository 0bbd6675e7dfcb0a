"""Scores of a prompt from one number per label, for all numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.label_head import LabelHead, compute_yes_no_logprobs
from medtask.records import Branch, Description, Prompt

LABELS = ("a", "b", "c", "d")
numbers = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4).map(np.array)


@given(
    numbers,
    st.lists(st.sampled_from([*LABELS, "unclear"]), unique=True, min_size=1).filter(
        lambda names: names != ["unclear"]
    ),
)
def test_the_labels_that_are_asked_about_share_everything_and_the_rest_is_counted(
    row: np.ndarray, names: list[str]
) -> None:
    branch = Branch("", tuple(names), descriptions=tuple(map(Description, names)))
    (scores,) = LabelHead("m", "label", LABELS, "unclear").score_branches(
        Prompt("r", (), (branch,), ""), row
    )
    shares = dict(zip(names, map(math.exp, scores.logprobs), strict=True))
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert shares.get("unclear", 0) == 0
    weights = np.exp(row - row.max())
    outside = (
        sum(weight for label, weight in zip(LABELS, weights, strict=True) if label not in names)
        / weights.sum()
    )
    assert scores.off_set == pytest.approx(outside, abs=1e-9)


@given(st.floats(-1e6, 1e6))
def test_yes_and_no_are_all_there_is_however_sure(log_odds: float) -> None:
    yes, no = compute_yes_no_logprobs(log_odds)
    assert math.exp(yes) + math.exp(no) == pytest.approx(1)
    assert yes - no == pytest.approx(log_odds, abs=1e-6)


def test_labels_that_had_no_example_can_be_asked_about_and_get_nothing() -> None:
    which = Branch("", ("a", "never"), descriptions=(Description("a"), Description("never")))
    (scores,) = LabelHead("m", "label", LABELS, untaught=("never",)).score_branches(
        Prompt("r", (), (which,), ""), np.zeros(4)
    )
    assert scores.logprobs == (0.0, -math.inf)
    does = tuple(
        Branch("", ("yes", "no"), descriptions=(Description(name),)) for name in ("never", "d")
    )
    never, other = LabelHead("m", "labels", LABELS, untaught=("never",)).score_branches(
        Prompt("r", (), does, ""), np.array([0, 0, 0, 5.0])
    )
    assert never.logprobs == (-math.inf, 0.0)
    assert other.logprobs == compute_yes_no_logprobs(5.0)


def test_numbers_that_are_none_stay_visible() -> None:
    branch = Branch("", LABELS, descriptions=tuple(map(Description, LABELS)))
    (scores,) = LabelHead("m", "label", LABELS).score_branches(
        Prompt("r", (), (branch,), ""), np.array([math.nan, 0, 0, 0])
    )
    assert all(map(math.isnan, scores.logprobs))
