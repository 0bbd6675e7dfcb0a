"""Input tables (`Table`) and columns of output tables (`Column`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from medtask.display import format_list, format_path
from medtask.errors import TableError
from medtask.tables.cell_values import format_canonical_json
from medtask.tables.encoding import open_bytes
from medtask.tables.missing import mark_missing
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import ReadStats, Row, TablePart

WORKBOOK_SUFFIXES = (".xlsx", ".xlsm", ".ods", ".xls")
"""Suffixes of workbooks."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows can be iterated repeatedly without loading all of them into memory.

    Workbooks and JSON files are the exception: they are loaded as a whole.

    Attributes:
        source: The table as the user named it.
        paths: Its files; empty for objects in memory.
        columns: Names of the columns.
        notes: Facts about the files for users, such as encoding, delimiter and sheet.
        parts: The files of the table.
        options: How the files were read.
        change_rows: Changes rows that repeat an id; see `resolve_repeated_ids`.
        id_note: How many rows that concerns, for users; "" for none.
    """

    source: str
    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    parts: tuple[TablePart, ...] = field(repr=False, compare=False)
    options: ReadOptions = DEFAULT_READ_OPTIONS
    change_rows: Callable[[Iterator[Row]], Iterator[Row]] | None = field(
        default=None, repr=False, compare=False
    )
    id_note: str = field(default="", compare=False)

    def rows(self, stats: ReadStats | None = None) -> Iterator[Row]:
        """Iterate over the rows, each a dict with all columns.

        Cells without a value are None, words for missing values are `MissingText`.

        Args:
            stats: Counts of skipped lines, updated during iteration.

        Raises:
            TableError: A row cannot be read without loss; the message names its line.
        """
        rows = self._read_rows(0, stats or ReadStats())
        return self.change_rows(rows) if self.change_rows else rows

    def rows_from(self, first: int) -> Iterator[Row]:
        """Iterate over the rows from row ``first``, counted from 1; see `rows`.

        Parquet files, and the parts of them, that end before it are not read.
        """
        if self.change_rows:
            return islice(self.rows(), first - 1, None)
        return self._read_rows(first - 1, ReadStats())

    def _read_rows(self, skipped: int, stats: ReadStats) -> Iterator[Row]:
        words = self.options.missing_words
        for part in self.parts:
            if part.height is not None and part.height <= skipped:
                skipped -= part.height
                continue
            if skipped and part.rows_after is not None:
                rows = part.rows_after(skipped)
                skipped = 0
            else:
                rows = part.rows(stats)
                while skipped and next(rows, None) is not None:
                    skipped -= 1
            is_ordered = part.columns == self.columns
            for row in rows:
                ordered = row if is_ordered else {column: row[column] for column in self.columns}
                yield mark_missing(ordered, words)

    @property
    def guess_notes(self) -> tuple[str, ...]:
        """What was guessed about the files, one sentence for each guess."""
        notes: dict[str, list[str]] = {}
        for path, part in zip(self.paths, self.parts, strict=False):
            if part.guess_note:
                notes.setdefault(part.guess_note, []).append(format_path(path))
        return tuple(f"{format_list(paths)}: {note}" for note, paths in notes.items())

    def explain_missing(self, columns: Collection[str]) -> TableError | None:
        """The error if columns are in another row or sheet than the header; None if in none."""
        header = self.parts[0].header
        return header.explain_missing(columns) if header else None

    @property
    def from_spreadsheet(self) -> bool:
        """Whether a file was written by a spreadsheet, see `TablePart`."""
        return any(part.from_spreadsheet for part in self.parts)

    @property
    def is_workbook(self) -> bool:
        """Whether all files are workbooks (XLSX, ODS or XLS)."""
        return bool(self.paths) and all(
            path.suffix.lower() in WORKBOOK_SUFFIXES for path in self.paths
        )

    @property
    def header_place(self) -> str:
        """The file, sheet and row of the column names; "" for formats without a header."""
        header = self.parts[0].header
        return header.place if header else ""

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def digest(self) -> str:
        """SHA-256 (hex) of the concatenated files, as printed by ``cat FILES | sha256sum``.

        The name of a selected sheet and the other options of reading are included if they were
        given. For objects in memory, the rows are hashed as JSON lines.
        """
        digest = hashlib.sha256()
        for path, part in zip(self.paths, self.parts, strict=False):
            with open_bytes(path, decompress=False) as stream:
                while chunk := stream.read(2**20):
                    digest.update(chunk)
            digest.update(part.sheet.encode())
        if self.paths and (given := self.options.for_digest()):
            digest.update(format_canonical_json(given).encode())
        if not self.paths:
            for row in self.rows():
                digest.update(format_canonical_json(row).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an output table.

    Attributes:
        name: Name of the column.
        type: Type of its values. "any": one primitive type if all values have it, else text (lists
            and mappings as JSON). "probabilities": a mapping from each of ``labels`` to a float.
            "texts": a list of texts. "nested": values of the JSON ``schema``.
        labels: Keys of a column of type "probabilities".
        schema: JSON schema of a column of type "nested".
    """

    name: str
    type: Literal["text", "float", "int", "probabilities", "texts", "nested", "any"] = "any"
    labels: tuple[str, ...] = ()
    schema: Mapping[str, object] | None = None
