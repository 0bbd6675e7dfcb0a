"""What a model prefers before it has read anything."""

from __future__ import annotations

import pytest

from medtask.evaluation.labels.content_free_bias import ContentFreeBias, find_bias
from medtask.evaluation.statistics.intervals import Metric


def make_bias(
    shares: dict[str, float],
    *,
    exclusive: bool = True,
    inputs: dict[str, dict[str, float]] | None = None,
    **more: object,
) -> ContentFreeBias:
    return ContentFreeBias(shares, exclusive, inputs or {"N/A": shares}, **more)  # type: ignore[arg-type]


def test_even_shares_lean_to_nothing() -> None:
    even = make_bias({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25})
    assert even.distance_from_uniform == pytest.approx(0)
    assert find_bias(even) == []


def test_a_label_of_twice_its_share_is_reported_beside_gold() -> None:
    one = make_bias(
        {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}, gold={"a": Metric(0.1, 50, 0.04, 0.2)}
    )
    (found,) = find_bias(one)
    assert found.labels == ("a",)
    assert "70.0 % (25.0 % would be even; gold has it in 10.0 % of 50 rows)" in found.seen
    assert one.distance_from_uniform == pytest.approx(0.45)  # half of 0.45 + 3 * 0.15


def test_a_bias_that_one_input_contradicts_is_not_reported_for_that_label() -> None:
    inputs = {"N/A": {"a": 0.9, "b": 0.05, "c": 0.05}, "": {"a": 0.3, "b": 0.35, "c": 0.35}}
    shares = {"a": 0.67, "b": 0.17, "c": 0.16}
    # The whole leans all the same.
    assert find_bias(make_bias(shares, inputs=inputs))[0].labels == ("a",)
    undisturbed = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert find_bias(make_bias(undisturbed, inputs={"": undisturbed})) == []


def test_labels_that_do_not_exclude_each_other_are_compared_with_one_half() -> None:
    several = make_bias({"a": 0.9, "b": 0.5}, exclusive=False)
    assert several.uniform_share == 0.5
    assert several.distance_from_uniform == pytest.approx(0.2)
    assert [finding.labels for finding in find_bias(several)] == [("a",)]


def test_letters_have_their_own_remedy() -> None:
    (found,) = find_bias(make_bias({"A": 0.85, "B": 0.05, "C": 0.05, "D": 0.05}, noun="letter"))
    assert "debias: permute" in found.advice


def test_a_lone_label_is_no_lean() -> None:
    assert find_bias(make_bias({"a": 1.0})) == []
