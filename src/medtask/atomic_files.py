"""Files that are there whole or not at all, for their owner only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtask.display import format_path
from medtask.errors import StorageError

_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A draft beside ``path``, mode 0600, which takes its place once the block is done, or is gone.

    Raises StorageError where the disk is full or the place may not be written; what was at ``path``
    is then as before. One writer a path: drafts have a fixed name, so that one left by a killed
    process is replaced.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
        _sync_to_disk(draft)
        draft.replace(path)
        if os.name == "posix":  # a rename is safe from a power cut once its folder is
            _sync_to_disk(path.parent)
    except OSError as error:
        raise make_storage_error(path, error) from error
    finally:
        if draft.exists():
            draft.unlink()


def replace_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all: see replace_file."""
    with replace_file(path) as draft:
        draft.write_bytes(
            text.encode("utf-8", "replace")
        )  # ids and labels may hold lone surrogates


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_storage_error(path: Path, error: OSError) -> StorageError:
    """What kept ``path`` from being written, and what to do about it."""
    problem = f"{format_path(path)} cannot be written: {error.strerror or type(error).__name__}"
    if error.errno not in _DISK_FULL_ERRNOS:
        return StorageError(problem, fix="choose a folder that exists and that you may write to")
    free = shutil.disk_usage(path.parent).free
    return StorageError(
        f"{problem} ({free:,} bytes free)",
        fix="free some space or choose another folder, then run the same command again",
    )
