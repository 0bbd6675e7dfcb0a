"""Elements of small plots as inline SVG without scripts; all texts are escaped by Markup.

Positions on x are percentages and there is no viewBox, so that a plot is as wide as its column, on
paper and on a phone, while its text keeps its size. Positions on y are pixels. ``css_class`` is a
class of the style sheet, such as a colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from markupsafe import Markup

from medtask.evaluation.statistics.intervals import Metric

AXIS_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
TICK_LABELS = {tick: f"{tick:g}" for tick in AXIS_TICKS}
ROW_HEIGHT = 46  # height of one row of `draw_interval_row`
_ROW_CENTRE = 32  # distance of the dot from the top of its row

_TEXT = Markup('<text class="{}" x="{:.6g}%" y="{:.1f}" text-anchor="{}">{}</text>')
_LINE = Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>')
_DOT = Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="5">{}</circle>')
_RECT = Markup('<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}">{}</rect>')
_PLOT = Markup('<svg class="plot" height="{}" role="img"><title>{}</title><desc>{}</desc>{}</svg>')


def draw_plot(height: int, title: str, description: str, parts: Iterable[Markup]) -> Markup:
    """A plot; ``description`` is its alternative text."""
    return _PLOT.format(height, title, description, join_parts(parts))


def join_parts(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def draw_text(
    x: float, y: float, text: str, css_class: str = "quiet", anchor: str = "start"
) -> Markup:
    """A text whose ``anchor`` (start, middle or end) is at x."""
    return _TEXT.format(css_class, x, y, anchor, text)


def draw_line(css_class: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line."""
    return _LINE.format(css_class, x1, y1, x2, y2)


def draw_dot(css_class: str, x: float, y: float, tooltip: str = "") -> Markup:
    """A dot."""
    return _DOT.format(css_class, x, y, _draw_tooltip(tooltip))


def draw_rect(
    css_class: str, corner: tuple[float, float], size: tuple[float, float], tooltip: str = ""
) -> Markup:
    """A rectangle with its upper left ``corner`` (x, y) and its ``size`` (width, height)."""
    return _RECT.format(css_class, *corner, *size, _draw_tooltip(tooltip))


def draw_ticks(y: float, ticks: Mapping[float, str] = TICK_LABELS) -> Markup:
    """The numbers of an axis by position in [0, 1]."""
    anchors = {0.0: "start", 1.0: "end"}
    return join_parts(
        draw_text(100 * at, y, name, anchor=anchors.get(at, "middle")) for at, name in ticks.items()
    )


def draw_interval_row(
    position: int, texts: tuple[str, str], metric: Metric, to_x: Callable[[float], float], tone: str
) -> list[Markup]:
    """A dot with whiskers, with the texts above it on the left and on the right.

    Args:
        position: The number of rows above it.
        texts: The name, and the value.
        metric: The value with its interval.
        to_x: The position of a value.
        tone: The colour class.
    """
    y = ROW_HEIGHT * position + _ROW_CENTRE
    parts = [draw_text(0, y - 14, texts[0], ""), draw_text(100, y - 14, texts[1], "figure", "end")]
    if metric.low is not None and metric.high is not None:
        parts.append(draw_line(f"whisker {tone}", to_x(metric.low), y, to_x(metric.high), y))
    return [*parts, draw_dot(tone, to_x(metric.value), y)]


def _draw_tooltip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")
