"""Where the characters of a record's text come from: columns, and positions in their cells."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import jinja2
from jinja2 import nodes

from medtask.records import Record
from medtask.tables.cell_values import is_missing
from medtask.tasks.input_template import read_template
from medtask.tasks.template_sandbox import (
    ENVIRONMENT,
    BudgetTransformer,
    PieceSource,
    SourceTransformer,
    render_pieces,
)
from medtask.tasks.text_cleaning import clean_text_with_positions


@dataclass(frozen=True, slots=True)
class CellSpan:
    """A part of a cell as it was read: ``cell[start:end]`` is ``text``."""

    column: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class TextOrigins:
    """The origin of a record's text.

    Attributes:
        text: The cleaned text, as in `Prompt.text`.
        raw: The rendered text before it was cleaned.
        positions: The position in ``raw`` of each character of ``text``.
        pieces: The pieces of ``raw`` with their sources.
        starts: The position in ``raw`` of each piece.
        cells: The text of each cell.
    """

    text: str
    raw: str
    positions: Sequence[int]
    pieces: Sequence[tuple[str, PieceSource | None]]
    starts: Sequence[int]
    cells: Mapping[str, str]

    def locate(self, start: int, end: int) -> CellSpan | None:
        """The part of a cell that ``text[start:end]`` shows.

        None if it is not within one cell, or if the template changed the cell so that the place
        cannot be known.
        """
        if not 0 <= start < end <= len(self.positions):
            return None
        first, last = self.positions[start], self.positions[end - 1] + 1
        if self.raw[last - 1 : last + 1] == "\r\n":
            last += 1
        index = bisect_right(self.starts, first) - 1
        piece, source = self.pieces[index]
        first, last = first - self.starts[index], last - self.starts[index]
        if source is None or last > len(piece):
            return None
        columns = self.cells if source.columns is None else source.columns
        cells = {name: self.cells[name] for name in columns if name in self.cells}
        if source.verbatim and cells:
            return _cut(cells, next(iter(cells)), first, last)
        part = piece[first:last]
        return _find_piece(cells, piece, first, last) or _find_piece(cells, part, 0, len(part))


def trace_text(source: str, record: Record) -> TextOrigins | None:
    """The origin of the text that the input template ``source`` makes of a record.

    None if the template fails on the record.
    """
    try:
        pieces = render_pieces(
            _compile_traced(source), {**record.fields, "row": dict(record.fields)}
        )
    except Exception:  # any operator can be applied to values of any type here
        return None
    raw = "".join(piece for piece, _ in pieces)
    text, positions = clean_text_with_positions(raw)
    starts = list(accumulate((len(piece) for piece, _ in pieces[:-1]), initial=0))
    cells = {
        column: str(value)
        for column, value in record.fields.items()
        if not is_missing(value) and not isinstance(value, Mapping | list | tuple | bytes)
    }
    return TextOrigins(text, raw, positions, pieces, starts, cells)


@lru_cache(maxsize=64)
def _compile_traced(source: str) -> jinja2.Template:
    tree = ENVIRONMENT.parse(source)
    columns = read_template(source).columns
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}

    def find_source(expression: nodes.Expr) -> PieceSource:
        column = _get_column(expression)
        if column is not None and column not in assigned:
            return PieceSource((column,), verbatim=True)
        names = list(expression.find_all(nodes.Name))
        if isinstance(expression, nodes.Name):
            names.append(expression)
        if any(name.name in assigned for name in names):
            return PieceSource(None, verbatim=False)
        parts = [expression, *expression.find_all((nodes.Name, nodes.Getattr, nodes.Getitem))]
        used = [name for name in map(_get_column, parts) if name in columns]
        return PieceSource(tuple(dict.fromkeys(filter(None, used))) or None, verbatim=False)

    traced = SourceTransformer(find_source).visit(BudgetTransformer().visit(tree))
    return ENVIRONMENT.from_string(traced)


def _get_column(node: nodes.Node) -> str | None:
    """The column that an expression names; None for other expressions."""
    match node:
        case nodes.Name(name="row"):
            return None
        case nodes.Name(name=str(column)):
            return column
        case nodes.Getattr(node=nodes.Name(name="row"), attr=str(column)):
            return column
        case nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str(column))):
            return column
    return None


def _cut(cells: Mapping[str, str], column: str, start: int, end: int) -> CellSpan:
    return CellSpan(column, start, end, cells[column][start:end])


def _find_piece(cells: Mapping[str, str], piece: str, first: int, last: int) -> CellSpan | None:
    """The place of ``piece[first:last]`` in the only cell that has the piece, and has it once."""
    places = list(_find_places(cells, piece))
    if len(places) != 1:
        return None
    column, start = places[0]
    return _cut(cells, column, start + first, start + last)


def _find_places(cells: Mapping[str, str], part: str) -> Iterable[tuple[str, int]]:
    """Every place of a text in the cells, in capital or small letters."""
    small = part.lower()
    for column, cell in cells.items():
        folded = cell.lower()
        if len(folded) != len(cell) or len(small) != len(part):
            folded, small = cell, part
        place = folded.find(small)
        while small and place >= 0:
            yield column, place
            place = folded.find(small, place + 1)
