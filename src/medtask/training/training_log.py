"""How a training went, step by step: what is shown meanwhile, and kept as ``loss.csv``."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from medtask.atomic_files import make_storage_error, replace_text
from medtask.display import format_path
from medtask.errors import InputError

_MOVE_IT = "move the file aside; a training that is resumed goes on without its earlier points"


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """The state behind one step of training (of ``steps``). Losses are means per row, in nats.
    ``loss``: of the rows since the point before; ``validation_loss`` and ``score`` (accuracy, or
    what the kind is judged by, in [0, 1]) where validation was done. ``tokens_per_s``: tokens that
    rows have, read or reused; ``seconds``: since training began, all sessions together.
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
    """Who wants to know how a training gets on."""

    def on_note(self, text: str) -> None:
        """A fact that people should know, in one line."""

    def on_load(self, model: str) -> None:
        """A model is loaded next."""

    def on_start(self, steps: int, done: int) -> None:
        """How many steps there are, and how many of them an earlier session has taken."""

    def on_point(self, point: TrainingPoint) -> None:
        """A step was taken, or a validation done."""

    def on_finish(self) -> None:
        """The last step is taken; the model is saved and measured next."""


class NullTrainingObserver:
    """The Watch of someone who does not want to know."""

    def on_note(self, text: str) -> None: ...
    def on_load(self, model: str) -> None: ...
    def on_start(self, steps: int, done: int) -> None: ...
    def on_point(self, point: TrainingPoint) -> None: ...
    def on_finish(self) -> None: ...


class TrainingLog:
    """The points of one training, of all its sessions, in a CSV file that a kill cannot spoil.

    One column for each field of Point; an empty cell is a number that was not measured. Each point
    is on the disk, for the owner only, before anybody is shown it. ``resume_step``: the step of the
    checkpoint that training goes on from; points behind it belong to steps that will be taken again
    and are dropped, and with 0 the file is begun anew.

    InputError where an earlier session's file cannot be read, StorageError where the file cannot be
    written.
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
        """All of them, earlier sessions' too, in the order in which they were added."""
        return tuple(self._points)

    def add(self, point: TrainingPoint) -> None:
        """Keep a point and show it. Its ``seconds`` are set here: those of earlier sessions, and
        those since this journal was opened.
        """
        timed = replace(point, seconds=self._before + time.monotonic() - self._since)
        self._append(_write_lines([_to_cells(timed)]).encode())
        self._points.append(timed)
        self._observer.on_point(timed)

    def _append(self, line: bytes) -> None:
        try:
            # Opened for each point: a training takes hours, and nobody has to remember to close it.
            with self.path.open("ab", buffering=0) as file:
                whole = file.tell()
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)  # else the next point would be joined to half a line
                    raise
        except OSError as error:
            raise make_storage_error(self.path, error) from error


def has_no_gain(points: Sequence[TrainingPoint]) -> bool:
    """Whether no validation had a lower loss than the one before the first step."""
    losses = [
        (point.validation_loss, point.step) for point in points if point.validation_loss is not None
    ]
    return len(losses) > 1 and min(losses)[1] == 0


COLUMNS = tuple(field.name for field in fields(TrainingPoint))
_INTEGER_COLUMNS = {"step", "steps"}
_REQUIRED_COLUMNS = {"step", "steps", "epoch", "seconds"}


def read_points(path: Path) -> tuple[TrainingPoint, ...]:
    """The points of a ``loss.csv``. A last line that a kill broke off is left out; InputError for
    anything else that is wrong.
    """
    try:
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{format_path(path)} cannot be read ({type(error).__name__})", fix=_MOVE_IT
        ) from None
    if lines and lines[0] != ",".join(COLUMNS):
        raise InputError(
            f"{format_path(path)} has not the columns {', '.join(COLUMNS)}", fix=_MOVE_IT
        )
    points = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            points.append(_from_cells(line.split(",")))
        except ValueError:
            raise InputError(
                f"{format_path(path)}, line {number}, holds no point of a training", fix=_MOVE_IT
            ) from None
    return tuple(points)


def _to_cells(point: TrainingPoint) -> list[str]:
    values = ((name, getattr(point, name)) for name in COLUMNS)
    # repr is the shortest text that is read back as the very same number, nan and inf among them.
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
