"""The rows of a data set for its preview, in a file from which any of them are read at once.

The file has blocks of rows, each compressed JSON, then their places, then the length of these.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from medtask.atomic_files import make_storage_error, replace_file
from medtask.errors import StorageError
from medtask.tables.table import Table
from medtask.tables.table_part import ReadStats, Row, TablePart

PREVIEW_FILE = "rows.preview"
MAX_CELL_LENGTH = 2_000
_BLOCK_ROWS = 500
_LENGTH = struct.Struct("<Q")


@contextmanager
def record_preview(table: Table, path: Path) -> Iterator[Table]:
    """Yield the table; the rows of its first iteration are written to ``path`` meanwhile.

    Raises:
        StorageError: The disk is full.
    """
    with replace_file(path) as draft, draft.open("wb") as file:
        writer = _PreviewWriter(file)
        yield replace(table, parts=tuple(_record(part, writer) for part in table.parts))
        writer.finish()


def read_preview(path: Path, offset: int, limit: int) -> list[dict[str, Any]] | None:
    """Some rows, with long texts cut; None if the data set has no preview file.

    Raises:
        StorageError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            places = _read_places(file)
            first, last = offset // _BLOCK_ROWS, (offset + limit - 1) // _BLOCK_ROWS
            rows = [
                row
                for place in places[first : last + 1]
                for row in json.loads(_read_block(file, *place))
            ]
    except (OSError, ValueError, zlib.error, struct.error) as error:
        raise StorageError(
            f"{path.name} of the data set is damaged", fix="upload the data set again"
        ) from error
    start = offset - first * _BLOCK_ROWS
    return rows[start : start + limit]


def shorten_row(row: Mapping[str, object]) -> dict[str, Any]:
    """A row as JSON values; long texts are cut."""
    return {column: _shorten(cell) for column, cell in row.items()}


@dataclass(slots=True)
class _PreviewWriter:
    file: IO[bytes]
    places: list[tuple[int, int]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    end: int = 0

    def add(self, row: Row) -> None:
        self.waiting.append(shorten_row(row))
        if len(self.waiting) == _BLOCK_ROWS:
            self._write_block()

    def finish(self) -> None:
        if self.waiting:
            self._write_block()
        index = json.dumps(self.places).encode()
        self.file.write(index + _LENGTH.pack(len(index)))

    def _write_block(self) -> None:
        block = zlib.compress(json.dumps(self.waiting).encode(), level=1)
        self.file.write(block)
        self.places.append((self.end, len(block)))
        self.end += len(block)
        self.waiting.clear()


def _record(part: TablePart, writer: _PreviewWriter) -> TablePart:
    def rows(stats: ReadStats) -> Iterator[Row]:
        for row in part.rows(stats):
            try:
                writer.add(row)
            except OSError as error:
                raise make_storage_error(Path(PREVIEW_FILE), error) from error
            yield row

    return replace(part, rows=rows)


def _read_places(file: IO[bytes]) -> list[tuple[int, int]]:
    file.seek(-_LENGTH.size, 2)
    end = file.tell()
    (length,) = _LENGTH.unpack(file.read())
    file.seek(end - length)
    return [(start, size) for start, size in json.loads(file.read(length))]


def _read_block(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return zlib.decompress(file.read(length))


def _shorten(cell: object) -> Any:
    if isinstance(cell, str):
        return cell if len(cell) <= MAX_CELL_LENGTH else f"{cell[:MAX_CELL_LENGTH]}…"
    return cell if cell is None or isinstance(cell, bool | int | float) else str(cell)
