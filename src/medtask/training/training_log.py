"""The points of a training, step by step: shown to an observer and kept as ``loss.csv``."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Protocol

from medtask.atomic_files import make_storage_error, open_private, replace_text
from medtask.display import format_path
from medtask.errors import InputError

_MOVE_FILE = "move the file aside; a resumed training continues without its earlier points"


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """A measurement after a step of training. Losses are means per row, in nats.

    Attributes:
        step: Steps taken so far, out of ``steps``.
        epoch: Passes over the rows so far; 0 for methods that count steps alone.
        loss: Loss on the training rows since the previous point; None if not measured.
        validation_loss: Loss on the validation rows, after a validation.
        score: Accuracy on the validation rows, or the share of right decisions, in [0, 1].
        rate: The learning rate.
        rows_per_s: Training rows per second since the previous point.
        tokens_per_s: Tokens of these rows per second, read or reused.
        seconds: Seconds since training began, over all its sessions.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    validation_loss: float | None = None
    score: float | None = None
    rate: float | None = None
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    seconds: float = 0.0


class TrainingObserver(Protocol):
    """Receives the events of a training."""

    def on_note(self, text: str) -> None:
        """A fact that the user should know, in one line."""

    def on_load(self, model: str) -> None:
        """A model is about to be loaded."""

    def on_start(self, steps: int, done: int) -> None:
        """Training starts: its number of steps, and the steps done in earlier sessions."""

    def on_point(self, point: TrainingPoint) -> None:
        """A step was taken, or a validation was done."""

    def on_finish(self) -> None:
        """The last step was taken; the model is saved and measured next."""


class NullTrainingObserver:
    """An observer that ignores all events."""

    def on_note(self, text: str) -> None: ...
    def on_load(self, model: str) -> None: ...
    def on_start(self, steps: int, done: int) -> None: ...
    def on_point(self, point: TrainingPoint) -> None: ...
    def on_finish(self) -> None: ...


class TrainingLog:
    """The points of all sessions of a training, in a CSV file that survives a kill.

    The file has one column for each field of `TrainingPoint`; an empty cell is a value that was not
    measured. A point is written to the disk, readable by the owner only, before the observer
    receives it.

    Args:
        path: The CSV file.
        observer: Receives every point.
        resume_step: The step of the checkpoint from which training resumes. Later points are
            dropped, because their steps are repeated; 0 starts a new file.

    Raises:
        InputError: The file of an earlier session is not readable.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path, observer: TrainingObserver, resume_step: int = 0) -> None:
        self.path = path
        self._observer = observer
        earlier = read_points(path) if resume_step and path.exists() else ()
        self._points = [point for point in earlier if point.step <= resume_step]
        self._before = self._points[-1].seconds if self._points else 0.0
        self._since = time.monotonic()
        replace_text(path, _write_lines([COLUMNS, *map(_to_cells, self._points)]))

    @property
    def points(self) -> tuple[TrainingPoint, ...]:
        """All points in the order in which they were added, including earlier sessions."""
        return tuple(self._points)

    def add(self, point: TrainingPoint) -> None:
        """Keep a point and pass it to the observer. Its ``seconds`` are set here."""
        timed = replace(point, seconds=self._before + time.monotonic() - self._since)
        self._append(_write_lines([_to_cells(timed)]).encode())
        self._points.append(timed)
        self._observer.on_point(timed)

    def _append(self, line: bytes) -> None:
        try:
            # Opened for each point, so that no file stays open for hours.
            handle = open_private(self.path, os.O_WRONLY | os.O_APPEND)
            with os.fdopen(handle, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    # otherwise the next point would be appended to an incomplete line
                    file.truncate(size)
                    raise
        except OSError as error:
            raise make_storage_error(self.path, error) from error


def list_validation_losses(points: Iterable[TrainingPoint]) -> list[float]:
    """The losses of all validations, in order."""
    return [point.validation_loss for point in points if point.validation_loss is not None]


def find_best_point(points: Iterable[TrainingPoint]) -> TrainingPoint | None:
    """The first validation with the lowest loss.

    If no validation has a finite loss, the one with the highest score; None without validations.
    """
    best = by_score = None
    for point in points:
        loss, score = point.validation_loss, point.score
        if loss is not None and isfinite(loss) and (best is None or loss < best[0]):
            best = loss, point
        if score is not None and isfinite(score) and (by_score is None or score > by_score[0]):
            by_score = score, point
    found = best or by_score
    return found[1] if found else None


def count_validations_since_best(points: Iterable[TrainingPoint]) -> int:
    """The number of validations after the one with the lowest loss."""
    losses = list_validation_losses(points)
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def has_no_gain(points: Sequence[TrainingPoint]) -> bool:
    """Whether no validation had a lower loss than the one before the first step."""
    best = find_best_point(points)
    return best is not None and best.step == 0 and len(list_validation_losses(points)) > 1


COLUMNS = tuple(field.name for field in fields(TrainingPoint))
_INTEGER_COLUMNS = {"step", "steps"}
_REQUIRED_COLUMNS = {"step", "steps", "epoch", "seconds"}


def read_points(path: Path) -> tuple[TrainingPoint, ...]:
    """Read the points of a ``loss.csv``; an incomplete last line is left out.

    Raises:
        InputError: The file is not readable or not valid.
    """
    try:
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{format_path(path)} cannot be read ({type(error).__name__})", fix=_MOVE_FILE
        ) from None
    if lines and lines[0] != ",".join(COLUMNS):
        raise InputError(
            f"{format_path(path)} does not have the columns {', '.join(COLUMNS)}", fix=_MOVE_FILE
        )
    points = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            points.append(_from_cells(line.split(",")))
        except ValueError:
            raise InputError(
                f"{format_path(path)}, line {number}, is not a valid point of a training",
                fix=_MOVE_FILE,
            ) from None
    return tuple(points)


def _to_cells(point: TrainingPoint) -> list[str]:
    values = ((name, getattr(point, name)) for name in COLUMNS)
    # repr is the shortest text that reads back as the same number, also for nan and inf.
    return [
        "" if value is None else str(int(value)) if name in _INTEGER_COLUMNS else repr(float(value))
        for name, value in values
    ]


def _from_cells(cells: Sequence[str]) -> TrainingPoint:
    values = {
        name: None
        if cell == "" and name not in _REQUIRED_COLUMNS
        else int(cell)
        if name in _INTEGER_COLUMNS
        else float(cell)
        for name, cell in zip(COLUMNS, cells, strict=True)
    }
    return TrainingPoint(**values)  # type: ignore[arg-type]


def _write_lines(lines: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(cells) + "\n" for cells in lines)
