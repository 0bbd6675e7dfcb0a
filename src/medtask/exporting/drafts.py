"""Drafts of exports: what is not complete is never at the path of the export."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtask.atomic_files import make_private_folder, make_storage_error
from medtask.runs.lock import lock_run

_OS_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")


def ignore_step(step: str) -> None:
    """Do nothing: the default for what is called with a description of each step."""


@contextmanager
def open_draft(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield the path of a draft, in a locked folder beside ``path`` that is removed at the end.

    The folder has a fixed name, so that one left by a killed process is replaced.

    Raises:
        StorageError: The disk is full, or the folder is not writable.
    """
    work = path.with_name(f".{path.name}.export")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private_folder(work)
    except OSError as error:
        raise make_storage_error(path, error) from error
    with lock_run(work):
        try:
            draft = work / path.name
            _remove(draft)
            if is_folder:
                draft.mkdir(mode=0o700)
            yield draft
        except Exception as error:
            if cause := _find_os_error(error):
                raise make_storage_error(path, cause) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _find_os_error(error: Exception) -> OSError | None:
    """The error of the operating system behind an error of a library that writes files."""
    if isinstance(error, OSError):
        # numpy gives no number where only a part of an array could be written.
        return error if error.errno else OSError(errno.ENOSPC, "not all of it could be written")
    if type(error).__name__ == "SafetensorError" and (found := _OS_ERROR_NUMBER.search(str(error))):
        number = int(found[1])
        return OSError(number, os.strerror(number))
    return None
