"""A table as medtask sees it: what comes in (Table) and what a column that goes out holds
(Column).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medtask.tables.cell_values import format_canonical_json
from medtask.tables.encoding import open_bytes
from medtask.tables.table_part import ReadStats, Row, TablePart


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be passed over again and again, never all in memory at once (XLSX and JSON
    excepted).

    ``source``: the table as the user named it. ``paths``: its files; none for objects in memory.
    ``notes``: what was found out about it (encoding, delimiter, sheet), for people.
    """

    source: str
    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    parts: tuple[TablePart, ...] = field(repr=False, compare=False)

    def rows(self, stats: ReadStats | None = None) -> Iterator[Row]:
        """Each row with every column; None where a cell is missing. ``stats`` counts what was met
        that is no row.

        Raises TableError, with the line, where a row cannot be read without loss.
        """
        for part in self.parts:
            if part.columns == self.columns:
                yield from part.rows(stats or ReadStats())
            else:
                yield from (
                    {column: row[column] for column in self.columns}
                    for row in part.rows(stats or ReadStats())
                )

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def digest(self) -> str:
        """SHA-256 of the files' bytes, one after the other, as ``cat FILES | sha256sum`` prints it.

        The name of a sheet that was asked for is part of it. For objects in memory: of their rows
        as JSON lines.
        """
        digest = hashlib.sha256()
        for path, part in zip(self.paths, self.parts, strict=False):
            with open_bytes(path, decompress=False) as stream:
                while chunk := stream.read(2**20):
                    digest.update(chunk)
            digest.update(part.sheet.encode())
        if not self.paths:
            for row in self.rows():
                digest.update(format_canonical_json(row).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that is written.

    "any" is for columns of which nothing is known: one primitive type if all values fit one, else
    text (lists and mappings as JSON). "probabilities" holds a mapping from each of ``labels`` to a
    float, "texts" a list of texts, "nested" what the JSON ``schema`` of an object describes.
    """

    name: str
    type: Literal["text", "float", "int", "probabilities", "texts", "nested", "any"] = "any"
    labels: tuple[str, ...] = ()
    schema: Mapping[str, object] | None = None
