from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the extra plot is not installed")

from medtask.evaluation.report.benchmark_picture import SpeedCurve, check_picture, draw_curves

SMALL = SpeedCurve(
    "small <model>", "tokens", [128, 256, 512], [3.0, 4.0, 3.5], [10**9, 2 * 10**9, None], 256
)
LINEAR = SpeedCurve("linear", None, [1], [900.0], [10**8], None)


def read_texts(path: Path) -> list[str]:
    return [
        element.text.strip()
        for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
        if element.text
    ]


def test_an_svg_names_models_axes_and_the_chosen_size(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    draw_curves("surgery", [SMALL, LINEAR], path)
    texts = read_texts(path)
    assert {"surgery", "small <model>", "linear", "rows per second", "peak memory, GB"} <= {*texts}
    assert texts.count("256") == 4  # a tick and the mark of the chosen size, in both panels
    first = path.read_bytes()
    draw_curves("surgery", [SMALL, LINEAR], path)
    assert path.read_bytes() == first


def test_a_png_is_drawn_by_its_extension(tmp_path: Path) -> None:
    path = tmp_path / "curve.PNG"
    check_picture(path)
    draw_curves("surgery", [SMALL], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_models_without_known_memory_or_sizes_can_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    draw_curves("surgery", [SpeedCurve("server", None, [1], [2.0], [None], None)], path)
    assert "server" in read_texts(path)
