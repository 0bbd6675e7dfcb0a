"""The exceptions of medtask, each with its remedy.

    MedtaskError                what happened; .fix: the remedy; .exit_code: for a shell
      UsageError            2   the command or the call is not valid
      InputError            4   a task, a table or a gold column is not valid
        TaskFaults          4   all faults of one task file, each with its line
        TableError          4   a table cannot be read, or not without losing rows
      EngineError           5   the model cannot answer
        ModelNotFound       5   the model is not found, or may not be downloaded
        MissingExtra        5   an optional package is not installed
        ModelTooLarge       5   the model does not fit into the memory that it may use
      RunLocked             6   another process uses the same run folder
      StorageError          7   the disk is full, read-only or not available
      RunMismatch           8   the run folder belongs to another task, model or table

Messages contain no record text, because they end up in terminals, logs and tickets.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


class MedtaskError(Exception):
    """Base class of all medtask errors: a message of one sentence, and a remedy in ``fix``."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Unpickling calls the class with ``args`` only, without the remedy.
        return _restore_error, (type(self), self.args, self.__dict__)


def _restore_error(
    kind: type[MedtaskError], args: tuple[object, ...], state: dict[str, object]
) -> MedtaskError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(MedtaskError):
    exit_code = 2


class InputError(MedtaskError):
    exit_code = 4


@dataclass(frozen=True, slots=True)
class TaskFault:
    """One fault of a task file. ``line`` is 1-based; None if the line is unknown."""

    line: int | None
    message: str


class TaskFaults(InputError):
    """All faults of one task file, sorted by line."""

    def __init__(self, source: str, faults: Sequence[TaskFault], *, hint: str = "") -> None:
        self.source = source
        self.faults = tuple(sorted(faults, key=lambda fault: fault.line or 0))
        count = len(self.faults)
        them, command = "it" if count == 1 else "them", f"medtask check {shlex.quote(source)}{hint}"
        listed = "".join(
            f"\n  {f'line {fault.line:>3}' if fault.line else 'file    '}  {fault.message}"
            for fault in self.faults
        )
        super().__init__(
            f"{source} has {count} fault{'s' if count != 1 else ''}{listed}",
            fix=f"correct {them}, then: {command}",
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


class EncodingGuessWarning(UserWarning):
    """The encoding of a text file was guessed; the words in the message help to check it."""


def require_packages(*names: str, fix: str) -> None:
    """Import packages; raises MissingExtra for the first that is not installed."""
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingExtra(f"{error.name or name} is not installed here", fix=fix) from None
