"""The request of a session: what is asked, and which folder it may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtask.engines.base import Engine
from medtask.records import Record
from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """The work of a session.

    Attributes:
        task: The task; the ledger stores probabilities of its outcomes.
        data_digest: SHA-256 of all rows.
        rows: How many rows are to be answered.
        identity_facts: Further facts that must be equal when the run is resumed.
        out: The run folder; None resumes the newest run of the same identity next to the task file,
            or creates a folder there.
        new_run: Whether to start a new run instead of resuming one.
        force_lock: Whether to take over a folder locked by a process on another host.
        allow_remote: Whether models of further passes may be on other machines.
        cache: The file of answers that runs share; None for none.
        check_model: Raises an error if the model is not allowed for this work.
        mismatch_fix: The remedy if the folder belongs to other work; "" for that of runs.
        manifest_facts: Entries to add to the manifest.
        read_table: Reads all records of the table, also those beyond ``rows``. If it is given, rows
            whose text is unchanged keep their answers when the table changes; else a changed table
            is refused.
        pass_engines: The models of further passes, by their references; None to load them.
        final_facts: Entries that replace those of the final manifest.
        notes: Notes known before the session starts.
        started: Start of the command by `time.monotonic`.
    """

    task: Task
    data_digest: str
    rows: int
    identity_facts: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    new_run: bool = False
    force_lock: bool = False
    allow_remote: bool = False
    cache: Path | None = None
    check_model: Callable[[Engine], None] | None = None
    mismatch_fix: str = ""
    manifest_facts: Mapping[str, Any] = field(default_factory=dict)
    pass_engines: Mapping[str, Engine] | None = None
    final_facts: Mapping[str, Any] = field(default_factory=dict)
    read_table: Callable[[], Iterator[Record]] | None = None
    notes: Sequence[str] = ()
    started: float = field(default_factory=time.monotonic)
