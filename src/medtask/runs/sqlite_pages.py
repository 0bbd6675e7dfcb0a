"""Reads the records of a SQLite file page by page, for files that SQLite itself cannot read.

SQLite finds a row through the pages above it. If one of these is damaged, it reports the whole file
as malformed. Here every page is read as if it were a leaf, so that one damaged page affects only
its own rows. Callers verify the records: pages of other tables, and earlier copies of a page, are
read too. Format: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_PAGE_BYTES = 4096
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
_FILE_HEADER_BYTES, _PAGE_HEADER_BYTES = 100, 8
_INDEX_LEAF = 10  # type of a page with index entries, which have no row number
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)  # by serial type
_FLOAT, _ZERO, _ONE, _FIRST_BLOB = 7, 8, 9, 12


class PageRecord(NamedTuple):
    """A record of a page. ``row`` is the row number, None for an index entry."""

    row: int | None
    values: tuple[Any, ...]


def read_page_records(path: Path, columns: int) -> Iterator[PageRecord]:
    """Yield every readable record of a table with ``columns`` columns, and every index entry.

    Args:
        path: The SQLite file. It may be truncated or damaged anywhere.
        columns: Number of columns of the table.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(_FILE_HEADER_BYTES).ljust(_FILE_HEADER_BYTES, b"\0")
        stated_bytes = int.from_bytes(header[16:18]) or 1
        stated_bytes = 65536 if stated_bytes == 1 else stated_bytes
        # The header can be damaged too, so its page size is tried beside the default.
        layouts = {(DEFAULT_PAGE_BYTES, 0)}
        if stated_bytes in _PAGE_SIZES:
            layouts |= {(stated_bytes, 0), (stated_bytes, header[20])}
        for page_bytes, reserved_bytes in sorted(layouts):
            reader = _PageReader(file, page_bytes, page_bytes - reserved_bytes, columns)
            yield from reader.read_records()


class _PageReader:
    def __init__(self, file: Any, page_bytes: int, usable_bytes: int, columns: int) -> None:
        self.file = file
        self.page_bytes = page_bytes
        self.usable_bytes = usable_bytes
        self.columns = columns
        self.file_bytes = file.seek(0, 2)

    def read_records(self) -> Iterator[PageRecord]:
        number = 1
        while page := self._read_page(number):
            header = _FILE_HEADER_BYTES if number == 1 else 0
            is_index = page[header] == _INDEX_LEAF
            count = int.from_bytes(page[header + 3 : header + 5])
            start = header + _PAGE_HEADER_BYTES
            for place in range(start, min(start + 2 * count, self.page_bytes - 1), 2):
                offset = int.from_bytes(page[place : place + 2])
                try:
                    yield self._read_cell(page, offset, is_index=is_index)
                except (ValueError, IndexError, struct.error):
                    continue
            number += 1

    def _read_page(self, number: int) -> bytes:
        """The page, filled up with zeros if the file ends in it; empty after the file's end."""
        self.file.seek((number - 1) * self.page_bytes)
        content: bytes = self.file.read(self.page_bytes)
        return content.ljust(self.page_bytes, b"\0") if content else b""

    def _read_cell(self, page: bytes, offset: int, *, is_index: bool) -> PageRecord:
        size, offset = _read_varint(page, offset)
        if size > self.file_bytes:  # a damaged size would follow a chain of pages for ever
            raise ValueError
        row = None
        if not is_index:
            row, offset = _read_varint(page, offset)
        payload = self._read_payload(page, offset, size, is_index=is_index)
        values = _parse_record(payload, 2 if is_index else self.columns)
        return PageRecord(row, values)

    def _read_payload(self, page: bytes, offset: int, size: int, *, is_index: bool) -> bytes:
        """The content of a record, whose end may be on a chain of other pages."""
        usable = self.usable_bytes
        limit = (usable - 12) * 64 // 255 - 23 if is_index else usable - 35
        if size <= limit:
            return page[offset : offset + size]
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        local = local if local <= limit else least
        parts = [page[offset : offset + local]]
        missing = size - local
        following = int.from_bytes(page[offset + local : offset + local + 4])
        while missing > 0:
            content = self._read_page(following) if following else b""
            if not content:
                raise ValueError
            parts.append(content[4 : 4 + min(missing, usable - 4)])
            missing -= usable - 4
            following = int.from_bytes(content[:4])
        return b"".join(parts)


def _parse_record(payload: bytes, columns: int) -> tuple[Any, ...]:
    header_bytes, place = _read_varint(payload, 0)
    kinds = []
    while place < header_bytes:
        kind, place = _read_varint(payload, place)
        kinds.append(kind)
    if len(kinds) != columns or place != header_bytes:
        raise ValueError
    values = []
    for kind in kinds:
        width = _measure_value(kind)
        content = payload[place : place + width]
        if len(content) != width:
            raise ValueError
        values.append(_decode_value(kind, content))
        place += width
    return tuple(values)


def _measure_value(kind: int) -> int:
    if kind >= _FIRST_BLOB:
        return (kind - _FIRST_BLOB) // 2
    if kind < len(_INTEGER_BYTES):
        return _INTEGER_BYTES[kind]
    if kind in {_FLOAT, _ZERO, _ONE}:
        return 8 if kind == _FLOAT else 0
    raise ValueError


def _decode_value(kind: int, content: bytes) -> Any:
    if kind >= _FIRST_BLOB:
        return content.decode("utf-8", "replace") if kind % 2 else content
    if kind == 0:
        return None
    if kind == _FLOAT:
        return struct.unpack(">d", content)[0]
    return kind - _ZERO if kind in {_ZERO, _ONE} else int.from_bytes(content, signed=True)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """A number of one to nine bytes, and the offset after it."""
    number = 0
    for place in range(8):
        byte = data[offset + place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, offset + place + 1
    return number << 8 | data[offset + 8], offset + 9
