"""The picture and the table of losses: for no point and for ten thousand, and for numbers that are
none.
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from medtask.training.loss_curve import draw_losses, draw_scores, write_loss_plot
from medtask.training.training_log import TrainingPoint

HOSTILE = '<script>alert("x")</script>'
SVG = "{http://www.w3.org/2000/svg}"


def make_points(steps: int, epochs: int = 3, validations: int = 3) -> list[TrainingPoint]:
    """Losses that fall, validations that fall and rise again."""
    found = []
    for step in range(1, steps + 1):
        epoch = epochs * step / steps
        found.append(TrainingPoint(step, steps, epoch, loss=2.0 - 0.5 * epoch))
        if step * validations % steps < validations:
            found.append(
                TrainingPoint(
                    step, steps, epoch, validation_loss=1 + abs(epoch - 2), score=0.5 + epoch / 10
                )
            )
    return found


def read_legend(drawn: str) -> list[str]:
    """The lines below a picture."""
    entries = [node for node in ElementTree.fromstring(drawn) if node.tag == "svg"]
    return [str(node[-1].text) for node in entries]


def find_elements(drawn: str, tag: str, tone: str) -> list[dict[str, str]]:
    return [
        dict(node.attrib)
        for node in ElementTree.fromstring(drawn).iter(tag)
        if node.get("class") == tone
    ]


def test_few_points_are_joined_as_they_are() -> None:
    drawn = draw_losses(make_points(6))
    assert read_legend(drawn) == [
        "training loss",
        "validation loss",
        "lowest: 1.000 at epoch 2, step 4",
    ]
    assert len(find_elements(drawn, "line", "whisker ink")) == 5 + 1  # and one in the key
    assert len(find_elements(drawn, "circle", "blue")) == 3
    assert not find_elements(drawn, "circle", "grey")


def test_many_points_are_drawn_lightly_with_their_mean_and_both_are_named() -> None:
    drawn = draw_losses(make_points(100))
    assert read_legend(drawn)[:2] == ["training loss, as measured", "mean of the 9 points around"]
    assert len(find_elements(drawn, "circle", "grey")) == 100 + 1


def test_ten_thousand_points_are_thinned_and_said_to_be() -> None:
    drawn = draw_losses(make_points(10_000, validations=1000))
    assert "training loss, as measured, 1 in 34 drawn" in read_legend(drawn)
    assert len(find_elements(drawn, "circle", "grey")) == 295 + 1
    assert len(drawn) < 100_000


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_hardly_any_point_is_a_picture_too(steps: int, tmp_path: Path) -> None:
    points = make_points(steps)
    for drawn in (draw_losses(points), draw_scores(points)):
        assert "nan" not in drawn
        ElementTree.fromstring(drawn)
    write_loss_plot(tmp_path / "loss.svg", points)
    assert (read_legend(draw_losses(points)) == ["no loss was measured"]) == (steps == 0)


def test_a_value_that_is_no_number_is_written_and_not_drawn() -> None:
    points = [
        TrainingPoint(step, 40, step / 20, loss=1.0 if step < 30 else math.nan)
        for step in range(1, 41)
    ]
    points += [
        TrainingPoint(20, 40, 1.0, validation_loss=0.5, score=0.8),
        TrainingPoint(40, 40, 2.0, validation_loss=math.inf, score=math.nan),
    ]
    drawn = draw_losses(points)
    result = (
        "training loss not finite at 11 points, from step 30",
        "validation loss not finite at 1 point, from step 40",
    )
    assert tuple(read_legend(drawn)[-2:]) == result
    numbers = [
        value for node in ElementTree.fromstring(drawn).iter() for value in node.attrib.values()
    ]
    assert not any(word in value for value in numbers for word in ("nan", "inf"))
    assert "0.800 at the lowest validation loss" in read_legend(draw_scores(points))


def test_a_bad_step_does_not_press_the_others_to_the_floor() -> None:
    points = [
        TrainingPoint(step, 100, step / 50, loss=40.0 if step == 7 else 0.9)
        for step in range(1, 101)
    ]
    assert read_legend(draw_losses(points))[-1] == "1 point above the plot"
    lowest = max(
        float(dot["cy"]) for dot in find_elements(draw_losses(points), "circle", "grey")[:-1]
    )
    assert lowest < 150  # of 222, where zero lies


def test_where_no_epoch_is_known_steps_are_counted() -> None:
    drawn = draw_losses([TrainingPoint(step, 4, 0.0, loss=1 / step) for step in range(1, 5)])
    assert [text.text for text in ElementTree.fromstring(drawn).findall("text")][-6:] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "steps",
    ]
    assert "training loss 1.000 at step 1, 0.250 at step 4" in drawn


def test_names_cannot_break_out() -> None:
    drawn = draw_scores(make_points(6), HOSTILE)
    assert "<script" not in drawn
    ElementTree.fromstring(drawn)


def test_the_file_can_be_read_alone(tmp_path: Path) -> None:
    write_loss_plot(tmp_path / "loss.svg", make_points(30), "macro-F1")
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert "--blue" in str(root.findtext(f"{SVG}style"))
    outer = [node for node in root if node.tag == f"{SVG}svg"]
    assert len(outer) == 2
    assert int(outer[0].attrib["y"]) + int(outer[0].attrib["height"]) < int(outer[1].attrib["y"])
    assert int(outer[1].attrib["y"]) + int(outer[1].attrib["height"]) < int(root.attrib["height"])
    assert "macro-F1 on the validation rows" in [node.text for node in root.iter(f"{SVG}text")]
    assert not any("href" in name for node in root.iter() for name in node.attrib)


def test_losses_alone_are_one_picture(tmp_path: Path) -> None:
    write_loss_plot(
        tmp_path / "loss.svg",
        [TrainingPoint(1, 2, 0.5, loss=1.0), TrainingPoint(2, 2, 1.0, loss=0.5)],
    )
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    assert len([node for node in root if node.tag == f"{SVG}svg"]) == 1
