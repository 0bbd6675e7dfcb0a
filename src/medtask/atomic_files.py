"""Files that are replaced atomically, and files and folders that only their owner can read."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
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


def find_free_path(path: Path) -> Path:
    """The path, or the first of NAME-2, NAME-3 ... at which there is nothing, not even a link."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(one for one in chain([path], numbered) if not os.path.lexists(one))


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file that keeps its content, created with mode 0600, and return its descriptor.

    In a folder that others may write to, a link of that name could lead to any file of this user.

    Raises:
        OSError: It is a link or not a regular file, or cannot be opened.
    """
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # Windows
        raise _make_link_error()
    # Without O_NONBLOCK a pipe would block.
    special = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | os.O_CREAT | special, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            raise _make_link_error() from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.ENXIO, "it is not a regular file")
    return handle


def make_private_folder(path: Path) -> None:
    """Make a folder of a fixed name, with mode 0700, unless it exists.

    Raises:
        OSError: It is a link, or cannot be made.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink():
        raise _make_link_error()


def _make_link_error() -> OSError:
    return OSError(errno.ELOOP, "it is a link, and could lead to any other file")


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def raise_storage_errors(path: Path) -> Iterator[None]:
    """Raise errors of the operating system in this block as StorageError with ``path``."""
    try:
        yield
    except OSError as error:
        raise make_storage_error(path, error) from error


def make_storage_error(path: Path, error: OSError) -> StorageError:
    """The error for a ``path`` that could not be written."""
    problem = f"{format_path(path)} cannot be written: {error.strerror or type(error).__name__}"
    if error.errno in _DISK_FULL_ERRNOS:
        problem += f" ({shutil.disk_usage(path.parent).free:,} bytes free)"
    return StorageError(problem, fix=get_remedy(error))
