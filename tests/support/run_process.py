"""A run in a separate process, for tests that kill it; it reports its progress through a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from medtask.engines.fake import FakeEngine
from medtask.errors import MedtaskError
from medtask.records import Prompt, Scores
from medtask.runs import ledger
from medtask.runs.local_run import run
from medtask.runs.progress import NullRunObserver
from medtask.runs.signals import Interrupted, limit_shutdown
from medtask.tasks.load import load_task
from support.file_size_limit import set_file_size_limit

FAULTY_RECORDS = {"nan": {"c-77"}, "too_long": {"c-99"}}


class ReportingEngine(FakeEngine):
    """Sends how many prompts it was asked, before it answers."""

    pipe: Connection | None = None

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        if self.pipe:
            self.pipe.send(self.prompt_count + len(batch))
        return super().score_batch(batch)


@dataclass
class PipeProgress(NullRunObserver):
    """``file_limit``: no file may grow beyond so many bytes. ``blocks_commits``: nothing can be
    committed for a minute.
    """

    pipe: Connection
    file_limit: int | None
    blocks_commits: bool

    def on_note(self, text: str) -> None:
        pass

    def on_start(self, rows: int, done: int) -> None:
        if self.file_limit:
            set_file_size_limit(self.file_limit)
        self.pipe.send(done)
        if self.blocks_commits:
            ledger.Ledger.flush = self.block_commit  # type: ignore[method-assign, assignment]

    def block_commit(self, *_: object) -> None:
        self.pipe.send("stuck")
        time.sleep(60)

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        pass

    def on_finish(self) -> None:
        self.pipe.send("all asked")


def run_in_process(
    pipe: Connection,
    task: str,
    rows: str,
    out: str,
    *,
    ms_per_row: float = 0.0,
    limit: int | None = None,
    file_limit: int | None = None,
    stuck: bool = False,
    tell_asked: bool = False,
    flush_s: float = 0.005,
) -> None:
    """Send how many rows are done at the start, "all asked", and last the result or the text of the
    error; exit with its code.

    ``tell_asked``: also send before each batch how many prompts were asked. ``flush_s``: the ledger
    is committed so often; the default lets kills hit many commits of a short run.
    """
    ledger.FLUSH_SECONDS = flush_s
    engine = ReportingEngine(ms_per_row=ms_per_row, **FAULTY_RECORDS)
    engine.pipe = pipe if tell_asked else None
    try:
        with limit_shutdown() if stuck else nullcontext():
            result = run(
                load_task(task),
                engine,
                rows,
                out=out,
                limit=limit,
                progress=PipeProgress(pipe, file_limit, stuck),
            )
    except Interrupted as stop:
        sys.exit(stop.exit_code)
    except MedtaskError as error:
        pipe.send(f"{error} | {error.fix}")
        sys.exit(error.exit_code)
    outcome: dict[str, Any] = {"state": result.state, "asked": result.new_answers}
    pipe.send(outcome)
    sys.exit(result.exit_code)
