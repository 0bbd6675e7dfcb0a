"""Tests of bars, histograms and matrices as parts of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtask.evaluation import presentation, report
from medtask.evaluation.presentation.plots import list_matrix_classes

STYLE_SHEET = (Path(presentation.__path__[0]) / "content.css").read_text("utf-8")


@pytest.mark.parametrize("share", [0.0, 0.049, 0.5, 1 / 3, 0.99, 1.0])
@pytest.mark.parametrize("tone", ["blue", "orange", "grey"])
def test_the_style_sheet_has_every_class_of_a_matrix_cell(share: float, tone: str) -> None:
    for css_class in list_matrix_classes(share, tone).split():
        assert f".{css_class} {{ --" in STYLE_SHEET


def test_larger_shares_are_never_paler() -> None:
    depths = [
        int(list_matrix_classes(percent / 100, "blue").rpartition("-")[2]) for percent in range(101)
    ]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, 10)


def test_templates_of_reports_have_no_style_attributes() -> None:
    for template in Path(report.__path__[0]).glob("*.j2"):
        assert " style=" not in template.read_text("utf-8"), template.name
