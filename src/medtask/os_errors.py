"""Errors of the operating system as errors of medtask, each with its remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from medtask.display import format_path, shorten
from medtask.errors import InputError, MedtaskError, StorageError

_SPACE_FIX = "free disk space or choose another folder, then run the same command again"
_REMEDIES = {
    errno.EACCES: "change its permissions and those of the folders above it, or name another path",
    errno.EBUSY: "wait until it has ended, then run the same command again",
    errno.EDQUOT: _SPACE_FIX,
    errno.EFBIG: _SPACE_FIX,
    errno.EIO: "check the disk, then run the same command again",
    errno.EISDIR: "name a file, not a folder",
    errno.ELOOP: "remove the link, or name the file itself",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENFILE: "close other programs, then run the same command again",
    errno.ENODEV: "check that the disk is connected",
    errno.ENOENT: "choose an existing folder or file: check the path",
    errno.ENOMEM: "close other programs, or use a machine with more memory",
    errno.ENOSPC: _SPACE_FIX,
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.ENXIO: "name a regular file",
    errno.EPERM: "change its permissions and those of the folders above it, or name another path",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ESTALE: "connect the network disk again, then run the same command again",
    errno.ETXTBSY: "close the program that uses it, then run the same command again",
}
# Faults of the name that was given, not of the disk.
_NAME_FAULTS = frozenset(
    {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ENXIO}
)
_SHOWN_CHARACTERS = 200


def get_remedy(error: OSError) -> str:
    """What the user can do about an error of the operating system."""
    return _REMEDIES.get(
        error.errno or 0, "check the path, its permissions and the disk, then run the command again"
    )


def convert_os_error(error: OSError) -> MedtaskError | None:
    """The error with its path and remedy; None if the operating system did not raise it."""
    if error.errno is None:
        return None
    problem = os.strerror(error.errno)
    if error.filename is not None:
        path = shorten(os.fsdecode(error.filename), _SHOWN_CHARACTERS)
        problem = f"{format_path(path)} cannot be used: {problem}"
    convert = InputError if error.errno in _NAME_FAULTS else StorageError
    return convert(problem, fix=get_remedy(error))


def require_utf8(path: Path) -> None:
    """Raise InputError for a path that is not UTF-8, which some libraries cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of {format_path(path)} is not UTF-8",
            fix="rename it, or name another path",
        ) from None
