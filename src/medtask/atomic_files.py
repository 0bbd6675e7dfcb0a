"""Files that are replaced atomically and are readable by their owner only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtask.display import format_path
from medtask.errors import StorageError
from medtask.os_errors import get_remedy

_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a draft file (mode 0600) that replaces ``path`` when the block ends without an error.

    Drafts have a fixed name, so that one left by a killed process is replaced: there may be only
    one writer per path.

    Raises:
        StorageError: The disk is full or the folder is not writable; ``path`` is unchanged.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
        _sync_to_disk(draft)
        draft.replace(path)
        if os.name == "posix":  # a rename survives a power cut once its folder is synced
            _sync_to_disk(path.parent)
    except OSError as error:
        raise make_storage_error(path, error) from error
    finally:
        if draft.exists():
            draft.unlink()


def replace_text(path: Path, text: str) -> None:
    """Replace a text file atomically: see `replace_file`."""
    with replace_file(path) as draft:
        # Ids and labels may hold lone surrogates.
        draft.write_bytes(text.encode("utf-8", "replace"))


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_storage_error(path: Path, error: OSError) -> StorageError:
    """The error for a ``path`` that could not be written."""
    problem = f"{format_path(path)} cannot be written: {error.strerror or type(error).__name__}"
    if error.errno in _DISK_FULL_ERRNOS:
        problem += f" ({shutil.disk_usage(path.parent).free:,} bytes free)"
    return StorageError(problem, fix=get_remedy(error))
