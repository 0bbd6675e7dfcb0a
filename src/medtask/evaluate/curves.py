"""Curves as inline SVG, in the manner of plots.py: reliability, error against coverage, and what
any other curve is drawn with.

Lines are drawn piece by piece, since a path cannot have its places in percentages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from medtask.evaluate.intervals import Estimate
from medtask.evaluate.plots import SHARES, TICKS, draw_ticks

_PLOT = 200  # height of the area that is drawn in, in pixels
_TOP = 22
_STRIP = 34  # height of the strip that shows how many rows a bin has
FLOOR = _TOP + _PLOT  # where the axis lies


def draw_reliability(bins: Sequence[tuple[float, Estimate]], title: str) -> Markup:
    """For each bin of rows a dot: mean confidence along, share that was right (with its interval)
    up. Below it, its rows.

    A confidence that means what it says lies on the diagonal.
    """
    peak = max((right.n for _, right in bins), default=1)
    base = FLOOR + 12 + _STRIP
    dot = Markup('<circle class="blue" cx="{:.2f}%" cy="{:.1f}" r="4.5"><title>{}</title></circle>')
    rows = Markup(
        '<rect class="grey" x="{:.2f}%" y="{:.1f}" width="4%" height="{:.1f}"><title>{:,} '
        "rows</title></rect>"
    )
    diagonal = Markup(
        '<line class="axis" stroke-dasharray="5 4" x1="0" y1="{}" x2="100%" y2="{}"/>'
    ).format(FLOOR, _TOP)
    parts = []
    for confidence, right in bins:
        x = 100 * confidence
        if right.low is not None and right.high is not None:
            parts.append(
                draw_line("whisker blue", x, place_height(right.low), x, place_height(right.high))
            )
        said = f"confidence {confidence:.2f}, right {right} of {right.n:,} rows"
        parts.append(dot.format(x, place_height(right.value), said))
        tall = max(1.0, _STRIP * right.n / peak)
        parts.append(rows.format(min(max(x - 2, 0), 96), base - tall, tall, right.n))
    described = "; ".join(
        f"confidence {confidence:.2f}: right {right}, {right.n:,} rows"
        for confidence, right in bins
    )
    return draw_frame(
        base,
        title,
        described,
        [*draw_levels(1.0), diagonal, *parts],
        "share right",
        "confidence",
        12 + _STRIP,
    )


def draw_risk(
    coverage: Sequence[float],
    error: Sequence[Estimate],
    title: str,
    *,
    max_error: float | None = None,
    accepted: float | None = None,
) -> Markup:
    """The error among the accepted rows, the more of them are accepted, inside its band.

    ``coverage``: shares of the rows, rising; ``error``: one for each. ``max_error``: the promise,
    ``accepted``: the coverage at which it holds.
    """
    # The few rows at the far left have bands up to 1, which would press everything else to the
    # floor.
    reach = 1.1 * max([max_error or 0.0, *(one.value for one in error if one.n >= 20)])
    top = next((4 * step for step in (0.01, 0.02, 0.025, 0.05, 0.1, 0.2) if 4 * step >= reach), 1.0)
    parts = []
    band = Markup(
        '<rect class="grey" fill-opacity="0.35" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" '
        'height="{:.1f}"/>'
    )
    points = list(zip(coverage, error, strict=True))
    start = 0.0
    for share, one in points:
        if one.low is not None and one.high is not None:
            upper, lower = place_height(one.high / top), place_height(one.low / top)
            parts.append(band.format(100 * start, upper, 100 * (share - start), lower - upper))
        start = share
    parts += draw_levels(top)
    parts += draw_curve([(share, one.value / top) for share, one in points], "blue")
    if max_error is not None:
        parts.append(
            draw_line(
                "whisker orange",
                0,
                place_height(max_error / top),
                100,
                place_height(max_error / top),
            )
        )
        said = Markup(
            '<text x="{:.1f}%" y="{:.1f}">{}</text>'
        )  # right of the numbers, left of where the error rises
        crossed = accepted is not None and 0.17 < accepted < 0.5
        left = 100 * (accepted or 0.0) + 1.5 if crossed else 18
        parts.append(
            said.format(
                left, place_height(max_error / top) - 6, f"promised: at most {100 * max_error:g} %"
            )
        )
    if accepted is not None:
        parts.append(draw_line("whisker ink", 100 * accepted, _TOP, 100 * accepted, FLOOR))
    described = _describe_risk(points, max_error, accepted)
    return draw_frame(
        FLOOR, title, described, parts, "error among the accepted", "share of rows accepted", 0
    )


def _describe_risk(
    points: Sequence[tuple[float, Estimate]], max_error: float | None, accepted: float | None
) -> str:
    told = [
        f"{share:.0%} accepted: error {one}" for share, one in points[:: max(1, len(points) // 8)]
    ]
    told += [f"promised error {max_error:g}"] if max_error is not None else []
    return "; ".join(
        told + ([f"threshold at {accepted:.0%} accepted"] if accepted is not None else [])
    )


def draw_frame(
    base: float,
    title: str,
    described: str,
    parts: Iterable[Markup],
    up: str,
    along: str,
    below: int = 0,
    ticks: Mapping[float, str] = SHARES,
) -> Markup:
    """What is drawn, with its axes named. ``base``: where it ends, FLOOR where nothing is drawn
    below the axis; ``below``: pixels between the axis and its numbers; ``ticks``: these, by their
    places in [0, 1].
    """
    numbers = draw_ticks(FLOOR + below + 17, ticks)
    return Markup(
        '<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>'
        '<text class="quiet" x="100%" y="12" text-anchor="end">{}</text>{}'
        '<line class="axis" x1="0" x2="100%" y1="{}" y2="{}"/>{}<text class="quiet" x="50%" '
        'y="{}" text-anchor="middle">{}</text></svg>'
    ).format(
        int(base) + 42,
        title,
        described,
        up,
        Markup("").join(parts),
        FLOOR,
        FLOOR,
        numbers,
        FLOOR + below + 36,
        along,
    )


def draw_levels(
    top: float, write: Callable[[float], str] = lambda level: f"{100 * level:.3g} %"
) -> list[Markup]:
    """Lines across at quarters of ``top``, each with its number on it."""
    grid = Markup(
        '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/><text class="quiet" '
        'x="0" y="{1:.1f}">{2}</text>'
    )
    return [
        grid.format(place_height(at), place_height(at) - 4, write(at * top)) for at in TICKS[1:]
    ]


def draw_curve(points: Sequence[tuple[float, float]], tone: str) -> list[Markup]:
    """Lines between places in [0, 1], along and up; a dot where there is but one. ``tone``: a
    colour class.
    """
    if len(points) == 1:
        along, up = points[0]
        return [
            Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="4.5"/>').format(
                tone, 100 * along, place_height(up)
            )
        ]
    ends = pairwise((100 * along, place_height(up)) for along, up in points)
    return [draw_line(f"whisker {tone}", *left, *right) for left, right in ends]


def draw_line(tone: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """From one place to another; x in percent, y in pixels."""
    line = Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>')
    return line.format(tone, x1, y1, x2, y2)


def place_height(share: float) -> float:
    """Where a share of the height lies, in pixels; what is outside [0, 1] lies on the edge."""
    return FLOOR - _PLOT * min(1.0, max(0.0, share))
