"""Answers that runs share: which can be, where they are, and how a run finds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medtask.engines.base import Engine
from medtask.errors import UsageError
from medtask.prediction.predictor import RowAnswer
from medtask.records import Answer
from medtask.runs.cache_file import CacheFile
from medtask.runs.ledger import Ledger
from medtask.tasks.task import Task

SUFFIXES = (".db", ".sqlite", ".sqlite3")


def locate_cache(cache: bool | str | Path) -> Path | None:
    """The file: the given one, or the default one in the user's cache folder; None for no cache.

    Raises:
        UsageError: The name is not that of a SQLite file. A damaged file is renamed, so that a
            table that was named by mistake would be.
    """
    if cache is False:
        return None
    if cache is not True:
        path = Path(cache)
        if path.suffix not in SUFFIXES:
            raise UsageError(
                f"{path} is not a valid name for an answer cache",
                fix=f"use a name that ends in {SUFFIXES[0]}, such as {path.with_suffix('.db')}",
            )
        return path
    import platformdirs

    return Path(platformdirs.user_cache_dir("medtask")) / "answers.db"


def find_cache_obstacle(task: Task, engines: Sequence[Engine]) -> str | None:
    """Why answers of a task cannot be cached; None if they can."""
    tasks = [task, *(further.task for further in task.passes)]
    if any(one.kind_spec.generated or one.reasoning for one in tasks):
        return "the model writes text, and a cache holds probabilities only"
    if any(engine.info.traits.server for engine in engines):
        return "the model of a server can change under the same name"
    return None


@dataclass(slots=True)
class CachedLedger:
    """A ledger whose missing answers are looked up in a cache; see `AnswerCache`.

    Attributes:
        ledger: The ledger.
        file: The cache; None for none.
        found: The hashes of the prompts that were found in the cache.
    """

    ledger: Ledger
    file: CacheFile | None = None
    found: set[bytes] = field(default_factory=set)

    def list_answered_rows(self, first: int, last: int) -> Set[int]:
        return self.ledger.list_answered_rows(first, last)

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        answers = self.ledger.find_answers_before(row, keys)
        if self.file is None:
            return answers
        missing = [key for key in keys if key not in answers]
        # After an interruption the batches are those of a run without one: what a model was asked
        # keeps its place in them, and what was copied from the cache has none.
        later = self.ledger.find_answers_before(sys.maxsize, missing)
        copied = {key: answer for key, answer in later.items() if _is_copy(answer)}
        cached = self.file.find([key for key in missing if key not in later])
        self.found.update(cached)
        return answers | copied | cached

    def add(self, row_answer: RowAnswer) -> bool:
        """Add a new answer to the cache; returns whether it came from there."""
        if row_answer.key in self.found:
            return True
        if self.file is not None:
            self.file.add(row_answer)
        return False


@contextmanager
def open_cached_ledger(
    path: Path | None,
    ledger: Ledger,
    task: Task,
    engines: tuple[Engine, Mapping[str, Engine]],
    on_note: Callable[[str], None],
) -> Iterator[CachedLedger]:
    """Open a cache beside a ledger for the block.

    Args:
        path: The file; None for no cache.
        ledger: The ledger of the run.
        task: The task.
        engines: The model, and the models of further passes.
        on_note: Receives what the user should know.
    """
    engine, pass_engines = engines
    obstacle = find_cache_obstacle(task, [engine, *pass_engines.values()]) if path else None
    if obstacle:
        on_note(f"the answer cache is not used: {obstacle}")
    if path is None or obstacle:
        yield CachedLedger(ledger)
        return
    file = CacheFile(path, task, engine, pass_engines)
    try:
        yield CachedLedger(ledger, file)
    finally:
        file.close()
        for note in file.notes:
            on_note(note)


def _is_copy(answer: Answer) -> bool:
    return not (answer.ms or answer.tokens_read or answer.tokens_reused)
