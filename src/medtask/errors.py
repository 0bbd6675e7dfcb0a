"""Every error that medtask raises on purpose, each with its remedy.

    MedtaskError                what happened; .fix: what to do about it; .exit_code: what a shell
    sees
      UsageError            2   the command or the call asks for something that cannot be
      InputError            4   a task, a table or a gold column is wrong
        TaskFaults          4   all faults of one task file, each with its line
        TableError          4   a table cannot be read, or not without losing rows
      EngineError           5   the model cannot answer
        ModelNotFound       5   no such model here, or it may not be fetched
        MissingExtra        5   an optional package is not installed
        ModelTooLarge       5   the model does not fit into the memory that it may use
      RunLocked             6   another process works on the same run folder
      StorageError          7   the disk is full, read-only or gone
      RunMismatch           8   the run folder belongs to another task, model or table

No message carries text of a record: messages end up in terminals, logs and tickets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MedtaskError(Exception):
    """The message is one sentence; ``fix`` is one sentence about what to do."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class UsageError(MedtaskError):
    exit_code = 2


class InputError(MedtaskError):
    exit_code = 4


@dataclass(frozen=True, slots=True)
class TaskFault:
    """One fault of a task file. ``line`` is 1-based; None where no line can be named."""

    line: int | None
    message: str


class TaskFaults(InputError):
    """All faults of one task file at once, in the order of their lines."""

    def __init__(self, source: str, faults: Sequence[TaskFault]) -> None:
        self.source = source
        self.faults = tuple(sorted(faults, key=lambda fault: fault.line or 0))
        count = len(self.faults)
        listed = "".join(
            f"\n  {f'line {fault.line:>3}' if fault.line else 'file    '}  {fault.message}"
            for fault in self.faults
        )
        super().__init__(
            f"{source} has {count} fault{'s' if count != 1 else ''}{listed}",
            fix=f"correct {'it' if count == 1 else 'them'}, then: medtask check {source}",
        )


class TableError(InputError):
    pass


class EngineError(MedtaskError):
    exit_code = 5


class ModelNotFound(EngineError):
    pass


class MissingExtra(EngineError):
    pass


class ModelTooLarge(EngineError):
    pass


class RunLocked(MedtaskError):
    exit_code = 6


class StorageError(MedtaskError):
    exit_code = 7


class RunMismatch(MedtaskError):
    exit_code = 8
