"""Two curves as inline SVG, in the manner of plots.py: reliability, and error against coverage.

Lines are drawn piece by piece, since a path cannot have its places in percentages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup

from medtask.evaluate.intervals import Estimate
from medtask.evaluate.plots import TICKS, draw_ticks

_PLOT = 200  # height of the area that is drawn in, in pixels
_TOP = 22
_STRIP = 34  # height of the strip that shows how many rows a bin has
_FLOOR = _TOP + _PLOT


def draw_reliability(bins: Sequence[tuple[float, Estimate]], title: str) -> Markup:
    """For each bin of rows a dot: mean confidence along, share that was right (with its interval) up. Below it, its rows.

    A confidence that means what it says lies on the diagonal.
    """
    peak = max((right.n for _, right in bins), default=1)
    base = _FLOOR + 12 + _STRIP
    dot = Markup('<circle class="blue" cx="{:.2f}%" cy="{:.1f}" r="4.5"><title>{}</title></circle>')
    rows = Markup('<rect class="grey" x="{:.2f}%" y="{:.1f}" width="4%" height="{:.1f}"><title>{:,} rows</title></rect>')
    diagonal = Markup('<line class="axis" stroke-dasharray="5 4" x1="0" y1="{}" x2="100%" y2="{}"/>').format(_FLOOR, _TOP)
    parts = []
    for confidence, right in bins:
        x = 100 * confidence
        if right.low is not None and right.high is not None:
            parts.append(_line("whisker blue", x, _height(right.low), x, _height(right.high)))
        said = f"confidence {confidence:.2f}, right {right} of {right.n:,} rows"
        parts.append(dot.format(x, _height(right.value), said))
        tall = max(1.0, _STRIP * right.n / peak)
        parts.append(rows.format(min(max(x - 2, 0), 96), base - tall, tall, right.n))
    described = "; ".join(f"confidence {confidence:.2f}: right {right}, {right.n:,} rows" for confidence, right in bins)
    return _frame(base, title, described, [*_levels(1.0), diagonal, *parts], "share right", "confidence", 12 + _STRIP)


def draw_risk(
    coverage: Sequence[float],
    error: Sequence[Estimate],
    title: str,
    *,
    max_error: float | None = None,
    accepted: float | None = None,
) -> Markup:
    """The error among the accepted rows, the more of them are accepted, inside its band.

    ``coverage``: shares of the rows, rising; ``error``: one for each. ``max_error``: the promise, ``accepted``: the coverage at
    which it holds.
    """
    # The few rows at the far left have bands up to 1, which would press everything else to the floor.
    reach = 1.1 * max([max_error or 0.0, *(one.value for one in error if one.n >= 20)])
    top = next((4 * step for step in (0.01, 0.02, 0.025, 0.05, 0.1, 0.2) if 4 * step >= reach), 1.0)
    parts = []
    band = Markup('<rect class="grey" fill-opacity="0.35" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"/>')
    points = list(zip(coverage, error, strict=True))
    start = 0.0
    for share, one in points:
        if one.low is not None and one.high is not None:
            upper, lower = _height(one.high / top), _height(one.low / top)
            parts.append(band.format(100 * start, upper, 100 * (share - start), lower - upper))
        start = share
    parts += _levels(top)
    for (left, before), (right, after) in pairwise(points):
        parts.append(_line("whisker blue", 100 * left, _height(before.value / top), 100 * right, _height(after.value / top)))
    if len(points) == 1:
        parts.append(Markup('<circle class="blue" cx="{:.2f}%" cy="{:.1f}" r="4.5"/>').format(100 * start, _height(error[0].value / top)))
    if max_error is not None:
        parts.append(_line("whisker orange", 0, _height(max_error / top), 100, _height(max_error / top)))
        said = Markup('<text x="{:.1f}%" y="{:.1f}">{}</text>')  # right of the numbers, left of where the error rises
        crossed = accepted is not None and 0.17 < accepted < 0.5
        left = 100 * (accepted or 0.0) + 1.5 if crossed else 18
        parts.append(said.format(left, _height(max_error / top) - 6, f"promised: at most {100 * max_error:g} %"))
    if accepted is not None:
        parts.append(_line("whisker ink", 100 * accepted, _TOP, 100 * accepted, _FLOOR))
    described = _describe_risk(points, max_error, accepted)
    return _frame(_FLOOR, title, described, parts, "error among the accepted", "share of rows accepted", 0)


def _describe_risk(points: Sequence[tuple[float, Estimate]], max_error: float | None, accepted: float | None) -> str:
    told = [f"{share:.0%} accepted: error {one}" for share, one in points[:: max(1, len(points) // 8)]]
    told += [f"promised error {max_error:g}"] if max_error is not None else []
    return "; ".join(told + ([f"threshold at {accepted:.0%} accepted"] if accepted is not None else []))


def _frame(base: float, title: str, described: str, parts: Iterable[Markup], up: str, along: str, below: int) -> Markup:
    """``below``: pixels between the axis and its numbers."""
    ticks = draw_ticks(_FLOOR + below + 17)
    return Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>'
        '<text class="quiet" x="100%" y="12" text-anchor="end">{}</text>{}'
        '<line class="axis" x1="0" x2="100%" y1="{}" y2="{}"/>{}<text class="quiet" x="50%" y="{}" text-anchor="middle">{}</text></svg>'
    ).format(int(base) + 42, title, described, up, Markup("").join(parts), _FLOOR, _FLOOR, ticks, _FLOOR + below + 36, along)


def _levels(top: float) -> list[Markup]:
    """Lines across at quarters of ``top``, each with its number on it."""
    grid = Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/><text class="quiet" x="0" y="{1:.1f}">{2}</text>')
    return [grid.format(_height(at), _height(at) - 4, f"{100 * at * top:.3g} %") for at in TICKS[1:]]


def _line(tone: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    line = Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>')
    return line.format(tone, x1, y1, x2, y2)


def _height(share: float) -> float:
    """Where a share of the height lies; what is outside [0, 1] lies on the edge."""
    return _FLOOR - _PLOT * min(1.0, max(0.0, share))
