"""What another program pipes into medtask, kept in a file: a table is passed over more than
once.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import zlib
from pathlib import Path

from medtask.atomic_files import replace_file
from medtask.errors import TableError
from medtask.tables.encoding import BINARY_SUFFIXES

_HEAD_BYTES = 2**16


def spool_stdin(folder: Path) -> Path:
    """Writes standard input to ``folder``/stdin.csv, .jsonl, .json, .parquet or .xlsx, as its first
    bytes say; mode 0600.

    Raises TableError where nothing comes in, StorageError where it cannot be kept.
    """
    stream = sys.stdin.buffer
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise TableError(
            "nothing came in on standard input", fix="pipe a table into the command, or name a file"
        )
    path = folder / f"stdin{_sniff_suffix(head)}"
    with replace_file(path) as draft, draft.open("wb") as spool:
        spool.write(head)
        shutil.copyfileobj(stream, spool)
    return path


def _sniff_suffix(head: bytes) -> str:
    suffix = next(
        (suffix for magic, suffix in BINARY_SUFFIXES.items() if head.startswith(magic)), None
    )
    if suffix == ".gz":
        return _sniff_suffix(_unpack_head(head)) + ".gz"
    return suffix or _sniff_text(head)


def _unpack_head(head: bytes) -> bytes:
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(head)).read(1)
    except (EOFError, OSError, zlib.error):
        return b""


def _sniff_text(head: bytes) -> str:
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("["):
        return ".json"
    if not text.startswith("{"):
        return ".csv"
    first_line, newline, _ = text.partition("\n")
    try:
        json.loads(first_line)
    except ValueError:
        # No end of line within the first bytes: one long object a line, rather than a whole table
        # on one.
        return ".json" if newline else ".jsonl"
    return ".jsonl"
