"""Blocks of report sections, rendered by the templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from markupsafe import Markup

from medtask.evaluation.presentation.plots import HistogramLayer

# Classes of the style sheet: numbers, short words, sentences, labels
ColumnStyle = Literal["", "n", "v", "w", "l"]
TableCell = str | tuple[str, str]  # with a second, less prominent line


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph; ``tone`` are classes of the style sheet."""

    draw: ClassVar[str] = "text"
    body: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    draw: ClassVar[str] = "heading"
    body: str


@dataclass(frozen=True, slots=True)
class BarRow:
    """One bar: ``length`` in [0, 1], followed by ``cells``."""

    name: str
    length: float
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BarChart:
    """A bar for each name; ``head`` has the titles of the names and the cells."""

    draw: ClassVar[str] = "bars"
    head: tuple[str, ...]
    lines: tuple[BarRow, ...]


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table.

    ``head`` has the title and alignment of each column; the first column names the rows.
    """

    draw: ClassVar[str] = "table"
    about: str
    head: tuple[tuple[str, ColumnStyle], ...]
    lines: Sequence[Sequence[TableCell]]
    caption: str = ""

    def cut(self, limit: int) -> ReportTable:
        """The first rows, with the caption; all rows without it if there are no more."""
        if len(self.lines) <= limit:
            return replace(self, caption="")
        return replace(self, lines=self.lines[:limit])


@dataclass(frozen=True, slots=True)
class ConfusionTableRow:
    """One row; each cell has its number of rows and its CSS classes."""

    name: str
    cells: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """Gold by answer: a numbered column per row, one for ``others`` if any, one for no answer."""

    draw: ClassVar[str] = "matrix"
    lines: tuple[ConfusionTableRow, ...]
    others: int


@dataclass(frozen=True, slots=True)
class ReportPlot:
    draw: ClassVar[str] = "picture"
    caption: str
    drawn: Markup
    layers: tuple[HistogramLayer, ...] = ()


ReportBlock = Paragraph | Heading | BarChart | ReportTable | ConfusionTable | ReportPlot


@dataclass(frozen=True, slots=True)
class ReportSection:
    """One section of a report: its heading (a question), and blocks that answer it."""

    title: str
    blocks: Sequence[ReportBlock]
