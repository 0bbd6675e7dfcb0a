"""Paths in task files, and their confinement to a folder for task files of other people."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from medtask.errors import InputError

_FIX = "name a file in the folder of the task, or give its content in the task file"


def resolve_task_path(folder: Path, name: str, root: Path | None) -> Path:
    """The file that a task file names.

    Args:
        folder: The folder of the task file.
        name: The path as the task file has it.
        root: The folder that the file must be in, with all links followed; None for any folder.
            Other people must not be able to write there: a link that is made after this check is
            followed.

    Raises:
        InputError: The file is outside ``root``, or is not a regular file.
    """
    path = folder / name
    if root is None:
        return path
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    if "\0" in name or windows.drive or windows.root or ".." in parts or name.startswith("~"):
        raise InputError("a path outside the folder of the task is not allowed here", fix=_FIX)
    try:
        resolved = path.resolve()
        is_special = resolved.exists() and not stat.S_ISREG(resolved.stat().st_mode)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"the path cannot be used ({type(error).__name__})", fix=_FIX) from None
    if not resolved.is_relative_to(root.resolve()):
        raise InputError("a path outside the folder of the task is not allowed here", fix=_FIX)
    if is_special:
        raise InputError("the path is not that of a regular file", fix=_FIX)
    return resolved
