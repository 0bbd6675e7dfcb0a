"""The rows of a table in the random order of a cascade, and questions about a part of them."""

from __future__ import annotations

import sys
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medtask.engines.base import Engine
from medtask.prediction.predictor import AnswerCache, RowAnswer, answer_rows
from medtask.prediction.student import TaughtRows
from medtask.records import Answer, Prompt, Record
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.task import Task

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShuffledPrompts:
    """The distinct prompts of a table, in the order in which a shuffled table first has them.

    Attributes:
        prompt_of: The number of each row's prompt, from 0; -1 for rows without one.
        order: Indices of the rows that have a prompt, in this order.
        keys: The first 8 bytes of the hash of each row's prompt.
        count: The number of distinct prompts.
    """

    prompt_of: IntArray
    order: IntArray
    keys: NDArray[np.uint64]
    count: int

    def find_rows(self, first: int, last: int) -> IntArray:
        """The numbers, from 1, of the rows with prompts from first to before last."""
        return np.flatnonzero((self.prompt_of >= first) & (self.prompt_of < last)) + 1

    def find_rows_without_prompt(self) -> IntArray:
        return np.flatnonzero(self.prompt_of < 0) + 1

    def move_forward(self, first: int, chosen: IntArray) -> ShuffledPrompts:
        """The same prompts, with the chosen ones directly after the ``first`` ones."""
        numbers = self.prompt_of[self.order]
        part = np.where(numbers < first, 0, np.where(np.isin(numbers, chosen), 1, 2))
        return _number_prompts(self.keys, self.order[np.argsort(part, kind="stable")])

    def shuffle_rest(self, first: int, seed: Sequence[int]) -> ShuffledPrompts:
        """The same prompts, with all after the ``first`` ones in another random order."""
        is_rest = self.prompt_of[self.order] >= first
        rest = np.random.default_rng(seed).permutation(self.order[is_rest])
        return _number_prompts(self.keys, np.concatenate([self.order[~is_rest], rest]))

    def find_first_rows(self, first: int, last: int) -> IntArray:
        """The number of the first row of each prompt from first to before last, sorted."""
        rows = self.find_rows(first, last)
        _, places = np.unique(self.prompt_of[rows - 1], return_index=True)
        return rows[np.sort(places)]

    def sample_rows(self, first: int, size: int) -> IntArray:
        """The rows with the prompt ``first`` or a later one that are first in the order.

        If the order of these rows is random, they are a simple random sample.
        """
        remaining = self.order[self.prompt_of[self.order] >= first]
        return np.sort(remaining[:size]) + 1

    def find_sampled_rows(self, first: int, size: int) -> IntArray:
        """The rows of `sample_rows` and their copies."""
        sample = self.sample_rows(first, size)
        return self.find_rows(first, int(self.prompt_of[sample - 1].max(initial=-1)) + 1)


def shuffle_prompts(task: Task, records: Iterable[Record], seed: int) -> ShuffledPrompts:
    """Read a table once, and number its distinct prompts in random order."""
    keys, asked = [], []
    for record in records:
        prompt = build_prompt(task, record)
        asked.append(isinstance(prompt, Prompt))
        keys.append(_shorten_key(hash_prompt(prompt)) if isinstance(prompt, Prompt) else 0)
    key_array, has_prompt = np.array(keys, dtype=np.uint64), np.array(asked, dtype=bool)
    order = np.random.default_rng(seed).permutation(len(keys))
    return _number_prompts(key_array, order[has_prompt[order]])


def _number_prompts(keys: NDArray[np.uint64], order: IntArray) -> ShuffledPrompts:
    _, first_places, codes = np.unique(keys[order], return_index=True, return_inverse=True)
    number_of_code = np.argsort(np.argsort(first_places))
    prompt_of = np.full(len(keys), -1, dtype=np.int64)
    prompt_of[order] = number_of_code[codes]
    return ShuffledPrompts(prompt_of, order, keys, len(first_places))


@dataclass(frozen=True, slots=True)
class CascadeRows:
    """The model, the rows and their answers, as `answer_rows` gets them.

    Attributes:
        task: The task.
        engine: The model.
        pass_engines: The models of further passes.
        records: The rows; they are read several times.
        cache: The answers so far.
        prompts: The order of the rows.
        finish_answer: Returns an answer as it is in the tables.
    """

    task: Task
    engine: Engine
    pass_engines: Mapping[str, Engine]
    records: Iterable[Record]
    cache: AnswerCache
    prompts: ShuffledPrompts
    finish_answer: Callable[[Answer], Answer]

    def move_forward(self, first: int, chosen: IntArray) -> CascadeRows:
        """See `ShuffledPrompts.move_forward`."""
        return replace(self, prompts=self.prompts.move_forward(first, chosen))

    def shuffle_rest(self, first: int, seed: int) -> CascadeRows:
        """The same rows, with those after the ``first`` prompts in another random order.

        Doubtful rows are chosen among the first ones of the order. Without this, the rest of these
        would be the sample, and they are not like the other rows.
        """
        return replace(self, prompts=self.prompts.shuffle_rest(first, [seed, 2]))

    def ask_model(self, rows: IntArray) -> Generator[RowAnswer, None, None]:
        """Let the model answer these rows, given by their sorted numbers.

        All rows of a prompt must be among them.
        """
        chosen = (record for _, record in self.select_records(rows))
        first_places: dict[int, int] = {}
        for place, key in enumerate(self.prompts.keys[rows - 1].tolist(), 1):
            first_places.setdefault(key, place)
        view = _PartOfCache(self.cache, rows, first_places)
        for one in answer_rows(
            self.task, self.engine, chosen, view, pass_engines=self.pass_engines
        ):
            yield replace(one, row=int(rows[one.row - 1]))

    def read_taught(self, size: int) -> TaughtRows:
        """One row of each of the first ``size`` prompts, in the order of the table."""
        return self.read_taught_rows(self.prompts.find_first_rows(0, size))

    def read_taught_rows(self, rows: IntArray) -> TaughtRows:
        """The texts and the answers of rows that were asked."""
        texts, groups, keys = [], [], []
        for record, prompt in self._read_prompts(rows):
            texts.append(prompt.text)
            groups.append(record.group)
            keys.append(hash_prompt(prompt))
        found = self.cache.find_answers_before(sys.maxsize, set(keys))
        return TaughtRows(texts, [self.finish_answer(found[key]) for key in keys], groups)

    def read_texts(self, rows: IntArray) -> list[str]:
        """The texts of rows."""
        return [prompt.text for _, prompt in self._read_prompts(rows)]

    def _read_prompts(self, rows: IntArray) -> Iterator[tuple[Record, Prompt]]:
        for _, record in self.select_records(rows):
            prompt = build_prompt(self.task, record)
            assert isinstance(prompt, Prompt)  # rows without a prompt are in no part of the order
            yield record, prompt

    def select_records(self, rows: IntArray) -> Iterator[tuple[int, Record]]:
        """The records of rows given by their sorted numbers, each with its number."""
        numbered = enumerate(self.records, 1)
        for row in rows.tolist():
            yield next(one for one in numbered if one[0] == row)


@dataclass(slots=True)
class _PartOfCache:
    """The answers to a part of a table, whose rows are numbered from 1.

    ``first_places`` are the numbers of the first rows with each prompt.
    """

    cache: AnswerCache
    rows: IntArray
    first_places: Mapping[int, int]

    def list_answered_rows(self, first: int, last: int) -> Set[int]:
        numbers = self.rows[first - 1 : last].tolist()
        answered = self.cache.list_answered_rows(numbers[0], numbers[-1])
        return {place for place, row in enumerate(numbers, first) if row in answered}

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        earlier = [key for key in keys if self.first_places[_shorten_key(key)] < row]
        return self.cache.find_answers_before(sys.maxsize, earlier)


def _shorten_key(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")
