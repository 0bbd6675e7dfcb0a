"""Prediction for rows, in windows: equal prompts are asked once, and further passes follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol, cast

from medtask.engines.base import Engine
from medtask.engines.registry import choose_engine, load_model
from medtask.errors import InputError, TableError
from medtask.prediction.asking import ask_prompts, check_engine
from medtask.prediction.deciding import decide_answer
from medtask.prediction.long_records import answer_long_record
from medtask.prediction.passes import meets_condition, merge_pass_answer, went_through_pass
from medtask.prediction.prompt_versions import match_prompts
from medtask.prediction.quotes import locate_quotes
from medtask.records import Answer, Fault, Prompt, Record, Status
from medtask.tables.read import read_table
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Pass, Task

WINDOW = 1024  # rows: enough to form batches of similar length, few enough for memory
CACHED_PROMPTS = 50_000  # different prompts whose answers predict caches ...
CACHED_PROBABILITIES = 500_000  # ... and their probabilities: together some 50 MB


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The answer for one row.

    Attributes:
        row: The number of the row, from 1.
        key: The hash of the prompt; None if the model was not asked.
        answer: The answer.
    """

    row: int
    key: bytes | None
    answer: Answer


class AnswerCache(Protocol):
    """The earlier answers, as `answer_rows` looks them up."""

    def list_answered_rows(self, first: int, last: int) -> Set[int]:
        """The rows from first to last that have an answer."""

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """For each key, the answer of the earliest row before ``row`` that has this key.

        Keys without an answer are omitted.
        """


class AnswerMethod(Protocol):
    """How the rows of a run are answered, as `answer_rows` does it."""

    def __call__(
        self,
        task: Task,
        engine: Engine,
        records: Iterable[Record],
        cache: AnswerCache,
        *,
        pass_engines: Mapping[str, Engine] | None = None,
    ) -> Generator[RowAnswer, None, None]:
        """Yield an answer for every row that is not in ``cache``."""


def predict_uncalibrated(
    task: Task,
    model: Engine,
    rows: Iterable[Record] | Iterable[Mapping[str, object]],
    *,
    window: int = WINDOW,
    pass_engines: Mapping[str, Engine] | None = None,
) -> Iterator[Answer]:
    """Answer every row, in order, with the model's own probabilities.

    Rows are read and answered ``window`` at a time, so memory does not grow with their number.

    Args:
        task: The task.
        model: The model.
        rows: A table, mappings from column to value, or Records.
        window: How many rows are answered at a time.
        pass_engines: The models of further passes; by default they are loaded.

    Raises:
        TableError: Two rows of a window have the same id.
        EngineError: The model cannot answer.
        InputError: The task fits thresholds, which requires a run with gold.
    """
    if get_task_kind(task).threshold_fit:
        fix = (
            "run the task (medtask run, medtask.run), or write the thresholds that a run has "
            "fitted into the task"
        )
        raise InputError(
            "thresholds are fitted on the gold of a whole table, not row by row", fix=fix
        )
    cache = _RecentAnswers(
        limit=min(CACHED_PROMPTS, CACHED_PROBABILITIES // (len(task.outcomes) or 100))
    )
    waiting: dict[int, Answer] = {}
    turn = 1
    with ExitStack() as stack:
        if pass_engines is None:
            pass_engines = load_pass_engines(task)
            for pass_engine in pass_engines.values():
                stack.callback(pass_engine.close)
        task = match_prompts(task, model, pass_engines)
        for row_answer in answer_rows(
            task, model, _read_rows(task, rows), cache, window=window, pass_engines=pass_engines
        ):
            cache.add(row_answer)
            waiting[row_answer.row] = row_answer.answer
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def load_pass_engines(task: Task, *, allow_remote: bool = False) -> dict[str, Engine]:
    """Load the models of further passes, by their references.

    ``allow_remote`` permits models on other machines.
    """
    names = dict.fromkeys(further.model for further in task.passes if further.model is not None)
    return {
        name: load_model(name, allow_remote=allow_remote and choose_engine(name).spec.traits.server)
        for name in names
    }


def check_engines(task: Task, engine: Engine, pass_engines: Mapping[str, Engine]) -> None:
    """Raise EngineError or InputError if a model cannot answer the questions of its pass."""
    check_engine(task, engine)
    for further in task.passes:
        check_engine(further.task, pass_engines[further.model] if further.model else engine)


def answer_rows(
    task: Task,
    engine: Engine,
    records: Iterable[Record],
    cache: AnswerCache,
    *,
    window: int = WINDOW,
    pass_engines: Mapping[str, Engine] | None = None,
) -> Generator[RowAnswer, None, None]:
    """Yield an answer for every row that is not in ``cache``; out of order within a window.

    Equal prompts are asked once. ``pass_engines`` are the models of further passes. Prompts and
    batches depend on the task and the records only, so a resumed run does the same arithmetic as
    one that was not interrupted.
    """
    pass_engines = pass_engines or {}
    check_engines(task, engine, pass_engines)
    pending = iter(records)
    first = 1
    while window_records := list(islice(pending, window)):
        yield from _answer_window(
            _PassRunner(task, engine, pass_engines), first, window_records, cache
        )
        first += len(window_records)


@dataclass(frozen=True, slots=True)
class _PassRunner:
    """A task, its engine, and the engines of its further passes."""

    task: Task
    engine: Engine
    pass_engines: Mapping[str, Engine]

    def answer_prompts(
        self,
        records: Mapping[str, Record],
        prompts: Sequence[Prompt],
        cached: Mapping[str, Answer],
    ) -> Iterator[Answer]:
        """Yield one final answer per prompt that is not in ``cached``, as soon as it is final."""
        waiting: dict[str, Answer] = {}
        for answer in _answer_prompts(self.task, self.engine, records, prompts, cached):
            if self._is_final(answer, self.task.passes):
                yield answer
            else:
                waiting[answer.record_id] = answer
        for index, further in enumerate(self.task.passes):
            chosen = {
                name: answer
                for name, answer in waiting.items()
                if meets_condition(further.when, answer)
            }
            for answer in self._run_pass(further, records, prompts, chosen, cached):
                waiting[answer.record_id] = answer
            for name in list(waiting):
                if self._is_final(waiting[name], self.task.passes[index + 1 :]):
                    yield waiting.pop(name)

    def _is_final(self, answer: Answer, later_passes: Sequence[Pass]) -> bool:
        return not any(meets_condition(further.when, answer) for further in later_passes)

    def _run_pass(
        self,
        further: Pass,
        records: Mapping[str, Record],
        prompts: Sequence[Prompt],
        chosen: Mapping[str, Answer],
        cached: Mapping[str, Answer],
    ) -> Iterator[Answer]:
        engine = self.pass_engines[further.model] if further.model else self.engine
        # As in the first pass, rows finished by an interrupted session keep their places in the
        # batches.
        pass_cached = {
            name: answer for name, answer in cached.items() if went_through_pass(further, answer)
        }
        pass_prompts = []
        for prompt in prompts:
            if prompt.record_id in chosen or prompt.record_id in pass_cached:
                pass_prompt = build_prompt(further.task, records[prompt.record_id])
                if isinstance(pass_prompt, Prompt):
                    pass_prompts.append(pass_prompt)
                elif prompt.record_id in chosen:
                    yield merge_pass_answer(
                        chosen[prompt.record_id],
                        decide_answer(further.task, prompt.record_id, pass_prompt),
                        further.name,
                    )
        for answer in _answer_prompts(further.task, engine, records, pass_prompts, pass_cached):
            yield merge_pass_answer(chosen[answer.record_id], answer, further.name)


def _answer_prompts(
    task: Task,
    engine: Engine,
    records: Mapping[str, Record],
    prompts: Sequence[Prompt],
    cached: Collection[str],
) -> Iterator[Answer]:
    """One pass over the prompts: yield an answer for each that is not cached."""
    too_long: list[Fault] = []
    for output in ask_prompts(task, engine, prompts, cached):
        if isinstance(output, Fault):
            if output.status is Status.TOO_LONG and task.gate.too_long != "error":
                too_long.append(output)
            else:
                yield decide_answer(task, output.record_id, output)
        else:
            yield decide_answer(task, output.prompt.record_id, output)
    by_id = {prompt.record_id: prompt for prompt in prompts} if too_long else {}
    for fault in too_long:  # one at a time: each is long enough to fill a batch
        yield answer_long_record(
            task, engine, records[fault.record_id], by_id[fault.record_id], fault
        )


def _answer_window(
    runner: _PassRunner, first: int, records: Sequence[Record], cache: AnswerCache
) -> Iterator[RowAnswer]:
    last = first + len(records) - 1
    answered_rows = cache.list_answered_rows(first, last)
    if len(answered_rows) == len(records):
        return
    by_row = dict(enumerate(records, first))
    _check_unique_ids([record.id for record in records])
    prompts: dict[bytes, Prompt] = {}
    rows: dict[bytes, list[int]] = {}
    for row, record in enumerate(records, first):
        prompt = build_prompt(runner.task, record)
        if isinstance(prompt, Prompt):
            key = hash_prompt(prompt)
            prompts.setdefault(key, prompt)
            rows.setdefault(key, []).append(row)
        elif row not in answered_rows:
            yield RowAnswer(row, None, decide_answer(runner.task, record.id, prompt))
    # Prompts of this window that an interrupted session has answered are still passed on, as
    # cached. Without them, the other batches would change, and with them the last digits of their
    # numbers.
    earlier = cache.find_answers_before(first, prompts)
    asked = {prompt.record_id: key for key, prompt in prompts.items() if key not in earlier}
    cached_by_key = earlier | cache.find_answers_before(
        last + 1, [key for key in asked.values() if rows[key][0] in answered_rows]
    )
    for key, answer in cached_by_key.items():
        yield from (
            copy_answer(runner.task, answer, row, key, by_row[row])
            for row in rows[key]
            if row not in answered_rows
        )
    cached = {
        record_id: cached_by_key[key] for record_id, key in asked.items() if key in cached_by_key
    }
    if len(cached) == len(asked):
        return
    by_id = {record.id: record for record in records}
    for answer in runner.answer_prompts(by_id, [prompts[key] for key in asked.values()], cached):
        key = asked[answer.record_id]
        own = locate_quotes(runner.task, by_id[answer.record_id], answer)
        yield RowAnswer(rows[key][0], key, own)
        yield from (
            copy_answer(runner.task, answer, row, key, by_row[row])
            for row in rows[key][1:]
            if row not in answered_rows
        )


def copy_answer(task: Task, answer: Answer, row: int, key: bytes, record: Record) -> RowAnswer:
    """The answer for another record with the same prompt, whose cells may differ."""
    own = replace(answer, record_id=record.id, ms=0.0, tokens_read=0, tokens_reused=0)
    return RowAnswer(row, key, locate_quotes(task, record, own))


def _check_unique_ids(ids: Collection[str]) -> None:
    repeated = next((name for name, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise TableError(
            f"two rows have the id {repeated!r}",
            fix="give every row its own id, or leave `id:` out of the task",
        )


def _read_rows(
    task: Task, rows: Iterable[Record] | Iterable[Mapping[str, object]]
) -> Iterator[Record]:
    if not isinstance(rows, Table) and hasattr(rows, "columns"):  # a data frame
        rows = read_table(rows)
    if isinstance(rows, Table):
        return read_records(task, resolve_repeated_ids(rows, task.id_column))
    pending = iter(rows)
    head = list(islice(pending, 1))
    if head and isinstance(head[0], Record):
        return cast("Iterator[Record]", chain(head, pending))
    return read_records(task, cast("Iterator[Mapping[str, object]]", chain(head, pending)))


@dataclass(slots=True)
class _RecentAnswers:
    """A cache of the last ``limit`` different prompts; unlike a run's ledger, it is bounded."""

    limit: int
    answers: dict[bytes, Answer] = field(default_factory=dict)

    def list_answered_rows(self, first: int, last: int) -> Set[int]:
        return frozenset()

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        return {key: self.answers[key] for key in keys if key in self.answers}

    def add(self, row_answer: RowAnswer) -> None:
        if row_answer.key is None:
            return
        self.answers[row_answer.key] = self.answers.pop(row_answer.key, row_answer.answer)
        if len(self.answers) > self.limit:
            del self.answers[next(iter(self.answers))]
