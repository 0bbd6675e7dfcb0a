from __future__ import annotations

from xml.etree import ElementTree

from medtask.evaluation.presentation.curves import draw_reliability, draw_risk
from medtask.evaluation.statistics.intervals import Metric

HOSTILE = '<script>alert("x")</script>'


def find_elements(drawn: str, tag: str) -> list[dict[str, str]]:
    return [dict(node.attrib) for node in ElementTree.fromstring(drawn).iter() if node.tag == tag]


def test_dots_are_where_confidence_and_share_meet() -> None:
    drawn = draw_reliability(
        [(0.25, Metric(0.5, 40, 0.35, 0.65)), (0.95, Metric(1.0, 60, 0.94, 1.0))], "Reliability"
    )
    dots = find_elements(drawn, "circle")
    assert [(dot["cx"], dot["cy"]) for dot in dots] == [("25.00%", "122.0"), ("95.00%", "22.0")]
    assert "confidence 0.25: right 0.500 (0.350-0.650), 40 rows" in drawn


def test_names_cannot_break_out() -> None:
    for drawn in (draw_reliability([], HOSTILE), draw_risk([], [], HOSTILE)):
        assert "<script" not in drawn
        ElementTree.fromstring(drawn)


def test_the_promise_and_the_threshold_are_marked() -> None:
    errors = [Metric(0.0, 20, 0.0, 0.1), Metric(0.04, 50, 0.01, 0.1), Metric(0.1, 100, 0.05, 0.2)]
    drawn = draw_risk([0.2, 0.5, 1.0], errors, "Risk", max_error=0.05, accepted=0.5)
    assert "promised: at most 5 %" in drawn
    tones = [line["class"] for line in find_elements(drawn, "line")]
    assert tones.count("whisker blue") == 2
    assert {"whisker orange", "whisker ink"} <= set(tones)
    assert all(-1 <= float(line["y1"]) <= 223 for line in find_elements(drawn, "line"))


def test_one_point_is_a_dot() -> None:
    assert len(find_elements(draw_risk([1.0], [Metric(0.2, 5)], "Risk"), "circle")) == 1
