"""Functions for calls in a child process that return, fail, or end the process."""

from __future__ import annotations

import ctypes
import os
import signal

from medtask.errors import TableError


def repeat(*arguments: str | None) -> list[str | None]:
    return list(arguments)


def refuse() -> None:
    raise TableError("not a table", fix="export it again")


def abort() -> None:
    os.abort()


def kill() -> None:
    """Ends as the kernel ends a process when the memory is exhausted."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(0)


def fail() -> None:
    raise ValueError


def allocate(count: str) -> int:
    return len(bytes(int(count)))


def spin() -> None:
    while True:
        pass
