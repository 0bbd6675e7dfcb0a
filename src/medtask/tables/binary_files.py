"""Inspection of binary files in a child process, before this process reads them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from medtask.errors import TableError
from medtask.isolation import IsolatedCallFailed, ProcessLimits, call_isolated
from medtask.tables.table_part import make_read_error, make_table_error

_MIN_MEMORY_BYTES, _MAX_MEMORY_BYTES = 2 * 2**30, 8 * 2**30
_MIN_CPU_SECONDS = 60
_BYTES_PER_SECOND = 2**20  # far slower than any reader
# Facts about a workbook can be large; a folder can have thousands of Parquet files.
_MAX_FACTS, _MAX_NUMBERS = 8, 10_000

_Key = tuple[object, ...]
_facts: OrderedDict[_Key, object] = OrderedDict()
_numbers: OrderedDict[_Key, object] = OrderedDict()
_results_lock = Lock()


# Path, size and time of the last change (ns).
FileState = tuple[str, int, int]
_inspected: set[FileState] = set()


def get_file_state(path: Path) -> FileState:
    """The state of a file, which differs after a change."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def accept_inspected(states: Iterable[FileState]) -> None:
    """Accept files that another process has inspected, as long as they are in this state.

    An inspection reads a whole file, also for a process that needs some of its rows.
    """
    _inspected.update(states)


def was_inspected(path: Path) -> bool:
    """Whether another process has inspected the file as it is."""
    try:
        return bool(_inspected) and get_file_state(path) in _inspected
    except OSError:
        return False


def inspect_file(path: Path, kind: str, function: str, *arguments: str | None) -> object:
    """Call ``function(path, *arguments)`` in a child process with limits.

    The result is kept until the file changes. ``kind`` is the format, such as "a Parquet file".

    Raises:
        TableError: The function has raised it, or has ended its process: the file is damaged, or
            needs more memory or time than any table of its size.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise make_read_error(path, error) from error
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = (function, str(path), arguments, *state)
    with _results_lock:
        for known in (_numbers, _facts):
            if key in known:
                known.move_to_end(key)
                return known[key]
    limits = _choose_limits(status.st_size)
    try:
        result = call_isolated(function, str(path), *arguments, limits=limits)
    except IsolatedCallFailed as error:
        raise _explain_failure(path, kind, error, limits) from None
    except OSError as error:
        raise make_table_error(
            path,
            f"cannot be read, because no process can be started for it: {error.strerror}",
            fix="allow this user more processes, or save the table as CSV",
        ) from error
    known, limit = (_numbers, _MAX_NUMBERS) if isinstance(result, int) else (_facts, _MAX_FACTS)
    with _results_lock:
        known[key] = result
        while len(known) > limit:
            known.popitem(last=False)
    return result


def _explain_failure(
    path: Path, kind: str, error: IsolatedCallFailed, limits: ProcessLimits
) -> TableError:
    if error.reason == "crash":
        return make_damaged_error(path, kind)
    needed = (
        f"{limits.memory_bytes / 2**30:.0f} GB of memory"
        if error.reason == "memory"
        else f"{limits.cpu_seconds:,} seconds"
    )
    return make_table_error(
        path,
        f"reading it needs more than {needed}: the file is damaged, or is not a table",
        fix="export it again, or save the table as CSV",
    )


def make_damaged_error(path: Path, kind: str) -> TableError:
    """The error of a file that is not ``kind``, as its suffix says."""
    return make_table_error(
        path,
        f"the file is truncated, damaged, or not {kind}",
        fix="copy or export it again",
    )


def _choose_limits(file_bytes: int) -> ProcessLimits:
    """At most half of the memory of this machine, and time by the size of the file."""
    memory = _MAX_MEMORY_BYTES
    if hasattr(os, "sysconf"):
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        memory = max(_MIN_MEMORY_BYTES, min(memory, half))
    return ProcessLimits(memory, _MIN_CPU_SECONDS + file_bytes // _BYTES_PER_SECOND)
