"""Facts about the sheets of an ODS file (LibreOffice): merged areas, booleans, and ids as shown."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from medtask.display import format_count
from medtask.tables.binary_files import make_damaged_error
from medtask.tables.table_part import make_table_error
from medtask.tables.workbook_xml import (
    SheetFacts,
    is_long_number,
    make_parser,
    parse_part,
)

MAX_CELLS = 20_000_000
"""Maximum number of cells with a value, with the repeated ones."""

_URN = "urn:oasis:names:tc:opendocument:xmlns:"
_TABLE, _ROW = f"{_URN}table:1.0 table", f"{_URN}table:1.0 table-row"
_CELLS = (f"{_URN}table:1.0 table-cell", f"{_URN}table:1.0 covered-table-cell")
_PARAGRAPH = f"{_URN}text:1.0 p"
_SHOWN_ID = re.compile(r"[^\d.,]*0\d+|[^\W\d_][^\d.,]*\d+")  # 000123, P-0123
_ERROR = re.compile(r"#(N/A|REF!|DIV/0!|NAME\?|VALUE!|NUM!|NULL!)|Err:\d+")


def read_ods_sheets(path: Path) -> list[SheetFacts]:
    """The facts about all sheets, in the order of the sheets.

    Raises:
        TableError: The file is damaged, or has too many cells.
    """
    reader = _ContentReader()
    parser = make_parser(reader.start, reader.add_text, namespace_separator=" ")
    parser.EndElementHandler = reader.end
    try:
        with zipfile.ZipFile(path) as archive:
            parse_part(archive, "content.xml", parser)
    except ValueError as error:
        raise make_damaged_error(path, "an ODS workbook") from error
    if reader.cells > MAX_CELLS:
        raise make_table_error(
            path,
            f"it has {format_count(reader.cells, 'cell')} with the repeated ones; the limit is "
            f"{MAX_CELLS:,}",
            fix="save the sheet as CSV",
        )
    return reader.sheets


@dataclass(slots=True)
class _ContentReader:
    """Handlers of the elements in content.xml, with the details of the sheets and their cells."""

    sheets: list[SheetFacts] = field(default_factory=list)
    cells: int = 0
    _depth: int = 0  # of tables: a cell can contain one
    _row: int = 0
    _row_repeats: int = 1
    _is_hidden: bool = False
    _column: int = 0
    _cell: dict[str, str] | None = None
    _text: list[str] = field(default_factory=list)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == _TABLE:
            self._depth += 1
            if self._depth == 1:
                self.sheets.append(SheetFacts())
                self._row = 0
        elif self._depth != 1:
            return
        elif name == _ROW:
            self._column = 0
            self._row_repeats = _read_count(attributes, "table:1.0 number-rows-repeated")
            self._is_hidden = _get(attributes, "table:1.0 visibility") in ("collapse", "filter")
        elif name in _CELLS:
            self._cell, self._text = attributes, []
        elif name == _PARAGRAPH and self._cell is not None and self._text:
            self._text.append("\n")

    def add_text(self, text: str) -> None:
        if self._cell is not None:
            self._text.append(text)

    def end(self, name: str) -> None:
        if name == _TABLE:
            self._depth -= 1
        elif self._depth != 1:
            return
        elif name == _ROW:
            self._row += self._row_repeats
        elif name in _CELLS and self._cell is not None:
            self._end_cell(self._cell, "".join(self._text))
            self._cell = None

    def _end_cell(self, cell: dict[str, str], text: str) -> None:
        repeats = _read_count(cell, "table:1.0 number-columns-repeated")
        kind = _get(cell, "office:1.0 value-type")
        has_formula = _get(cell, "table:1.0 formula") is not None
        sheet = self.sheets[-1]
        if kind or text:
            self.cells += repeats * self._row_repeats
            sheet.hidden_rows += self._row_repeats * self._is_hidden
            self._is_hidden = False
        if kind == "float" and is_long_number(_get(cell, "office:1.0 value") or ""):
            sheet.long_numbers += repeats * self._row_repeats
        rows = _read_count(cell, "table:1.0 number-rows-spanned")
        columns = _read_count(cell, "table:1.0 number-columns-spanned")
        if rows > 1 or columns > 1:
            last = (self._row + rows - 1, self._column + columns - 1)
            sheet.merged.append(((self._row, self._column), last))
        if has_formula and kind is None and not text:
            sheet.formulas = (sheet.formulas[0] + 1, "")
        sheet.errors += has_formula and bool(_ERROR.fullmatch(text))
        value = _read_shown(kind, cell, text)
        if value is not None and self.cells <= MAX_CELLS:
            self._add_shown(value, repeats)
        self._column += repeats

    def _add_shown(self, value: object, repeats: int) -> None:
        self.sheets[-1].shown += [
            (row, column, value)
            for row in range(self._row + 1, self._row + 1 + self._row_repeats)
            for column in range(self._column, self._column + repeats)
        ]


def _read_shown(kind: str | None, cell: dict[str, str], text: str) -> object:
    """The boolean or the id that a number stands for; None for other cells."""
    if kind == "boolean":
        return _get(cell, "office:1.0 boolean-value") == "true"
    if kind != "float" or not _SHOWN_ID.fullmatch(text):
        return None
    value = _get(cell, "office:1.0 value") or ""
    return text if value.lstrip("-").isdigit() else None


def _get(attributes: dict[str, str], name: str) -> str | None:
    return attributes.get(f"{_URN}{name}")


def _read_count(attributes: dict[str, str], name: str) -> int:
    """A number of repetitions or spanned cells; 1 if there is none.

    Raises ValueError if it is not a number.
    """
    return max(1, int(_get(attributes, name) or 1))
