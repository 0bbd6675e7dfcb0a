"""Elements of plots are valid SVG, and texts in them are escaped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from medtask.evaluation.presentation.svg import (
    draw_dot,
    draw_interval_row,
    draw_line,
    draw_plot,
    draw_rect,
    draw_text,
    draw_ticks,
)
from medtask.evaluation.statistics.intervals import Metric

HOSTILE = '<script>alert(1)</script> & "x"'


@pytest.mark.parametrize(
    "part",
    [
        draw_text(0, 1, HOSTILE),
        draw_dot("blue", 50, 1, HOSTILE),
        draw_rect("blue", (1, 2), (3, 4), HOSTILE),
        draw_ticks(10, {0.0: HOSTILE, 1.0: "1"}),
        *draw_interval_row(0, (HOSTILE, HOSTILE), Metric(0.5, 9, 0.4, 0.6), float, "blue"),
    ],
)
def test_a_text_is_escaped_in_every_element(part: Markup) -> None:
    plot = draw_plot(20, HOSTILE, HOSTILE, [part])
    root = ElementTree.fromstring(plot)
    assert root.find(".//script") is None
    assert root.findtext("title") == HOSTILE


def test_positions_are_percentages_of_the_width_and_pixels_of_the_height() -> None:
    line = ElementTree.fromstring(draw_line("grid", 12.5, 3, 100, 4))
    assert (line.attrib["x1"], line.attrib["y1"]) == ("12.50%", "3.0")
    assert (line.attrib["x2"], line.attrib["y2"]) == ("100.00%", "4.0")


def test_an_interval_row_without_an_interval_has_no_whisker() -> None:
    names = ("name", "0.500")
    plain = draw_interval_row(1, names, Metric(0.5, 9), lambda value: 100 * value, "ink")
    assert not [part for part in plain if "whisker" in part]
    whole = draw_interval_row(1, names, Metric(0.5, 9, 0.4, 0.6), lambda value: 100 * value, "ink")
    (whisker,) = [ElementTree.fromstring(part) for part in whole if "whisker" in part]
    assert (whisker.attrib["x1"], whisker.attrib["x2"]) == ("40.00%", "60.00%")


def test_the_ends_of_an_axis_stay_inside_the_plot() -> None:
    ticks = ElementTree.fromstring(f"<g>{draw_ticks(5)}</g>")
    assert [tick.attrib["text-anchor"] for tick in ticks] == ["start", *["middle"] * 3, "end"]
