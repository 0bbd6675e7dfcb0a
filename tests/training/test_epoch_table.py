"""Losses by epoch: means over rows, the best validation, and long trainings in short tables."""

from __future__ import annotations

import math

from medtask.training.epoch_table import format_epochs_markdown, summarize_epochs
from medtask.training.training_log import TrainingPoint


def test_an_epochs_loss_is_the_mean_over_its_rows() -> None:
    points = [
        TrainingPoint(1, 8, 0.25, loss=4.0),
        TrainingPoint(4, 8, 1.0, loss=2.0),
        TrainingPoint(4, 8, 1.0, validation_loss=1.5, score=0.5),
    ]
    points += [
        TrainingPoint(6, 8, 1.5, loss=1.0),
        TrainingPoint(6, 8, 1.5, validation_loss=1.0, score=0.75),
    ]
    points += [
        TrainingPoint(8, 8, 2.0000001, loss=0.5),
        TrainingPoint(8, 8, 2.0000001, validation_loss=1.25, score=0.75),
    ]
    assert format_epochs_markdown(points).splitlines()[2:] == [
        "| 1 | 4 | 2.500 | 1.500 | 0.500 |  |",
        "| 1.5 | 6 | – | 1.000 | 0.750 | best |",
        "| 2 | 8 | 0.750 | 1.250 | 0.750 |  |",
    ]


def test_the_table_is_markdown_too() -> None:
    points = [
        TrainingPoint(0, 4, 0.0, validation_loss=2.0),
        TrainingPoint(4, 4, 1.0, loss=math.nan),
        TrainingPoint(4, 4, 1.0, validation_loss=1.0),
    ]
    assert format_epochs_markdown(points, "macro-F1") == (
        "| epoch | step | training loss | validation loss | macro-F1 |  |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| 0 | 0 | – | 2.000 | – |  |\n"
        "| 1 | 4 | not finite | 1.000 | – | best |\n"
    )
    assert format_epochs_markdown([]) == "No loss was measured.\n"


def test_a_long_training_has_a_short_table() -> None:
    points = [
        TrainingPoint(epoch, 1000, epoch, loss=1.0, validation_loss=abs(epoch - 777) + 1.0)
        for epoch in range(1, 1001)
    ]
    assert len(summarize_epochs(points)) == 1000
    *table, empty, note = format_epochs_markdown(points).splitlines()
    assert len(table) <= 34
    assert [line for line in table if "best" in line] == [
        "| 777 | 777 | 1.000 | 1.000 | – | best |"
    ]
    assert (empty, note) == ("", f"{len(table) - 2} of 1,000 lines are shown.")


def test_methods_without_epochs_have_a_line_for_each_step() -> None:
    points = [
        TrainingPoint(step, 25, 0.0, validation_loss=loss, score=0.5)
        for step, loss in ((1, 0.9), (2, 0.3), (3, 0.4))
    ]
    table = format_epochs_markdown(points).splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [
        *("step", "validation loss", "accuracy", ""),
    ]
    assert len(table) == 2 + len(points)
    assert "best" in table[3]
    assert "0.300" in table[3]
