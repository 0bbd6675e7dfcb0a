"""Tables of a run folder in which people write: which have been written in, and how they are kept.

A table that is written again must not replace what a person wrote.
"""

from __future__ import annotations

from pathlib import Path

from medtask.atomic_files import find_free_path
from medtask.display import format_path
from medtask.errors import InputError
from medtask.runs.audit_labels import LABEL_COLUMN, NONE_COLUMN, is_marked
from medtask.runs.output_columns import CORRECTED_COLUMN
from medtask.tables.cell_values import read_cell
from medtask.tables.read import read_table

_FORMATS = (".csv", ".xlsx")  # in which people write


def find_written_tables(folder: Path) -> list[Path]:
    """The review tables and audit samples of a run folder that have corrections or labels.

    Raises InputError if the same table was written in two formats.
    """
    found: dict[Path, Path] = {}
    patterns = (("review*", CORRECTED_COLUMN), ("audit/sample", LABEL_COLUMN))
    for pattern, column in patterns:
        for suffix in _FORMATS:
            for path in sorted(folder.glob(pattern + suffix)):
                if not count_written_rows(path, column):
                    continue
                other = found.setdefault(path.with_suffix(""), path)
                if other != path:
                    raise InputError(
                        f"{format_path(other)} and {format_path(path)} both have corrections",
                        fix="name the file that is current: medtask gold RUN FILE",
                    )
    return list(found.values())


def count_written_rows(path: Path, column: str) -> int:
    """The number of rows in which a person wrote into a column."""
    return sum(
        read_cell(row.get(column)) is not None or is_marked(row.get(NONE_COLUMN))
        for row in read_table(path).rows()
    )


def keep_written_table(path: Path) -> Path | None:
    """Rename a table that has corrections, before it is written again; returns its new path."""
    if path.suffix not in _FORMATS or not path.exists():
        return None
    if not count_written_rows(path, CORRECTED_COLUMN):
        return None
    return path.rename(find_free_path(path.with_stem(f"{path.stem}.corrected")))
