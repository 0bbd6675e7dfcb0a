"""Statistics of a table's prompts: rows, distinct prompts, a sample and the longest ones."""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medtask.records import Fault, Prompt, Record, Status
from medtask.tasks.input_template import read_template
from medtask.tasks.prompt import build_prompt, find_prompt_columns
from medtask.tasks.task import Task

SAMPLE_PROMPTS = 512
LONGEST_PROMPTS = 32
# Beyond, prompts are built for a random sample of this many rows: of fewer for a task that selects
# examples for each row, which takes milliseconds.
MAX_BUILT_PROMPTS, MAX_PROMPTS_WITH_EXAMPLES = 20_000, 500


@dataclass(slots=True)
class DatasetStatistics:
    """Counts over all rows, a random sample of prompts, and the longest ones by characters.

    Memory grows by 8 bytes per row, for hashes.

    Attributes:
        table_rows: The rows of the table, if they are known before: prompts are built for all rows
            of a small table, and for a sample of a large one.
        selects_examples: Whether examples are selected for each row.
        rows: The rows that were counted.
        gold_rows: Rows with gold.
        built_rows: Rows for which a prompt was built.
        faults_by_status: Those of the built rows that cannot be asked.
        hashes: Of each built prompt or, of a large table, of each row's cells that prompts show.
        sample: A random sample of the prompts.
        longest: The longest prompts that were built, the longest first.
    """

    table_rows: int = 0
    selects_examples: bool = False
    rows: int = 0
    gold_rows: int = 0
    built_rows: int = 0
    faults_by_status: Counter[Status] = field(default_factory=Counter)
    hashes: array[int] = field(default_factory=lambda: array("q"))
    sample: list[Prompt] = field(default_factory=list)
    longest: list[Prompt] = field(default_factory=list)

    @property
    def max_built_rows(self) -> int:
        """The most rows for which prompts are built, about."""
        return MAX_PROMPTS_WITH_EXAMPLES if self.selects_examples else MAX_BUILT_PROMPTS

    @property
    def is_sampled(self) -> bool:
        """Whether prompts are built for a sample of the rows only."""
        return self.table_rows > self.max_built_rows

    @property
    def built_prompts(self) -> int:
        return self.built_rows - self.faults_by_status.total()

    @property
    def prompt_count(self) -> int:
        """The rows that can be asked; estimated from the sample for a large table."""
        return self.scale(self.built_prompts)

    def scale(self, built_rows: int) -> int:
        """The number of rows of the table for a number of the built rows."""
        return round(built_rows * self.rows / self.built_rows) if self.is_sampled else built_rows

    def count_distinct_prompts(self) -> int:
        """The number of distinct prompts, which is the number that a model answers."""
        import numpy as np

        distinct = len(np.unique(np.frombuffer(self.hashes, dtype=np.int64)))
        if self.is_sampled:
            return round(distinct * self.built_prompts / self.built_rows)
        return distinct


def collect_statistics(
    task: Task, records: Iterable[Record], statistics: DatasetStatistics
) -> Iterator[Record]:
    """Yield the records and count them in ``statistics``, which is complete after the last one."""
    rng = random.Random(0)  # noqa: S311 - the same table gives the same sample
    columns = None if read_template(task.input).whole_row else sorted(find_prompt_columns(task))
    longest: list[tuple[int, int, Prompt]] = []
    for record in records:
        statistics.rows += 1
        statistics.gold_rows += record.gold is not None
        if statistics.is_sampled:
            statistics.hashes.append(_hash_cells(record, columns))
        chance = statistics.max_built_rows / max(1, statistics.table_rows)
        if not statistics.is_sampled or rng.random() < chance:
            _add_prompt(build_prompt(task, record), statistics, longest, rng)
        yield record
    statistics.longest = [
        prompt for _, _, prompt in sorted(longest, key=lambda entry: entry[:2], reverse=True)
    ]


def _add_prompt(
    prompt: Prompt | Fault,
    statistics: DatasetStatistics,
    longest: list[tuple[int, int, Prompt]],
    rng: random.Random,
) -> None:
    statistics.built_rows += 1
    if isinstance(prompt, Fault):
        statistics.faults_by_status[prompt.status] += 1
        return
    if not statistics.is_sampled:
        # Within one task, the branches follow from the options. `hash_prompt` would encode all
        # labels for every row.
        statistics.hashes.append(hash((prompt.messages, prompt.options)))
    place = rng.randrange(statistics.built_prompts)
    if len(statistics.sample) < SAMPLE_PROMPTS:
        statistics.sample.append(prompt)
    elif place < SAMPLE_PROMPTS:
        statistics.sample[place] = prompt
    entry = (len(prompt.text), -statistics.rows, prompt)
    (heapq.heappush if len(longest) < LONGEST_PROMPTS else heapq.heappushpop)(longest, entry)


def _hash_cells(record: Record, columns: Sequence[str] | None) -> int:
    """A hash of the cells that a prompt shows, and of the group, which can change the examples."""
    fields: Mapping[str, object] = record.fields
    cells = [fields.get(column) for column in (fields if columns is None else columns)]
    return hash((record.group, *map(str, cells)))
