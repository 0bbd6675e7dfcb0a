"""Plots of a comparison are valid SVG for all numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from medtask.evaluation.presentation.comparison_plots import draw_differences, draw_scatter
from medtask.evaluation.statistics.intervals import Metric


def read_positions(svg: str, name: str) -> list[float]:
    return [float(found) for found in re.findall(rf'{name}="([\d.-]+)%', svg)]


@pytest.mark.parametrize(
    "points",
    [
        [(1, "only", 1.0, Metric(1.0, 5))],
        [
            (1, "zero", 0.001, Metric(0.0, 5, 0.0, 0.4)),
            (2, "fast", 120_000.0, Metric(0.5, 5, 0.2, 0.8)),
        ],
        [(1, "<b>", 10.0, Metric(0.3, 5, 0.3, 0.3)), (2, "same", 10.0, Metric(0.3, 5))],
    ],
)
def test_a_scatter_stays_in_its_field(points: list[tuple[int, str, float, Metric]]) -> None:
    drawn = draw_scatter(points, "a <title>", "Accuracy")
    root = ElementTree.fromstring(drawn)
    assert len([node for node in root if node.tag == "circle"]) == len(points)
    assert all(8 <= index <= 96 for index in read_positions(drawn, "cx"))
    heights = [float(node.attrib["cy"]) for node in root if node.tag == "circle"]
    assert all(26 <= height <= 246 for height in heights)
    assert "<b>" not in drawn


def test_the_faster_is_to_the_right_and_the_better_above() -> None:
    drawn = draw_scatter(
        [
            (1, "slow", 2.0, Metric(0.9, 50, 0.8, 0.95)),
            (2, "fast", 300.0, Metric(0.6, 50, 0.5, 0.7)),
        ],
        "t",
        "Accuracy",
    )
    slow, fast = (node for node in ElementTree.fromstring(drawn) if node.tag == "circle")
    assert float(slow.attrib["cx"].rstrip("%")) < float(fast.attrib["cx"].rstrip("%"))
    assert float(slow.attrib["cy"]) < float(fast.attrib["cy"])


def test_differences_are_on_their_side_of_zero_and_are_blue_where_they_leave_it_out() -> None:
    rows = [
        ("x − y", Metric(0.2, 9, 0.1, 0.3)),
        ("x − z", Metric(-0.1, 9, -0.3, 0.1)),
        ("same", Metric(0.0, 9)),
    ]
    drawn = draw_differences(rows, "differences")
    circles = [node for node in ElementTree.fromstring(drawn) if node.tag == "circle"]
    assert [node.attrib["class"] for node in circles] == ["blue", "ink", "ink"]
    ahead, behind, same = (float(node.attrib["cx"].rstrip("%")) for node in circles)
    assert behind < same == 50 < ahead


@pytest.mark.parametrize(
    "gap",
    [
        Metric(0.0, 1),
        Metric(1.0, 1),
        Metric(-1.0, 4, -1.0, -1.0),
        Metric(0.0004, 9, -0.0001, 0.0009),
    ],
)
def test_differences_of_any_size_fit(gap: Metric) -> None:
    drawn = draw_differences([("x − y", gap)], "differences")
    assert all(
        0 <= index <= 100
        for index in (
            *read_positions(drawn, "cx"),
            *read_positions(drawn, "x1"),
            *read_positions(drawn, "x2"),
        )
    )
