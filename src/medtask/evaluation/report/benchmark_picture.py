"""The picture of a benchmark: rows per second and peak memory by batch size, with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.atomic_files import replace_file
from medtask.display import shorten
from medtask.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_FORMATS = (".svg", ".png")
# Colours that differ for every kind of colour vision (Okabe and Ito, 2008), and shapes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MAX_LINEAR_RATIO = 20  # values that differ by more are shown on a logarithmic axis
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, slots=True)
class SpeedCurve:
    """The measurements of one model.

    Attributes:
        name: The name of the model.
        unit: What sizes count: "tokens" or "rows"; None if there is one measurement without a size.
        sizes: The batch sizes.
        rows_per_s: Rows per second of each size.
        memory_bytes: Peak memory of each size; None if not known.
        chosen: The size that runs use.
    """

    name: str
    unit: str | None
    sizes: Sequence[int]
    rows_per_s: Sequence[float]
    memory_bytes: Sequence[int | None]
    chosen: int | None


def check_picture(path: Path) -> None:
    """Check that a picture of this name can be drawn.

    Raises:
        UsageError: The name does not end in .svg or .png.
        MissingExtra: matplotlib is not installed.
    """
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(
            f"{path} is not a valid name for a picture",
            fix=f"use a name that ends in .svg or .png, such as {path.with_suffix('.svg')}",
        )
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib is not installed", fix="pip install 'medtask[plot]'")


def draw_curves(title: str, curves: Sequence[SpeedCurve], path: Path) -> None:
    """Draw the curves into an SVG or PNG file, which is replaced atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    speed, memory = figure.subplots(1, 2)
    figure.suptitle(shorten(title, 80))
    _draw_panel(speed, curves, lambda curve: curve.rows_per_s, "rows per second")
    _draw_panel(
        memory,
        curves,
        lambda curve: [None if one is None else one / 1e9 for one in curve.memory_bytes],
        "peak memory, GB",
    )
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    # Texts of an SVG stay texts, and equal measurements give equal files.
    settings: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "medtask"}
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    from matplotlib import rc_context

    with rc_context(settings), replace_file(path) as draft:
        figure.savefig(draft, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)


def _draw_panel(
    axes: Axes,
    curves: Sequence[SpeedCurve],
    get_values: Callable[[SpeedCurve], Sequence[float | None]],
    label: str,
) -> None:
    ticks: set[int] = set()
    shown: list[float] = []
    for place, curve in enumerate(curves):
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        values = get_values(curve)
        known = [
            (size, value)
            for size, value in zip(curve.sizes, values, strict=True)
            if value is not None
        ]
        if not known:
            continue
        shown += [value for _, value in known]
        name = shorten(curve.name, 60)
        if curve.unit is None:  # without a batch size, the speed is a line across the panel
            axes.axhline(known[0][1], color=colour, linestyle="--", label=name)
            continue
        ticks.update(curve.sizes)
        axes.plot(*zip(*known, strict=True), color=colour, marker=marker, markersize=5, label=name)
        for size, value in known:
            if size == curve.chosen:
                axes.plot([size], [value], "o", markersize=13, markerfacecolor="none", color=colour)
                axes.annotate(
                    f"{size:,}", (size, value), (0, 9), textcoords="offset points", ha="center"
                )
    if ticks:
        axes.set_xscale("log", base=2)
        labels = [f"{tick:,}" for tick in sorted(ticks)]
        axes.set_xticks(sorted(ticks), labels, rotation=45 if len(ticks) > 6 else 0)
        axes.minorticks_off()
    units = " or ".join(dict.fromkeys(curve.unit for curve in curves if curve.unit))
    axes.set_xlabel(f"{units} read together; runs use the circled size" if units else "")
    axes.set_ylabel(label)
    if shown and max(shown) > MAX_LINEAR_RATIO * min(shown):
        axes.set_yscale("log")
        axes.margins(y=0.2)
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:,g}")
    elif shown:
        axes.set_ylim(0, 1.2 * max(shown))
    axes.grid(visible=True, axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
