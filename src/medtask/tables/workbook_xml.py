"""The XML parts of an XLSX workbook: sheets, number formats, and facts about the cells of a sheet.

Parts are read by expat, in time and memory that are proportional to their size.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from medtask.tables.excel_formats import ZeroFormat, parse_zero_format

_WHOLE_NUMBER = re.compile(r"(-?\d{1,20})(?:\.0+)?")
_LONG_NUMBER = re.compile(r"\d+|\d\.\d+[eE]\+?\d{2}")
_COLUMN = re.compile(r"[A-Z]{1,3}")
_MAX_ROW_LENGTH = 7
_MAX_NUMBER_LENGTH = 100
MAX_DIGITS = 15
"""Digits of a number that spreadsheets store exactly."""

MergedArea = tuple[tuple[int, int], tuple[int, int]]
"""The first and the last cell of a merged area: row and column from 0."""

_StartHandler = Callable[[str, dict[str, str]], None]


class DamagedXml(ValueError):
    """A part of a workbook is not well-formed, or is not there."""


@dataclass(slots=True)
class SheetFacts:
    """What the reader of workbooks does not report about a sheet.

    Attributes:
        errors: Cells with an Excel error.
        formulas: References of formulas without a stored result: the number, and the first.
        shown: Numbers as their format shows them, as (row from 1, column from 0, text), and
            booleans that are stored as numbers.
        last_row: The last row with a value, from 1.
        last_column: The last column with a value, from 0.
        last_cell: The reference of the cell that is farthest from the first one.
        merged: Merged areas, where the reader does not report them.
        note: What the format does not say, for users.
        hidden_rows: Hidden rows with a value, such as those that a filter hides.
        long_numbers: Whole numbers of more than 15 digits.
    """

    errors: int = 0
    formulas: tuple[int, str] = (0, "")
    shown: list[tuple[int, int, object]] = field(default_factory=list)
    last_row: int = 0
    last_column: int = 0
    last_cell: str = ""
    merged: list[MergedArea] = field(default_factory=list)
    note: str = ""
    hidden_rows: int = 0
    long_numbers: int = 0

    def describe(self) -> list[str]:
        """Notes on cells and rows that a user may not expect to be read as they are."""
        notes = []
        if self.errors:
            notes.append(
                f"cells with an Excel error such as #N/A, read as missing: {self.errors:,}"
            )
        if self.hidden_rows:
            notes.append(f"hidden rows, read like all others: {self.hidden_rows:,}")
        if self.long_numbers:
            notes.append(
                f"numbers of more than {MAX_DIGITS} digits: {self.long_numbers:,} (a spreadsheet "
                "replaces the further digits by zeros: such ids are text in their source)"
            )
        return notes


def list_sheet_parts(archive: zipfile.ZipFile) -> list[str]:
    """The names of the parts of the sheets, in the order of the sheets."""
    targets: dict[str, str] = {}
    relations: list[str] = []

    def add_target(name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship":
            targets[attributes.get("Id", "")] = attributes.get("Target", "")

    def add_sheet(name: str, attributes: dict[str, str]) -> None:
        if name == "sheet":
            # The prefix of the namespace is "r" in most files.
            key = next((key for key in attributes if key.endswith(":id")), "")
            relations.append(attributes.get(key, ""))

    _parse(archive, "xl/_rels/workbook.xml.rels", add_target)
    _parse(archive, "xl/workbook.xml", add_sheet)
    if not all(targets.get(relation) for relation in relations):
        raise DamagedXml("a sheet without its part")
    found = [targets[relation] for relation in relations]
    return [target[1:] if target.startswith("/") else f"xl/{target}" for target in found]


def read_zero_formats(archive: zipfile.ZipFile) -> dict[str, ZeroFormat]:
    """The number formats of literal text and zeros, by the number of the cell style."""
    if "xl/styles.xml" not in archive.namelist():
        return {}
    codes: dict[str, ZeroFormat] = {}
    styles: list[str] = []
    parent = ""

    def add(name: str, attributes: dict[str, str]) -> None:
        nonlocal parent
        if name == "numFmt":
            if found := parse_zero_format(attributes.get("formatCode", "")):
                codes[attributes.get("numFmtId", "")] = found
        elif name in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
            parent = name
        elif name == "xf" and parent == "cellXfs":
            styles.append(attributes.get("numFmtId", ""))

    _parse(archive, "xl/styles.xml", add)
    return {
        str(number): codes[format_id]
        for number, format_id in enumerate(styles)
        if format_id in codes
    }


def scan_sheet(
    archive: zipfile.ZipFile, part: str, formats: Mapping[str, ZeroFormat]
) -> SheetFacts:
    """Read the facts about a sheet from its part."""
    scan = _SheetScan(formats)
    _parse(archive, part, scan.start_element, scan.add_text)
    scan.end_cell()
    return scan.facts


class _SheetScan:
    """Handlers of a sheet's elements. A cell is complete when the next one begins."""

    def __init__(self, formats: Mapping[str, ZeroFormat]) -> None:
        self.facts = SheetFacts()
        self._formats = formats
        self._cell: dict[str, str] = {}
        self._has_formula = self._has_value = self._is_in_value = False
        self._is_hidden = False
        self._value = ""
        self._columns: dict[str, int] = {}

    def start_element(self, name: str, attributes: dict[str, str]) -> None:
        self._is_in_value = False
        if name == "c":
            self.end_cell()
            self._cell = attributes
        elif name == "row":
            self.end_cell()
            self._cell = {}
            self._is_hidden = attributes.get("hidden") in ("1", "true")
        elif name == "v":
            self._has_value = self._is_in_value = True
        elif name == "is":
            self._has_value = True
        elif name == "f":
            self._has_formula = True

    def add_text(self, text: str) -> None:
        if self._is_in_value and len(self._value) < _MAX_NUMBER_LENGTH:
            self._value += text

    def end_cell(self) -> None:
        cell = self._cell
        kind = cell.get("t", "n")
        if kind == "e":
            self.facts.errors += 1
        # A formula that gave "" has the type "str".
        if self._has_formula and kind != "str" and not self._value.strip() and "r" in cell:
            count, first = self.facts.formulas
            self.facts.formulas = count + 1, first or cell["r"]
        if self._has_value:
            self._add_value(cell.get("r", ""), kind)
            self.facts.hidden_rows += self._is_hidden
            self._is_hidden = False
            self.facts.long_numbers += kind == "n" and is_long_number(self._value)
        self._has_formula = self._has_value = False
        self._value = ""

    def _add_value(self, reference: str, kind: str) -> None:
        letters = reference.rstrip("0123456789")
        row = reference[len(letters) :]
        column = self._columns.get(letters)
        if column is None:
            column = self._columns[letters] = _parse_column(letters)
        # Cells without a reference are next to the one before.
        if column < 0 or not 0 < len(row) <= _MAX_ROW_LENGTH:
            return
        facts, number = self.facts, int(row)
        if number > facts.last_row or column > facts.last_column:
            facts.last_cell = reference
            facts.last_row = max(facts.last_row, number)
            facts.last_column = max(facts.last_column, column)
        if (
            kind == "n"
            and (found := self._formats.get(self._cell.get("s", "")))
            and (whole := _WHOLE_NUMBER.fullmatch(self._value.strip()))
        ):
            facts.shown.append((number, column, found.apply(int(whole[1]))))


def is_long_number(text: str) -> bool:
    """Whether a number, as a workbook stores it, is whole and has more digits than are exact."""
    if len(text) <= MAX_DIGITS or not _LONG_NUMBER.fullmatch(text):
        return False
    return float(text) >= 10.0**MAX_DIGITS


def _parse_column(letters: str) -> int:
    """The place of a column from 0; -1 if the letters are not those of a column."""
    if not _COLUMN.fullmatch(letters):
        return -1
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _parse(
    archive: zipfile.ZipFile,
    part: str,
    start_element: _StartHandler,
    add_text: Callable[[str], None] | None = None,
) -> None:
    """Pass the elements of a part to the handlers, with names without their prefix."""
    local_names: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        local = local_names.get(name)
        if local is None:
            local = local_names[name] = name.rpartition(":")[2]
        start_element(local, attributes)

    parse_part(archive, part, make_parser(start, add_text))


def make_parser(
    start_element: _StartHandler,
    add_text: Callable[[str], None] | None = None,
    *,
    namespace_separator: str | None = None,
) -> expat.XMLParserType:
    """A parser that calls the handlers, and refuses document types: entities can grow."""

    def refuse_doctype(*_: object) -> None:
        raise DamagedXml("a document type")

    parser = expat.ParserCreate(namespace_separator=namespace_separator)
    parser.buffer_text = True
    parser.StartElementHandler = start_element
    parser.StartDoctypeDeclHandler = refuse_doctype
    if add_text:
        parser.CharacterDataHandler = add_text
    return parser


def parse_part(archive: zipfile.ZipFile, part: str, parser: expat.XMLParserType) -> None:
    """Parse a part of a workbook.

    Raises:
        DamagedXml: It is not well-formed, or is not there.
    """
    try:
        with archive.open(part) as stream:
            parser.ParseFile(stream)
    except (expat.ExpatError, LookupError) as error:  # also an encoding that does not exist
        raise DamagedXml("not a well-formed part") from error
