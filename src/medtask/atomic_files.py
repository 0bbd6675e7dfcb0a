"""Files that are replaced atomically, and files and folders that only their owner can read."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from medtask.display import format_path
from medtask.errors import StorageError
from medtask.os_errors import get_remedy

_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LOCKED_ERRNOS = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_WAIT_S = 10.0  # for another process that writes the same file
# Without O_NONBLOCK a pipe would block.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# A kernel lock is used, not the existence of a lock file: the kernel releases it however the
# process ends, so there are no stale locks, reused process ids or clocks to check.
if sys.platform == "win32":
    import msvcrt

    def take_lock(file: int) -> None:
        """Lock a file; raises OSError, with one of `LOCKED_ERRNOS` if it is locked."""
        # A byte that is never read: Windows locks also block reading.
        os.lseek(file, 2**30, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def take_lock(file: int) -> None:
        """Lock a file; raises OSError, with one of `LOCKED_ERRNOS` if it is locked."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a draft file (mode 0600) that replaces ``path`` when the block ends without an error.

    Drafts have a fixed name, so that one left by a killed process is replaced. Of several writers,
    each waits for the one before; on Windows there may be only one.

    Raises:
        StorageError: The disk is full, the folder is not writable, or another process does not
            finish writing; ``path`` is unchanged.
    """
    draft = path.with_name(f".{path.name}.draft")
    with raise_storage_errors(path):
        lock = _create_draft(draft)
    is_replaced = False
    try:
        yield draft
        _sync_to_disk(draft)
        draft.replace(path)
        is_replaced = True
        if os.name == "posix":  # a rename survives a power cut once its folder is synced
            _sync_to_disk(path.parent)
    except OSError as error:
        raise make_storage_error(path, error) from error
    finally:
        if not is_replaced:  # else a draft of that name is another writer's
            draft.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _create_draft(draft: Path) -> int | None:
    """Create a draft file, and lock it until the returned descriptor is closed.

    Raises:
        OSError: It cannot be created, or another process has it for longer than `_WAIT_S`.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        if _remove_draft(draft):
            with suppress(FileExistsError):  # another writer was faster
                handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                locked = _try_lock(handle)
                if locked and _has_name(handle, draft):
                    return handle
                os.close(handle)
                if locked is None:
                    return None
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "another process is writing it")
        time.sleep(0.02)


def _remove_draft(draft: Path) -> bool:
    """Remove a draft unless a process has it locked; returns whether there is none."""
    try:
        handle = os.open(draft, os.O_RDWR | _NO_LINK)  # network disks lock no other files
    except FileNotFoundError:
        return True
    except OSError:  # a link, or a file of another user
        draft.unlink(missing_ok=True)
        return True
    try:
        if (locked := _try_lock(handle)) is False:
            return False
        # The name can be that of another draft by now. With the lock, only this process changes it.
        if locked and not _has_name(handle, draft):
            return False
        draft.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


def _has_name(handle: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False


def _try_lock(handle: int) -> bool | None:
    """Whether a file could be locked; None where that is not possible.

    On Windows a file that is open cannot be renamed, so it is not locked.
    """
    if os.name != "posix":
        return None
    try:
        take_lock(handle)
    except OSError as error:
        return False if error.errno in LOCKED_ERRNOS else None
    return True


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
    try:
        handle = os.open(path, flags | os.O_CREAT | _NO_LINK, 0o600)
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
