"""Numbers of a sheet that are shown with leading zeros or fixed letters: 00123, P-0123.

The reader of workbooks returns their values, 123, without the format. Ids are what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_CELL = re.compile(
    rb"<(?:\w+:)?c ([^>]*)>\s*(?:<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*)?"
    rb"<(?:\w+:)?v>(-?\d+)(?:\.0+)?</(?:\w+:)?v>"
)
_FORMAT = re.compile(rb"<(?:\w+:)?numFmt [^>]*>")
_CELL_STYLES = re.compile(rb"<(?:\w+:)?cellXfs\b.*?</(?:\w+:)?cellXfs>", re.DOTALL)
_STYLE = re.compile(rb"<(?:\w+:)?xf\b[^>]*>")
_ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')
_REFERENCE = re.compile(rb"([A-Z]+)(\d+)")
# Literal text is quoted, or one character after a backslash; these need neither.
_LITERAL = re.compile(r'"([^"]*)"|\\(.)|([- ()])')
_ZEROS = re.compile(r"0+")
_ENTITIES = {"&quot;": '"', "&apos;": "'", "&lt;": "<", "&gt;": ">", "&amp;": "&"}


@dataclass(frozen=True, slots=True)
class ZeroFormat:
    """A number format of literal text and zeros.

    Attributes:
        parts: Literal texts and runs of zeros, in order.
    """

    parts: tuple[str, ...]

    def apply(self, number: int) -> str:
        """The number as it is shown: digits fill the zeros from the right."""
        width = sum(len(part) for part in self.parts if _ZEROS.fullmatch(part))
        digits = f"{abs(number):0{width}}"
        extra = len(digits) - width
        shown, position = "", 0
        for part in self.parts:
            if _ZEROS.fullmatch(part):
                size = len(part) + (extra if position == 0 else 0)
                shown += digits[position : position + size]
                position += size
            else:
                shown += part
        return f"-{shown}" if number < 0 else shown


def parse_zero_format(code: str) -> ZeroFormat | None:
    """The format of such a code: 00000, "P-"0000, 000\\-000; None for all others."""
    code = re.sub(r"^\[\$[^\]]*\]", "", code.split(";")[0])
    parts: list[str] = []
    position = 0
    while position < len(code):
        if zeros := _ZEROS.match(code, position):
            parts.append(zeros[0])
            position = zeros.end()
        elif literal := _LITERAL.match(code, position):
            # A literal zero would be taken for a digit.
            text = literal[1] or literal[2] or literal[3] or ""
            if _ZEROS.search(text):
                return None
            parts.append(text)
            position = literal.end()
        else:
            return None
    zeros_and_text = [part for part in parts if part]
    width = sum(len(part) for part in zeros_and_text if _ZEROS.fullmatch(part))
    # 0 "mg" is a quantity with its unit, not an id.
    is_id = width > 1 or (width == 1 and not _ZEROS.fullmatch(zeros_and_text[0]))
    return ZeroFormat(tuple(zeros_and_text)) if is_id else None


def read_zero_formats(styles_xml: bytes) -> dict[bytes, ZeroFormat]:
    """The formats of zeros in xl/styles.xml, by the number of the cell style."""
    codes: dict[bytes, ZeroFormat] = {}
    for element in _FORMAT.findall(styles_xml):
        attributes = dict(_ATTRIBUTE.findall(element))
        code = attributes.get(b"formatCode", b"").decode("utf-8", "replace")
        for entity, character in _ENTITIES.items():
            code = code.replace(entity, character)
        if found := parse_zero_format(code):
            codes[attributes.get(b"numFmtId", b"")] = found
    styles = _CELL_STYLES.search(styles_xml)
    if not codes or styles is None:
        return {}
    return {
        str(number).encode(): codes[format_id]
        for number, element in enumerate(_STYLE.findall(styles[0]))
        if (format_id := dict(_ATTRIBUTE.findall(element)).get(b"numFmtId", b"")) in codes
    }


def list_shown_numbers(
    sheet_xml: bytes, formats: Mapping[bytes, ZeroFormat]
) -> Iterator[tuple[int, int, str]]:
    """Row from 1, column from 0 and shown text of each cell with one of the formats."""
    for cell in _CELL.finditer(sheet_xml):
        attributes = dict(_ATTRIBUTE.findall(cell[1]))
        found = formats.get(attributes.get(b"s", b""))
        place = _REFERENCE.fullmatch(attributes.get(b"r", b""))
        if found and place and attributes.get(b"t", b"n") == b"n":
            column = 0
            for letter in place[1]:
                column = column * 26 + letter - 64
            yield int(place[2]), column - 1, found.apply(int(cell[2]))
