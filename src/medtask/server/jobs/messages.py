"""Messages between a worker and the process of a job: JSON, one per line.

The worker writes the request to the process's standard input, then `BEAT` after every renewal of
its lease. The process writes progress, log lines and one outcome to its standard output.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medtask.errors import MedtaskError

BEAT = b"beat\n"
_PROGRESS_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job's process shall do.

    Attributes:
        work: The function as "module:function".
        arguments: Its arguments: paths and settings.
        silence_limit_s: The process ends if it receives no beat for so long.
    """

    work: str
    arguments: Mapping[str, Any]
    silence_limit_s: float

    def to_line(self) -> bytes:
        return _to_line(asdict(self))


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job's process ended.

    Attributes:
        state: "failed" has a problem; "interrupted" follows a signal, and may have a result.
        locked: Whether it failed because another process uses the folder.
        result: The function's result as JSON values.
        problem: Title, detail and fix.
    """

    state: Literal["succeeded", "failed", "interrupted"]
    result: Mapping[str, Any] | None = None
    problem: Mapping[str, str] | None = None
    locked: bool = False


def make_problem(title: str, detail: str, fix: str) -> dict[str, str]:
    """Why a job did not succeed, in the form of an HTTP problem."""
    return {"title": title, "detail": detail, "fix": fix}


def describe_error(error: MedtaskError) -> dict[str, str]:
    """Why a job did not succeed: an error of medtask, named by the words of its class."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__)
    return make_problem(words.capitalize(), str(error), error.fix)


@dataclass(slots=True)
class JobChannel:
    """Sends messages of a job's process to its worker."""

    file: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: dict[str, Any] = field(default_factory=dict)
    _sent: float = 0.0

    def send_line(self, text: str) -> None:
        """Add a line to the job's log."""
        self._send({"line": text})

    def send_progress(self, *, at_once: bool = False, **facts: Any) -> None:
        """Change facts of the progress; they are sent a few times per second."""
        self._progress |= facts
        if at_once or time.monotonic() - self._sent >= _PROGRESS_INTERVAL_S:
            self._sent = time.monotonic()
            self._send({"progress": self._progress})

    def send_outcome(self, outcome: JobOutcome) -> None:
        """Send the last message, after the last progress."""
        if self._progress:
            self._send({"progress": self._progress})
        self._send({"outcome": asdict(outcome)})

    def _send(self, message: Mapping[str, Any]) -> None:
        line = _to_line(message)
        with self._lock:
            while line:  # a pipe takes a part of a long line if it is nearly full
                line = line[os.write(self.file, line) :]


@dataclass(slots=True)
class MessageReader:
    """Collects what a job's process has written, until it is taken."""

    progress: dict[str, Any] | None = None
    lines: list[str] = field(default_factory=list)
    outcome: JobOutcome | None = None
    _rest: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, data: bytes) -> None:
        """Add bytes of the process's output; incomplete lines are kept for later."""
        with self._lock:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._add_message(json.loads(line))

    def _add_message(self, message: Mapping[str, Any]) -> None:
        if "line" in message:
            self.lines.append(message["line"])
        elif "progress" in message:
            self.progress = message["progress"]
        elif "outcome" in message:
            self.outcome = JobOutcome(**message["outcome"])

    def take(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The last progress and the lines since the last call."""
        with self._lock:
            taken = self.progress, self.lines
            self.progress, self.lines = None, []
        return taken


def _to_line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, default=str).encode() + b"\n"
