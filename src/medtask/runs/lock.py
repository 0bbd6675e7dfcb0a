"""The lock of a run folder: one process per folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from medtask.atomic_files import (
    LOCKED_ERRNOS,
    open_private,
    raise_storage_errors,
    take_lock,
)
from medtask.display import format_path
from medtask.errors import RunLocked, StorageError

# The file is never removed: a process that has it open would lock a file that no other process can
# see.
_HOLDER_START = b'{"host": "'


@contextmanager
def lock_run(folder: Path, *, force: bool = False) -> Iterator[None]:
    """Hold the lock of a run folder until the block ends.

    Some network disks do not share locks between hosts. A folder that was last locked on another
    host and not released is therefore refused as well, unless ``force`` is set.

    Raises:
        RunLocked: Another process holds the lock; the message names it.
        StorageError: The folder is not writable, or the disk does not support locks.
    """
    path = folder / ".lock"
    with raise_storage_errors(path):
        file = open_private(path)
    try:
        _acquire_lock(file, folder)
        _check_content(file, path)
        holder = _read_holder(file)
        if holder and not force and not _is_this_host(holder):
            raise RunLocked(
                f"{folder} was in use by {_describe_holder(holder)}, which did not end properly or "
                "still runs",
                fix="make sure that it does not run any more, then add --force",
            )
        with raise_storage_errors(folder):
            _write_holder(file)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def is_in_use(folder: Path) -> bool | None:
    """Whether a process uses a run folder; None if it is, or was, one on another host.

    The lock is not tried: for that moment, a process that wants it would be refused.
    """
    try:
        file = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        holder = _read_holder(file)
    finally:
        os.close(file)
    if holder and not _is_this_host(holder):
        return None
    # On Windows the signal 0 of os.kill would interrupt the process.
    import psutil

    number = holder.get("pid")
    return isinstance(number, int) and psutil.pid_exists(number)


def _acquire_lock(file: int, folder: Path) -> None:
    try:
        take_lock(file)
    except OSError as error:
        if error.errno not in LOCKED_ERRNOS:
            raise StorageError(
                f"{folder} is on a disk that cannot lock files: {error.strerror}",
                fix="give a folder on a local disk with --out",
            ) from error
        holder = _await_holder(file)
        raise RunLocked(
            f"{folder} is in use by {_describe_holder(holder)}",
            fix="wait until it has ended, or give another folder with --out",
        ) from error


def _check_content(file: int, path: Path) -> None:
    """Raise StorageError for a file of that name that is not a lock: it would be truncated."""
    os.lseek(file, 0, os.SEEK_SET)
    start = os.read(file, len(_HOLDER_START)).strip(b"\0")  # zeros after a power failure
    if not _HOLDER_START.startswith(start):
        raise StorageError(
            f"{format_path(path)} is not a lock of medtask",
            fix="move that file to another folder, or give another folder with --out",
        )


def _await_holder(file: int) -> Mapping[str, object]:
    """The holder's entry in the lock file; waits, because it is written just after locking."""
    for _ in range(20):
        if holder := _read_holder(file):
            return holder
        time.sleep(0.01)
    return {}


def _read_holder(file: int) -> Mapping[str, object]:
    os.lseek(file, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(file, 4096) or b"{}")
    except ValueError:  # cut off by a power failure, so that process has ended
        return {}
    return holder if isinstance(holder, dict) else {}


def _write_holder(file: int) -> None:
    holder = {
        **_identify_host(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, json.dumps(holder).encode())


def _identify_host() -> dict[str, object]:
    """This machine's name and boot id; containers on one host share the boot id only."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot}


def _is_this_host(holder: Mapping[str, object]) -> bool:
    this_host = _identify_host()
    return holder.get("host") == this_host["host"] or (
        bool(this_host["boot"]) and holder.get("boot") == this_host["boot"]
    )


def _describe_holder(holder: Mapping[str, object]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
