"""A task, an engine and rows: which prompts are asked, and which rows each answer is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol, cast

from medtask.decision.asking import ask, check_engine
from medtask.decision.decide import decide
from medtask.decision.long import ask_long
from medtask.decision.passes import take_over, wants_pass, was_asked
from medtask.engines.base import Engine
from medtask.engines.registry import choose_engine, load_model
from medtask.errors import InputError, TableError
from medtask.records import Answer, Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt, prompt_key
from medtask.tasks.rows import read_records
from medtask.tasks.task import AnyLabels, Pass, Task

WINDOW = 1024  # rows: enough to sort them into batches of equal length, few enough to hold
KEPT_PROMPTS = 50_000  # different prompts whose answers predict remembers ...
KEPT_NUMBERS = 500_000  # ... and their probabilities: together some 50 MB


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """One row's answer. ``row`` counts from 1; ``key`` tells what was asked (see prompt_key), None
    where nothing was.
    """

    row: int
    key: bytes | None
    answer: Answer


class Memory(Protocol):
    """The answers that were given so far, as answer_rows looks them up."""

    def rows_between(self, first: int, last: int) -> Set[int]:
        """The rows from first to last that have an answer."""

    def answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """For each key the answer of the earliest row before ``row`` that was asked it; keys
        without one are left out.
        """


def predict(
    task: Task,
    model: Engine,
    rows: Iterable[Record] | Iterable[Mapping[str, object]],
    *,
    window: int = WINDOW,
) -> Iterator[Answer]:
    """Answer every row, in the order of the rows.

    Rows are a table, mappings from column to value, or Records. They are read and answered
    ``window`` at a time, so memory does not grow with their number. TableError where two rows of a
    window have the same id; EngineError where the model cannot answer; InputError where thresholds
    are to be fitted, which takes a run with gold.
    """
    if isinstance(task.form, AnyLabels) and task.form.fit:
        fix = (
            "run the task (medtask run, medtask.run), or write the thresholds that a run has "
            "fitted into the task"
        )
        raise InputError(
            "thresholds are fitted on the gold of a whole table, not row by row", fix=fix
        )
    recent = _Recent(limit=min(KEPT_PROMPTS, KEPT_NUMBERS // (len(task.outcomes) or 100)))
    waiting: dict[int, Answer] = {}
    turn = 1
    with ExitStack() as stack:
        others = load_others(task)
        for other in others.values():
            stack.callback(other.close)
        for given in answer_rows(
            task, model, _read_rows(task, rows), recent, window=window, others=others
        ):
            recent.remember(given)
            waiting[given.row] = given.answer
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def load_others(task: Task, *, allow_remote: bool = False) -> dict[str, Engine]:
    """The models that further passes name, by their references. ``allow_remote``: they may be on
    other machines.
    """
    names = dict.fromkeys(further.model for further in task.passes if further.model is not None)
    return {
        name: load_model(name, allow_remote=allow_remote and choose_engine(name).engine == "http")
        for name in names
    }


def check_engines(task: Task, engine: Engine, others: Mapping[str, Engine]) -> None:
    """EngineError, or InputError, where a model can never answer what its pass asks."""
    check_engine(task, engine)
    for further in task.passes:
        check_engine(further.task, others[further.model] if further.model else engine)


def answer_rows(
    task: Task,
    engine: Engine,
    records: Iterable[Record],
    memory: Memory,
    *,
    window: int = WINDOW,
    others: Mapping[str, Engine] | None = None,
) -> Generator[RowAnswer, None, None]:
    """Answer every row that has no answer in memory, as the engine gets to it: out of order within
    a window.

    Equal prompts are asked once. ``others``: the models that further passes name. What is asked,
    and in which batches, depends on the task and the records alone: a run that was interrupted and
    resumed does the same arithmetic as one that was not.
    """
    others = others or {}
    check_engines(task, engine, others)
    pending = iter(records)
    first = 1
    while chunk := list(islice(pending, window)):
        yield from _answer_window(_Panel(task, engine, others), first, chunk, memory)
        first += len(chunk)


@dataclass(frozen=True, slots=True)
class _Panel:
    """Who is asked what."""

    task: Task
    engine: Engine
    others: Mapping[str, Engine]

    def answer(
        self,
        records: Mapping[str, Record],
        prompts: Sequence[Prompt],
        settled: Mapping[str, Answer],
    ) -> Iterator[Answer]:
        """One final answer per prompt that has none in ``settled``, as they become final."""
        waiting: dict[str, Answer] = {}
        for answer in _ask_once(self.task, self.engine, records, prompts, settled):
            if self._is_final(answer, self.task.passes):
                yield answer
            else:
                waiting[answer.record_id] = answer
        for place, further in enumerate(self.task.passes):
            chosen = {
                name: answer for name, answer in waiting.items() if wants_pass(further.when, answer)
            }
            for answer in self._ask_again(further, records, prompts, chosen, settled):
                waiting[answer.record_id] = answer
            for name in list(waiting):
                if self._is_final(waiting[name], self.task.passes[place + 1 :]):
                    yield waiting.pop(name)

    def _is_final(self, answer: Answer, rest: Sequence[Pass]) -> bool:
        return not any(wants_pass(further.when, answer) for further in rest)

    def _ask_again(
        self,
        further: Pass,
        records: Mapping[str, Record],
        prompts: Sequence[Prompt],
        chosen: Mapping[str, Answer],
        settled: Mapping[str, Answer],
    ) -> Iterator[Answer]:
        engine = self.others[further.model] if further.model else self.engine
        # As in the first pass: rows that an interrupted session has finished take their places in
        # the batches.
        known = {name: answer for name, answer in settled.items() if was_asked(further, answer)}
        asked = []
        for prompt in prompts:
            if prompt.record_id in chosen or prompt.record_id in known:
                again = build_prompt(further.task, records[prompt.record_id])
                if isinstance(again, Prompt):
                    asked.append(again)
                elif prompt.record_id in chosen:
                    yield take_over(
                        chosen[prompt.record_id],
                        decide(further.task, prompt.record_id, again),
                        further.name,
                    )
        for answer in _ask_once(further.task, engine, records, asked, known):
            yield take_over(chosen[answer.record_id], answer, further.name)


def _ask_once(
    task: Task,
    engine: Engine,
    records: Mapping[str, Record],
    prompts: Sequence[Prompt],
    known: Collection[str],
) -> Iterator[Answer]:
    """One pass over the prompts: an answer to each that is not known."""
    long: list[Fault] = []
    for heard in ask(task, engine, prompts, known):
        if isinstance(heard, Fault):
            if heard.status is Status.TOO_LONG and task.gate.too_long != "error":
                long.append(heard)
            else:
                yield decide(task, heard.record_id, heard)
        else:
            yield decide(task, heard.prompt.record_id, heard)
    by_id = {prompt.record_id: prompt for prompt in prompts} if long else {}
    for fault in long:  # each by itself: they are long enough to fill a batch
        yield ask_long(task, engine, records[fault.record_id], by_id[fault.record_id], fault)


def _answer_window(
    panel: _Panel, first: int, records: Sequence[Record], memory: Memory
) -> Iterator[RowAnswer]:
    last = first + len(records) - 1
    done = memory.rows_between(first, last)
    if len(done) == len(records):
        return
    ids = {row: record.id for row, record in enumerate(records, first)}
    _check_unique(ids.values())
    prompts: dict[bytes, Prompt] = {}
    rows: dict[bytes, list[int]] = {}
    for row, record in enumerate(records, first):
        prompt = build_prompt(panel.task, record)
        if isinstance(prompt, Prompt):
            key = prompt_key(prompt)
            prompts.setdefault(key, prompt)
            rows.setdefault(key, []).append(row)
        elif row not in done:
            yield RowAnswer(row, None, decide(panel.task, record.id, prompt))
    # The trap: a prompt that this window's interrupted pass has answered is still one of those
    # asked, as "known". Left out, it would change the batches of the others, and with them the last
    # digits of their
    # numbers.
    earlier = memory.answers_before(first, prompts)
    asked = {prompt.record_id: key for key, prompt in prompts.items() if key not in earlier}
    settled = earlier | memory.answers_before(
        last + 1, [key for key in asked.values() if rows[key][0] in done]
    )
    for key, answer in settled.items():
        yield from (_copy(answer, row, key, ids[row]) for row in rows[key] if row not in done)
    known = {record_id: settled[key] for record_id, key in asked.items() if key in settled}
    if len(known) == len(asked):
        return
    by_id = {record.id: record for record in records}
    for answer in panel.answer(by_id, [prompts[key] for key in asked.values()], known):
        key = asked[answer.record_id]
        yield RowAnswer(rows[key][0], key, answer)
        yield from (_copy(answer, row, key, ids[row]) for row in rows[key][1:] if row not in done)


def _copy(answer: Answer, row: int, key: bytes, record_id: str) -> RowAnswer:
    return RowAnswer(
        row, key, replace(answer, record_id=record_id, ms=0.0, tokens_read=0, tokens_reused=0)
    )


def _check_unique(ids: Collection[str]) -> None:
    repeated = next((name for name, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise TableError(
            f"two rows have the id {repeated!r}",
            fix="give every row its own id, or leave `id:` out of the task",
        )


def _read_rows(
    task: Task, rows: Iterable[Record] | Iterable[Mapping[str, object]]
) -> Iterator[Record]:
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
