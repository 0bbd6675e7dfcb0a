"""Rows stored in an unnamed file, so that they can be iterated more than once in little memory."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

_BLOCK_ROWS = 256  # small enough for memory; equal cells of a block are stored once


class StoredRows:
    """Rows that were written by `store_rows`; every iteration starts at the first row."""

    def __init__(self, file: IO[bytes], offsets: Sequence[int]) -> None:
        self._file, self._offsets = file, offsets

    def __iter__(self) -> Iterator[Sequence[object]]:
        for offset in self._offsets:
            self._file.seek(offset)
            yield from pickle.load(self._file)  # noqa: S301 - written by store_rows


@contextmanager
def store_rows(folder: Path, rows: Iterable[Sequence[object]]) -> Iterator[StoredRows]:
    """Store rows in ``folder`` until the block ends; the file has no name and is private.

    Raises OSError if the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".rows-") as file:
        offsets: list[int] = []
        remaining = iter(rows)
        while block := list(islice(remaining, _BLOCK_ROWS)):
            offsets.append(file.tell())
            pickle.dump(block, file, protocol=pickle.HIGHEST_PROTOCOL)
        file.flush()
        yield StoredRows(file, offsets)
