"""How the losses went: a picture for a page or as a file of its own, and a table by epoch for a
terminal or the model card.

Nothing is smoothed in silence: the points that were measured are drawn, lightly, and the mean over
them is called one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isfinite, log10
from pathlib import Path

import numpy as np
from markupsafe import Markup

from medtask.atomic_files import replace_text
from medtask.evaluation.presentation.curves import (
    AXIS_Y,
    Axes,
    compute_y,
    draw_axes,
    draw_curve,
    draw_gridlines,
    draw_line,
)
from medtask.evaluation.presentation.plots import combine_plots
from medtask.training.markdown import format_table
from medtask.training.training_log import TrainingPoint

MAX_DRAWN_POINTS = 300  # points of one kind that a picture holds
MAX_TABLE_ROWS = 30  # lines that a table holds
_MIN_SMOOTHED_POINTS = 20  # so few points are joined as they are
_LEFT_MARGIN = 0.07  # of the width, for the numbers of the levels
_EPOCH_TOLERANCE = (
    1e-6  # an epoch's end is a sum of steps, and may miss the whole number by a rounding
)


def find_best_point(points: Iterable[TrainingPoint]) -> TrainingPoint | None:
    """The validation with the lowest loss, the first of several; by the highest score where no
    validation has a finite loss.
    """
    kept = list(points)
    losses = [
        point
        for point in kept
        if point.validation_loss is not None and isfinite(point.validation_loss)
    ]
    if losses:
        return min(losses, key=lambda point: point.validation_loss or 0.0)
    scores = [point for point in kept if point.score is not None and isfinite(point.score)]
    return max(scores, key=lambda point: point.score or 0.0, default=None)


def write_loss_plot(
    path: Path, points: Sequence[TrainingPoint], score_name: str = "accuracy"
) -> None:
    """``loss.svg``: losses, and below them the score where there is one; StorageError where it
    cannot be written.
    """
    pictures = [
        draw_losses(points),
        *([draw_scores(points, score_name)] if _select_finite_values(points, "score") else []),
    ]
    replace_text(path, combine_plots(pictures, "The course of the training"))


def draw_losses(
    points: Sequence[TrainingPoint],
    title: str = "Loss of the rows trained on, and of the validation rows",
) -> Markup:
    """Losses in nats over epochs (over steps where no epoch is known), the best validation
    marked.
    """
    axis = _ProgressAxis.from_points(points)
    raw, checked = (
        _select_finite_values(points, "loss"),
        _select_finite_values(points, "validation_loss"),
    )
    mean, window = _average(raw)
    top = _find_axis_top(raw, checked)
    drawn = _thin(raw)
    parts, key = draw_gridlines(top, lambda level: f"{level:.3g}"), []
    if window > 1:
        parts += [
            _dot("grey", axis.to_fraction(point), value / top, 2, opacity=0.5)
            for point, value in drawn
        ]
        some = (
            f", 1 in {ceil(len(raw) / MAX_DRAWN_POINTS):,} drawn"
            if len(raw) > MAX_DRAWN_POINTS
            else ""
        )
        key += [
            (_dot("grey", None, None, 2.5), f"training loss, as measured{some}"),
            (_dash("ink"), f"mean of {window:,} points around"),
        ]
    elif raw:
        key.append((_dash("ink"), "training loss"))
    parts += draw_curve(
        [(axis.to_fraction(point), value / top) for point, value in _thin(mean)], "ink"
    )
    if checked:
        parts += _draw_validation_curve(axis, checked, top)
        key.append((_dash("blue"), "validation loss"))
    best = find_best_point(point for point, _ in checked)
    if best is not None and best.validation_loss is not None:
        parts += _mark_best(axis.to_fraction(best), best.validation_loss / top)
        key.append(
            (_ring(None, None), f"lowest: {best.validation_loss:.3f} at {axis.format_point(best)}")
        )
    over = sum(value > top for _, value in raw)
    notes = [
        *_describe_missing_values(points),
        *([f"{_count(over)} above the picture"] if over else []),
    ]
    return _draw_chart(
        axis,
        title,
        parts,
        key,
        notes,
        "loss",
        [("training loss", mean), ("validation loss", checked)],
    )


def draw_scores(
    points: Sequence[TrainingPoint],
    score_name: str = "accuracy",
    title: str = "Score of the validation rows",
) -> Markup:
    """``score_name`` of the validation rows, from 0 to 1, over epochs."""
    axis, scores = _ProgressAxis.from_points(points), _select_finite_values(points, "score")
    parts, key = draw_gridlines(1.0), []
    if scores:
        parts += _draw_validation_curve(axis, scores, 1.0)
        key.append((_dash("blue"), f"{score_name} of the validation rows"))
    best = find_best_point(points)
    if best is not None and best.score is not None and isfinite(best.score):
        parts += _mark_best(axis.to_fraction(best), best.score)
        by = (
            "at the lowest validation loss"
            if best.validation_loss is not None
            else f"at {axis.format_point(best)}"
        )
        key.append((_ring(None, None), f"{best.score:.3f} {by}"))
    return _draw_chart(axis, title, parts, key, [], score_name, [(score_name, scores)])


@dataclass(frozen=True, slots=True)
class _ProgressAxis:
    """Along a picture: from 0 to ``end`` epochs, or steps."""

    unit: str
    end: float

    @classmethod
    def from_points(cls, points: Sequence[TrainingPoint]) -> _ProgressAxis:
        epochs = max((point.epoch for point in points), default=0.0)
        return (
            cls("epochs", epochs)
            if epochs > 0
            else cls("steps", float(max([1, *(point.step for point in points)])))
        )

    def to_fraction(self, point: TrainingPoint) -> float:
        return self._indent((point.epoch if self.unit == "epochs" else point.step) / self.end)

    def format_point(self, point: TrainingPoint) -> str:
        return (
            f"epoch {point.epoch:.3g}, step {point.step:,}"
            if self.unit == "epochs"
            else f"step {point.step:,}"
        )

    def ticks(self) -> dict[float, str]:
        step = _round_up(self.end / 5 * 4) / 4
        return {
            self._indent(index * step / self.end): f"{index * step:,.4g}"
            for index in range(floor(self.end / step + _EPOCH_TOLERANCE) + 1)
        }

    @staticmethod
    def _indent(share: float) -> float:
        return min(1.0, _LEFT_MARGIN + (1 - _LEFT_MARGIN) * share)


_PointValues = list[tuple[TrainingPoint, float]]


def _select_finite_values(points: Iterable[TrainingPoint], name: str) -> _PointValues:
    """The points at which a number was measured that can be drawn, with it."""
    values = ((point, getattr(point, name)) for point in points)
    return [
        (point, float(value)) for point, value in values if value is not None and isfinite(value)
    ]


def _average(raw: _PointValues) -> tuple[_PointValues, int]:
    """At each point the mean of so many around it, of fewer at both ends; the points themselves
    where they are few.
    """
    if len(raw) < _MIN_SMOOTHED_POINTS:
        return raw, 1
    window = len(raw) // 40 * 2 + 5  # odd: as many before as behind
    values = np.array([value for _, value in raw])
    means = np.convolve(values, np.ones(window), "same") / np.convolve(
        np.ones(len(values)), np.ones(window), "same"
    )
    return [(point, float(mean)) for (point, _), mean in zip(raw, means, strict=True)], window


def _thin(values: _PointValues) -> _PointValues:
    """At most some DRAWN of them, evenly, the last among them."""
    step = max(1, ceil(len(values) / MAX_DRAWN_POINTS))
    return values[::-1][::step][::-1]


def _find_axis_top(training: _PointValues, validation: _PointValues) -> float:
    """The height of the picture: the first steps and single bad ones may rise above it, validations
    may not.
    """
    values = np.array([value for _, value in training] or [0.0])
    usual = (
        1.1 * float(np.quantile(values, 0.97))
        if len(values) >= _MIN_SMOOTHED_POINTS
        else float(values.max())
    )
    return _round_up(max([usual, *(value for _, value in validation)]))


def _round_up(reach: float) -> float:
    """Four times the smallest of 1, 2, 2.5 and 5 times a power of ten that does: quarters of it are
    short numbers.
    """
    if reach <= 0:
        return 1.0
    power = 10.0 ** floor(log10(reach / 4))
    return next(
        (4 * nice * power for nice in (1, 2, 2.5, 5) if 4 * nice * power >= reach), 40 * power
    )


def _draw_validation_curve(
    axis: _ProgressAxis, validation: _PointValues, top: float
) -> Iterator[Markup]:
    indices = [(axis.to_fraction(point), value / top) for point, value in _thin(validation)]
    yield from draw_curve(indices, "blue")
    if 1 < len(indices) <= 40:
        yield from (_dot("blue", along, up, 3.5) for along, up in indices)


def _mark_best(x_fraction: float, y_fraction: float) -> list[Markup]:
    down = draw_line(
        "axis", 100 * x_fraction, compute_y(y_fraction), 100 * x_fraction, compute_y(0.0)
    )
    return [Markup('<g stroke-dasharray="3 4">{}</g>').format(down), _ring(x_fraction, y_fraction)]


def _dot(
    tone: str,
    x_fraction: float | None,
    y_fraction: float | None,
    radius: float,
    opacity: float = 1.0,
) -> Markup:
    """A dot in the picture, or (None) before a line of its key."""
    x, y = (
        ("6", "0")
        if x_fraction is None or y_fraction is None
        else (f"{100 * x_fraction:.2f}%", f"{compute_y(y_fraction):.1f}")
    )
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}" stroke="none" opacity="{}"/>').format(
        tone, x, y, radius, opacity
    )


def _ring(x_fraction: float | None, y_fraction: float | None) -> Markup:
    x, y = (
        ("6", "0")
        if x_fraction is None or y_fraction is None
        else (f"{100 * x_fraction:.2f}%", f"{compute_y(y_fraction):.1f}")
    )
    # The style sheet's fill of a tone is stronger than an attribute, not than a style.
    return Markup(
        '<circle class="ink" style="fill:none" stroke-width="2" cx="{}" cy="{}" r="6"/>'
    ).format(x, y)


def _dash(tone: str) -> Markup:
    return Markup('<line class="whisker {}" x1="0" x2="12" y1="0" y2="0"/>').format(tone)


def _describe_missing_values(points: Sequence[TrainingPoint]) -> list[str]:
    """What cannot be drawn, in words."""
    descriptions = []
    for name, title in (("loss", "training loss"), ("validation_loss", "validation loss")):
        broken = [
            point.step
            for point in points
            if (value := getattr(point, name)) is not None and not isfinite(value)
        ]
        if broken:
            descriptions.append(
                f"{title} not finite at {_count(len(broken))}, from step {broken[0]:,}"
            )
    if (
        not _select_finite_values(points, "loss")
        and not _select_finite_values(points, "validation_loss")
        and not descriptions
    ):
        descriptions.append("no loss was measured")
    return descriptions


def _draw_chart(
    axis: _ProgressAxis,
    title: str,
    parts: Sequence[Markup],
    legend: Sequence[tuple[Markup, str]],
    notes: Sequence[str],
    y_label: str,
    curves: Sequence[tuple[str, _PointValues]],
) -> Markup:
    """The picture, its key below it: one line for each entry, since a phone has no room for two
    beside each other.
    """
    lines = [*legend, *((Markup(""), text) for text in notes)]
    entry = Markup(
        '<svg y="{}" overflow="visible">{}<text class="quiet" x="20" y="4">{}</text></svg>'
    )
    listed = [
        entry.format(AXIS_Y + 60 + 19 * index, sign, text)
        for index, (sign, text) in enumerate(lines)
    ]
    ends = [(name, drawn[0], drawn[-1]) for name, drawn in curves if drawn]
    descriptions = [
        f"{name} {first:.3f} at {axis.format_point(start)}, {last:.3f} at {axis.format_point(end)}"
        for name, (start, first), (end, last) in ends
    ]
    described = "; ".join([*descriptions, *(text for _, text in lines)])
    axes = Axes(title, described, y_label, axis.unit, ticks=axis.ticks())
    return draw_axes(axes, [*parts, *listed], AXIS_Y + 6 + 19 * len(lines))


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """The end of an epoch, or the best validation where it lies within one. ``loss``: the mean over
    the epoch's rows.
    """

    epoch: float
    step: int
    loss: float | None
    validation_loss: float | None
    score: float | None
    best: bool


def summarize_epochs(points: Sequence[TrainingPoint]) -> tuple[EpochSummary, ...]:
    """Epoch by epoch, 0 being what was measured before the first step. Numbers are those of each
    epoch's last validation.
    """
    best = find_best_point(points)
    listed, before = [], 0
    for _, group in groupby(points, key=lambda point: ceil(point.epoch - _EPOCH_TOLERANCE)):
        inside = list(group)
        total, steps = 0.0, 0
        for point in inside:
            if point.loss is not None:
                # A point's loss is the mean since the point before, however far that lies back.
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


def format_epochs(points: Sequence[TrainingPoint], score_name: str = "accuracy") -> tuple[str, ...]:
    """The losses by epoch as lines for a terminal, in columns."""
    head, rows, note = _tabulate(points, score_name)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "   ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in [head, *rows]
    ]
    return (*lines, *note) if rows else note


def format_epochs_markdown(points: Sequence[TrainingPoint], score_name: str = "accuracy") -> str:
    """The same as a Markdown table, with a line break at its end; ``score_name`` is Markdown."""
    head, rows, note = _tabulate(points, score_name)
    return "\n\n".join([*([format_table(head, rows)] if rows else []), *note]) + "\n"


def _tabulate(
    points: Sequence[TrainingPoint], score_name: str
) -> tuple[list[str], list[list[str]], tuple[str, ...]]:
    """Head, rows and, where it is needed, a sentence about what the table does not show."""
    epochs = summarize_epochs(points)
    if not epochs:
        return [], [], ("No loss was measured.",)
    step = ceil(len(epochs) / MAX_TABLE_ROWS)
    shown = [
        one
        for index, one in enumerate(epochs)
        if index % step == 0 or one.best or index == len(epochs) - 1
    ]
    columns: list[tuple[str, Callable[[EpochSummary], str]]] = [
        ("epoch", lambda one: f"{one.epoch:.3g}"),
        ("step", lambda one: f"{one.step:,}"),
        ("training loss", lambda one: _decimal(one.loss)),
        ("validation loss", lambda one: _decimal(one.validation_loss)),
        (score_name, lambda one: _decimal(one.score)),
        ("", lambda one: "best" if one.best else ""),
    ]
    rows = [[write(one) for _, write in columns] for one in shown]
    note = (
        (f"Of {len(epochs):,} lines {len(shown):,} are shown.",) if len(shown) < len(epochs) else ()
    )
    return [name for name, _ in columns], rows, note


def _count(points: int) -> str:
    return f"{points:,} point{'s' * (points != 1)}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if isfinite(value) else "not finite"
