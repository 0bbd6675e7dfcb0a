"""Losses and scores by epoch, or by step where there are no epochs, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, isfinite

from medtask.training.markdown import format_table
from medtask.training.training_log import TrainingPoint, find_best_point

MAX_TABLE_ROWS = 30
# An epoch's end is a sum of steps, and may differ from the whole number by rounding.
EPOCH_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """The end of an epoch, or the best validation if it is within an epoch.

    ``loss`` is the mean over the epoch's rows.
    """

    epoch: float
    step: int
    loss: float | None
    validation_loss: float | None
    score: float | None
    best: bool


def summarize_epochs(points: Sequence[TrainingPoint]) -> tuple[EpochSummary, ...]:
    """One entry per epoch, with the numbers of its last validation; one per step without epochs.

    Epoch 0 is the validation before the first step.
    """
    best, has_epochs = find_best_point(points), _has_epochs(points)

    def find_part(point: TrainingPoint) -> int:
        return ceil(point.epoch - EPOCH_TOLERANCE) if has_epochs else point.step

    listed, before = [], 0
    for _, group in groupby(points, key=find_part):
        inside = list(group)
        total, steps = 0.0, 0
        for point in inside:
            if point.loss is not None:
                # A point's loss is the mean over all steps since the point before.
                total, steps, before = (
                    total + point.loss * max(1, point.step - before),
                    steps + max(1, point.step - before),
                    point.step,
                )
        checked = [
            point
            for point in inside
            if point.validation_loss is not None or point.score is not None
        ]
        last = checked[-1] if checked else inside[-1]
        if best in checked and best is not last and best is not None:
            listed.append(
                EpochSummary(
                    best.epoch, best.step, None, best.validation_loss, best.score, best=True
                )
            )
        end = inside[-1]
        listed.append(
            EpochSummary(
                end.epoch,
                end.step,
                total / steps if steps else None,
                last.validation_loss,
                last.score,
                best=last is best,
            )
        )
    return tuple(listed)


def format_epochs_markdown(points: Sequence[TrainingPoint], score_name: str = "accuracy") -> str:
    """The losses by epoch as a Markdown table; ``score_name`` is Markdown."""
    epochs = summarize_epochs(points)
    if not epochs:
        return "No loss was measured.\n"
    step = ceil(len(epochs) / MAX_TABLE_ROWS)
    shown = [
        one
        for index, one in enumerate(epochs)
        if index % step == 0 or one.best or index == len(epochs) - 1
    ]
    columns = {
        "epoch": [f"{one.epoch:.3g}" for one in shown],
        "step": [f"{one.step:,}" for one in shown],
        "training loss": [_format_decimal(one.loss) for one in shown],
        "validation loss": [_format_decimal(one.validation_loss) for one in shown],
        score_name: [_format_decimal(one.score) for one in shown],
        "": ["best" if one.best else "" for one in shown],
    }
    if not _has_epochs(points):  # such methods measure no loss on the rows that they learn
        del columns["epoch"], columns["training loss"]
    table = format_table([*columns], [list(row) for row in zip(*columns.values(), strict=True)])
    table += "\n"
    if len(shown) == len(epochs):
        return table
    return f"{table}\n{len(shown):,} of {len(epochs):,} lines are shown.\n"


def _has_epochs(points: Sequence[TrainingPoint]) -> bool:
    return any(point.epoch > 0 for point in points) or not any(point.step for point in points)


def _format_decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if isfinite(value) else "not finite"
