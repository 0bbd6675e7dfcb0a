"""A task, an engine and rows: which prompts are asked, and which rows each answer is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol, cast

from medtask.decision.decide import decide
from medtask.engines.base import Engine
from medtask.errors import EngineError, TableError
from medtask.records import Answer, Fault, Prompt, Record, Scores
from medtask.tasks.prompt import build_prompt, prompt_key
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task

WINDOW = 1024  # rows: enough to sort them into batches of equal length, few enough to hold
KEPT_PROMPTS = 50_000  # different prompts whose answers predict remembers ...
KEPT_NUMBERS = 500_000  # ... and their probabilities: together some 50 MB


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """One row's answer. ``row`` counts from 1; ``key`` tells what was asked (see prompt_key), None where nothing was."""

    row: int
    key: bytes | None
    answer: Answer


class Memory(Protocol):
    """The answers that were given so far, as answer_rows looks them up."""

    def rows_between(self, first: int, last: int) -> Set[int]:
        """The rows from first to last that have an answer."""

    def answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """For each key the answer of the earliest row before ``row`` that was asked it; keys without one are left out."""


def predict(
    task: Task, model: Engine, rows: Iterable[Record] | Iterable[Mapping[str, object]], *, window: int = WINDOW
) -> Iterator[Answer]:
    """Answer every row, in the order of the rows.

    Rows are a table, mappings from column to value, or Records. They are read and answered ``window`` at a time, so
    memory does not grow with their number. TableError where two rows of a window have the same id; EngineError where
    the model cannot answer.
    """
    recent = _Recent(limit=min(KEPT_PROMPTS, KEPT_NUMBERS // len(task.candidates)))
    waiting: dict[int, Answer] = {}
    turn = 1
    for given in answer_rows(task, model, _read_rows(task, rows), recent, window=window):
        recent.remember(given)
        waiting[given.row] = given.answer
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def answer_rows(
    task: Task, engine: Engine, records: Iterable[Record], memory: Memory, *, window: int = WINDOW
) -> Generator[RowAnswer, None, None]:
    """Answer every row that has no answer in memory, as the engine gets to it: out of order within a window.

    Equal prompts are asked once. What is asked, and in which batches, depends on the task and the records alone: a
    run that was interrupted and resumed does the same arithmetic as one that was not.
    """
    if engine.caps.score == "none":
        raise EngineError(f"{engine.info.title} cannot give probabilities of labels", fix="choose a model of the hf engine")
    pending = iter(records)
    first = 1
    while chunk := list(islice(pending, window)):
        yield from _answer_window(task, engine, first, chunk, memory)
        first += len(chunk)


def _answer_window(task: Task, engine: Engine, first: int, records: Sequence[Record], memory: Memory) -> Iterator[RowAnswer]:
    last = first + len(records) - 1
    done = memory.rows_between(first, last)
    if len(done) == len(records):
        return
    ids = {row: record.id for row, record in enumerate(records, first)}
    _check_unique(ids.values())
    prompts: dict[bytes, Prompt] = {}
    rows: dict[bytes, list[int]] = {}
    for row, record in enumerate(records, first):
        prompt = build_prompt(task, record)
        if isinstance(prompt, Prompt):
            key = prompt_key(prompt)
            prompts.setdefault(key, prompt)
            rows.setdefault(key, []).append(row)
        elif row not in done:
            yield RowAnswer(row, None, decide(task, record.id, prompt))
    # The trap: a prompt that this window's interrupted pass has answered is still one of those asked, as "known".
    # Left out, it would change the batches of the others, and with them the last digits of their numbers.
    earlier = memory.answers_before(first, prompts)
    asked = {prompt.record_id: key for key, prompt in prompts.items() if key not in earlier}
    settled = earlier | memory.answers_before(last + 1, [key for key in asked.values() if rows[key][0] in done])
    for key, answer in settled.items():
        yield from (_copy(answer, row, key, ids[row]) for row in rows[key] if row not in done)
    known = {record_id for record_id, key in asked.items() if key in settled}
    if len(known) == len(asked):
        return
    for outcome in _score(engine, [prompts[key] for key in asked.values()], known):
        key = asked[outcome.record_id]
        answer = decide(task, outcome.record_id, outcome)
        yield RowAnswer(rows[key][0], key, answer)
        yield from (_copy(answer, row, key, ids[row]) for row in rows[key][1:] if row not in done)


def _score(engine: Engine, prompts: Sequence[Prompt], known: Set[str]) -> Iterator[Scores | Fault]:
    """What the engine says to each prompt that is not known, once."""
    waiting = {prompt.record_id for prompt in prompts} - known
    for outcome in engine.score(prompts, known):
        if outcome.record_id in waiting:
            waiting.remove(outcome.record_id)
            yield outcome
        elif outcome.record_id not in known:
            raise EngineError("the engine answered a record that it was not asked, or one record twice", fix=_PROTOCOL)
    if waiting:
        raise EngineError(f"the engine left {len(waiting)} of {len(prompts)} records without a word", fix=_PROTOCOL)


_PROTOCOL = "report this: an engine must give exactly one result per prompt"


def _copy(answer: Answer, row: int, key: bytes, record_id: str) -> RowAnswer:
    return RowAnswer(row, key, replace(answer, record_id=record_id, ms=0.0, tokens_read=0, tokens_reused=0))


def _check_unique(ids: Collection[str]) -> None:
    repeated = next((name for name, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise TableError(f"two rows have the id {repeated!r}", fix="give every row its own id, or leave `id:` out of the task")


def _read_rows(task: Task, rows: Iterable[Record] | Iterable[Mapping[str, object]]) -> Iterator[Record]:
    pending = iter(rows)
    head = list(islice(pending, 1))
    if head and isinstance(head[0], Record):
        return cast("Iterator[Record]", chain(head, pending))
    return read_records(task, cast("Iterator[Mapping[str, object]]", chain(head, pending)))


@dataclass(slots=True)
class _Recent:
    """The last ``limit`` different prompts and their answers: bounded, unlike a run's ledger."""

    limit: int
    answers: dict[bytes, Answer] = field(default_factory=dict)

    def rows_between(self, first: int, last: int) -> Set[int]:
        return frozenset()

    def answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        return {key: self.answers[key] for key in keys if key in self.answers}

    def remember(self, given: RowAnswer) -> None:
        if given.key is None:
            return
        self.answers[given.key] = self.answers.pop(given.key, given.answer)
        if len(self.answers) > self.limit:
            del self.answers[next(iter(self.answers))]
