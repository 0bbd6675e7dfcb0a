"""Plots of a training's losses and scores, for a page or as ``loss.svg``.

Measured points are drawn unchanged; a smoothed curve is labelled as a moving mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
)
from medtask.evaluation.presentation.plots import combine_plots
from medtask.evaluation.presentation.svg import draw_line
from medtask.training.epoch_table import EPOCH_TOLERANCE
from medtask.training.training_log import TrainingPoint, find_best_point

VALIDATION_ROWS = "the validation rows"
MAX_DRAWN_POINTS = 300  # maximum number of points of one kind in a plot
_MIN_SMOOTHED_POINTS = 20  # fewer points are joined without smoothing
_LEFT_MARGIN = 0.07  # share of the width for the numbers of the gridlines


def write_loss_plot(
    path: Path, points: Sequence[TrainingPoint], score_name: str = "accuracy"
) -> None:
    """Write ``loss.svg``: the losses, and the scores below them if there are any.

    Raises:
        StorageError: The file cannot be written.
    """
    pictures = [
        draw_losses(points),
        *([draw_scores(points, score_name)] if _select_finite_values(points, "score") else []),
    ]
    replace_text(path, combine_plots(pictures, "Losses of the training"))


def draw_losses(points: Sequence[TrainingPoint], rows: str = VALIDATION_ROWS) -> Markup:
    """Plot losses in nats over epochs, or over steps if epochs are unknown; the best is marked.

    ``rows``: what the losses of validations were measured on.
    """
    axis = _ProgressAxis.from_points(points)
    raw = _select_finite_values(points, "loss")
    checked = _select_finite_values(points, "validation_loss")
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
            (_dash("ink"), f"mean of the {window:,} points around"),
        ]
    elif raw:
        key.append((_dash("ink"), "training loss"))
    parts += draw_curve(
        [(axis.to_fraction(point), value / top) for point, value in _thin(mean)], "ink"
    )
    if checked:
        parts += _draw_validation_curve(axis, checked, top)
        key.append((_dash("blue"), _name_loss(rows)))
    best = find_best_point(point for point, _ in checked)
    if best is not None and best.validation_loss is not None:
        parts += _mark_best(axis.to_fraction(best), best.validation_loss / top)
        key.append(
            (_ring(None, None), f"lowest: {best.validation_loss:.3f} at {axis.format_point(best)}")
        )
    over = sum(value > top for _, value in raw)
    notes = [
        *_describe_missing_values(points),
        *([f"{_count(over)} above the plot"] if over else []),
    ]
    return _draw_chart(
        axis,
        f"Loss on the training rows and on {rows}",
        parts,
        [*key, *((Markup(""), text) for text in notes)],
        "loss",
        [("training loss", mean), (_name_loss(rows), checked)],
    )


def _name_loss(rows: str) -> str:
    return "validation loss" if rows == VALIDATION_ROWS else f"loss on {rows}"


def draw_scores(
    points: Sequence[TrainingPoint], score_name: str = "accuracy", *, rows: str = VALIDATION_ROWS
) -> Markup:
    """Plot ``score_name`` on ``rows``, in [0, 1], over epochs."""
    axis, scores = _ProgressAxis.from_points(points), _select_finite_values(points, "score")
    parts, key = draw_gridlines(1.0), []
    if scores:
        parts += _draw_validation_curve(axis, scores, 1.0)
        key.append((_dash("blue"), f"{score_name} on {rows}"))
    best = find_best_point(points)
    if best is not None and best.score is not None and isfinite(best.score):
        parts += _mark_best(axis.to_fraction(best), best.score)
        by = (
            f"at the lowest {_name_loss(rows)}"
            if best.validation_loss is not None
            else f"at {axis.format_point(best)}"
        )
        key.append((_ring(None, None), f"{best.score:.3f} {by}"))
    return _draw_chart(axis, f"Score on {rows}", parts, key, score_name, [(score_name, scores)])


@dataclass(frozen=True, slots=True)
class _ProgressAxis:
    """The horizontal axis, from 0 to ``end`` epochs or steps."""

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
            for index in range(floor(self.end / step + EPOCH_TOLERANCE) + 1)
        }

    @staticmethod
    def _indent(share: float) -> float:
        return min(1.0, _LEFT_MARGIN + (1 - _LEFT_MARGIN) * share)


_PointValues = list[tuple[TrainingPoint, float]]


def _select_finite_values(points: Iterable[TrainingPoint], name: str) -> _PointValues:
    """The points with a finite value of a field, each with that value."""
    values = ((point, getattr(point, name)) for point in points)
    return [
        (point, float(value)) for point, value in values if value is not None and isfinite(value)
    ]


def _average(raw: _PointValues) -> tuple[_PointValues, int]:
    """The moving mean and its window: 1 for few points, smaller at both ends."""
    if len(raw) < _MIN_SMOOTHED_POINTS:
        return raw, 1
    window = len(raw) // 40 * 2 + 5  # odd: as many points before as after
    values = np.array([value for _, value in raw])
    means = np.convolve(values, np.ones(window), "same") / np.convolve(
        np.ones(len(values)), np.ones(window), "same"
    )
    return [(point, float(mean)) for (point, _), mean in zip(raw, means, strict=True)], window


def _thin(values: _PointValues) -> _PointValues:
    """Reduce to about MAX_DRAWN_POINTS values, evenly spaced, including the last."""
    step = max(1, ceil(len(values) / MAX_DRAWN_POINTS))
    return values[::-1][::step][::-1]


def _find_axis_top(training: _PointValues, validation: _PointValues) -> float:
    """The top of the vertical axis.

    The first training losses and single outliers may exceed it; validation losses may not.
    """
    values = np.array([value for _, value in training] or [0.0])
    usual = (
        1.1 * float(np.quantile(values, 0.97))
        if len(values) >= _MIN_SMOOTHED_POINTS
        else float(values.max())
    )
    return _round_up(max([usual, *(value for _, value in validation)]))


def _round_up(value: float) -> float:
    """The next value whose quarters are 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value / 4))
    return next(
        (4 * nice * power for nice in (1, 2, 2.5, 5) if 4 * nice * power >= value), 40 * power
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
    """A dot in the plot, or in the legend (None)."""
    x, y = _locate(x_fraction, y_fraction)
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}" stroke="none" opacity="{}"/>').format(
        tone, x, y, radius, opacity
    )


def _ring(x_fraction: float | None, y_fraction: float | None) -> Markup:
    x, y = _locate(x_fraction, y_fraction)
    return Markup('<circle class="ring" stroke-width="2" cx="{}" cy="{}" r="6"/>').format(x, y)


def _locate(x_fraction: float | None, y_fraction: float | None) -> tuple[str, str]:
    if x_fraction is None or y_fraction is None:
        return "6", "0"
    return f"{100 * x_fraction:.2f}%", f"{compute_y(y_fraction):.1f}"


def _dash(tone: str) -> Markup:
    return Markup('<line class="whisker {}" x1="0" x2="12" y1="0" y2="0"/>').format(tone)


def _describe_missing_values(points: Sequence[TrainingPoint]) -> list[str]:
    """A sentence for each kind of value that cannot be drawn."""
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
    y_label: str,
    curves: Sequence[tuple[str, _PointValues]],
) -> Markup:
    """The plot with its legend below, one line per entry to fit on a phone."""
    entry = Markup(
        '<svg y="{}" overflow="visible">{}<text class="quiet" x="20" y="4">{}</text></svg>'
    )
    listed = [
        entry.format(AXIS_Y + 60 + 19 * index, sign, text)
        for index, (sign, text) in enumerate(legend)
    ]
    ends = [(name, drawn[0], drawn[-1]) for name, drawn in curves if drawn]
    descriptions = [
        f"{name} {first:.3f} at {axis.format_point(start)}, {last:.3f} at {axis.format_point(end)}"
        for name, (start, first), (end, last) in ends
    ]
    described = "; ".join([*descriptions, *(text for _, text in legend)])
    axes = Axes(title, described, y_label, axis.unit, ticks=axis.ticks())
    return draw_axes(axes, [*parts, *listed], AXIS_Y + 6 + 19 * len(legend))


def _count(points: int) -> str:
    return f"{points:,} point{'s' * (points != 1)}"
