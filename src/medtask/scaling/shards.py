"""Shards: contiguous ranges of the rows of a run, and the files of a shard's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from medtask.atomic_files import replace_text
from medtask.display import format_count
from medtask.errors import StorageError, UsageError
from medtask.json_content import Content, JsonContent, load_checked
from medtask.json_files import InvalidJsonFile, UnreadableJsonFile
from medtask.prediction.predictor import WINDOW
from medtask.runs.progress import NullRunObserver, RunObserver

DONE_FILE, PROGRESS_FILE, ATTEMPTS_FILE = "done.json", ".progress.json", ".attempts.json"
MAX_SHARDS = 9999  # the number of a folder has 4 digits
PROGRESS_SECONDS = 5.0
_SHARDS_PER_WORKER = 4  # so that processes wait little for the last one


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of rows.

    Attributes:
        number: The number of the shard, from 1.
        first: Its first row, from 1.
        rows: How many rows it has.
    """

    number: int
    first: int
    rows: int

    @property
    def last(self) -> int:
        """Its last row."""
        return self.first + self.rows - 1

    def describe(self) -> str:
        """ "3 (rows 2,049 to 3,072)"."""
        return f"{self.number} (rows {self.first:,} to {self.last:,})"


def choose_shards(rows: int, workers: int) -> int:
    """The number of shards for some processes: each long enough for whole windows of rows."""
    return max(1, min(rows, max(workers, min(_SHARDS_PER_WORKER * workers, rows // WINDOW))))


def split_rows(rows: int, shards: int) -> tuple[Shard, ...]:
    """Split rows into shards of about the same size.

    Where the shards are long enough, they begin where a run without shards begins a new window of
    rows: then the rows are read in the same batches.

    Raises:
        UsageError: There are fewer rows than shards, or the number is not valid.
    """
    if not 1 <= shards <= min(rows, MAX_SHARDS):
        raise UsageError(
            f"{format_count(rows, 'row')} cannot be split into {format_count(shards, 'shard')}",
            fix=f"set --shards to a number from 1 to {min(rows, MAX_SHARDS):,}",
        )
    unit = WINDOW if rows >= 4 * WINDOW * shards else 1
    units = -(-rows // unit)
    starts = [unit * (units * number // shards) for number in range(shards)] + [rows]
    return tuple(
        Shard(number, starts[number - 1] + 1, starts[number] - starts[number - 1])
        for number in range(1, shards + 1)
    )


@dataclass(frozen=True, slots=True)
class ShardAttempt:
    """One process that worked on a shard.

    Attributes:
        host: The name of the machine.
        job: The job of a scheduler; "" for none.
        ledger_bytes: Size of the shard's ledger when it started, which grows with the answers.
        state: "running", "finished", "interrupted", or "failed". A process that was killed leaves
            "running".
        error: What failed; "" for nothing. It has no record text.
        exit_code: The exit code; None while it runs.
    """

    host: str
    job: str
    ledger_bytes: int
    state: str = "running"
    error: str = ""
    exit_code: int | None = None


class ShardProgress(JsonContent):
    """How far the running process of a shard is; durations are those of its own clock.

    Attributes:
        done: Rows with a committed answer.
        new: Those that this process has answered.
        seconds: Time of this process for them.
    """

    done: int
    new: int
    seconds: float


class _Egress(JsonContent):
    connections_attempted: int
    sent_to: dict[str, list[str]]


class _DoneFile(JsonContent):
    timing: dict[str, int | float | None]  # numbers of sessions stay whole
    egress: _Egress
    hardware: dict[str, Any]
    model: dict[str, Any]
    models_of_passes: dict[str, dict[str, Any]]


class _AttemptsFile(JsonContent):
    model_config = ConfigDict(strict=False)

    attempts: list[ShardAttempt]


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The folder of a shard: a run folder without output tables.

    ``done.json`` is written last: it marks the shard as complete. Hidden files hold attempts and
    progress; nothing depends on them.
    """

    path: Path
    shard: Shard

    def read_done(self) -> Mapping[str, Any] | None:
        """The mark of a complete shard; None if the shard is not complete."""
        found = _read_object(self.path / DONE_FILE, _DoneFile)
        return found.model_dump() if found else None

    def write_done(self, content: Mapping[str, Any]) -> None:
        replace_text(self.path / DONE_FILE, json.dumps(content, indent=2, default=str) + "\n")

    @property
    def ledger(self) -> Path:
        """The file with the answers."""
        return self.path / "ledger.db"

    def measure_ledger(self) -> int:
        """Size of the ledger in bytes; 0 if there is none."""
        return self.ledger.stat().st_size if self.ledger.exists() else 0

    def read_attempts(self) -> list[ShardAttempt]:
        """The attempts, the last one at the end."""
        found = _read_object(self.path / ATTEMPTS_FILE, _AttemptsFile)
        return found.attempts if found else []

    def write_attempts(self, attempts: list[ShardAttempt]) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"attempts": [asdict(one) for one in attempts]}
        replace_text(self.path / ATTEMPTS_FILE, json.dumps(content) + "\n")

    def read_progress(self) -> ShardProgress | None:
        return _read_object(self.path / PROGRESS_FILE, ShardProgress)


def _read_object(path: Path, schema: type[Content]) -> Content | None:
    """A JSON object; None if there is no file, or not a valid one.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        return load_checked(path, schema)
    except UnreadableJsonFile as error:
        raise StorageError(f"{path} cannot be read: {error}", fix="make it readable") from None
    except (FileNotFoundError, InvalidJsonFile):
        return None


class ProgressFileObserver(NullRunObserver):
    """Passes progress on, and writes it to a file every few seconds.

    Args:
        folder: The shard's folder.
        observer: Receives everything too.
    """

    def __init__(self, folder: ShardFolder, observer: RunObserver) -> None:
        self._folder, self._observer = folder, observer
        self._before = self._done = 0
        self._started = time.monotonic()
        self._written: float | None = None

    def on_note(self, text: str) -> None:
        self._observer.on_note(text)

    def on_start(self, rows: int, done: int) -> None:
        self._before = self._done = done
        self._started = time.monotonic()
        self._observer.on_start(rows, done)
        self._write()

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self._done = done
        self._observer.on_batch(done, tokens_read, tokens_reused)
        if self._written is None or time.monotonic() - self._written >= PROGRESS_SECONDS:
            self._write()

    def on_finish(self) -> None:
        self._write()
        self._observer.on_finish()

    def _write(self) -> None:
        self._written = time.monotonic()
        progress = ShardProgress(
            done=self._done,
            new=self._done - self._before,
            seconds=round(self._written - self._started, 3),
        )
        # Progress is not needed for the answers: a full disk is reported by the ledger.
        with suppress(StorageError):
            replace_text(self._folder.path / PROGRESS_FILE, progress.model_dump_json() + "\n")
