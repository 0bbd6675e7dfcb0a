"""Data sets: a received file becomes a stored table if it can be read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.atomic_files import make_storage_error
from medtask.display import format_count
from medtask.errors import EncodingGuessWarning, MedtaskError, TableError
from medtask.server.database.connect import Database
from medtask.server.storage.files import DataFolder, clean_file_name
from medtask.server.storage.preview import (
    PREVIEW_FILE,
    read_preview,
    record_preview,
    shorten_row,
)
from medtask.server.storage.tables import StoredDataset
from medtask.server.storage.uploads import ReceivedFile
from medtask.tables.read import Table, read_table, validate_table
from medtask.tables.read_options import ReadOptions

MAX_PREVIEW_ROWS = 200


@dataclass(frozen=True, slots=True)
class NewDataset:
    """What a user says about a table that is added."""

    name: str
    options: ReadOptions
    created_by: str


def add_dataset(
    database: Database, files: DataFolder, received: ReceivedFile, new: NewDataset
) -> tuple[StoredDataset, list[str]]:
    """Read a received file, and store it as a data set.

    Returns:
        The data set, and notes for the user about guesses and about rows that may not be records.
        The notes can contain words of the table and are not stored.

    Raises:
        TableError: The file is not a table that can be read; nothing is stored.
        UsageError: The file has no usable name.
        StorageError: The data folder is not writable.
    """
    try:
        file_name = clean_file_name(received.name or new.name)
        # Readers choose the format by the suffix, and name the file in their errors.
        path = received.path.with_name(f"{received.path.name}-{file_name}")
        received.path.rename(path)
        received.path = path
        table = open_table(path, new.options)
        preview = path.with_name(f"{path.name}.preview")
        with record_preview(table, preview) as recorded:
            counts = validate_table(recorded)
        if not counts.rows:
            raise TableError("the table has no rows", fix="upload a table with at least one row")
        notes = [*table.guess_notes, *counts.describe_suspects()]
        if counts.blank_lines:
            notes.append(f"{format_count(counts.blank_lines, 'blank line')} skipped")
        with database.write() as session:
            dataset = StoredDataset(
                name=new.name,
                file_name=file_name,
                bytes=received.bytes,
                sha256=table.digest(),
                rows=counts.rows,
                columns=list(table.columns),
                notes=list(table.notes),
                read_options=dict(new.options.to_values()),
                created_by=new.created_by,
            )
            session.add(dataset)
            session.flush()
            folder = files.create_folder("datasets", dataset.id)
            _move(path, folder / file_name)
            _move(preview, folder / PREVIEW_FILE)
    except MedtaskError as error:
        _hide_path(error, received.path)
        raise
    finally:
        received.path.with_name(f"{received.path.name}.preview").unlink(missing_ok=True)
        received.delete()
    return dataset, [note.replace(str(path), file_name) for note in notes]


def open_table(path: Path, options: ReadOptions) -> Table:
    """Open a table without a warning about its encoding, which would show words of it in a log."""
    warnings.filterwarnings("ignore", category=EncodingGuessWarning)
    return read_table(path, options)


def open_dataset(files: DataFolder, dataset: StoredDataset) -> Table:
    """Open a stored data set. Raises TableError if its file is missing."""
    path = files.get_folder("datasets", dataset.id) / dataset.file_name
    if not path.exists():
        raise TableError(f"the file of data set {dataset.id} is missing", fix="upload it again")
    return open_table(path, ReadOptions(**dataset.read_options))


def read_rows(
    files: DataFolder, dataset: StoredDataset, offset: int, limit: int
) -> list[dict[str, Any]]:
    """Some rows for a preview; long texts are cut.

    Raises:
        TableError: The file of the data set is missing.
        StorageError: The file of its preview is damaged.
    """
    folder = files.get_folder("datasets", dataset.id)
    rows = read_preview(folder / PREVIEW_FILE, offset, limit)
    if rows is None:  # an older version of medtask has stored it
        table = open_dataset(files, dataset)
        rows = [shorten_row(row) for row in islice(table, offset, offset + limit)]
    return rows


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise make_storage_error(target, error) from error


def _hide_path(error: MedtaskError, path: Path) -> None:
    """Remove the server's folder from a message."""
    shown = path.name.partition("-")[2] or "the file"
    error.args = tuple(
        str(part).replace(str(path), shown).replace(path.name, shown) for part in error.args
    )
    error.fix = error.fix.replace(str(path), shown).replace(path.name, shown)
