"""Statistics of a table's prompts: rows, distinct prompts, a sample and the longest ones."""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from medtask.records import Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt, hash_prompt
from medtask.tasks.task import Task

SAMPLE_PROMPTS = 512
LONGEST_PROMPTS = 32


@dataclass(slots=True)
class DatasetStatistics:
    """Counts over all rows, a random sample of prompts, and the longest ones by characters.

    Memory grows by 8 bytes per row, for hashes of the prompts.
    """

    rows: int = 0
    gold_rows: int = 0
    faults_by_status: Counter[Status] = field(default_factory=Counter)
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    sample: list[Prompt] = field(default_factory=list)
    longest: list[Prompt] = field(default_factory=list)

    @property
    def prompt_count(self) -> int:
        return len(self.hashes)

    def count_distinct_prompts(self) -> int:
        """The number of distinct prompts, which is the number that a model answers."""
        import numpy as np

        return len(np.unique(np.frombuffer(self.hashes, dtype=np.uint64)))


def collect_statistics(
    task: Task, records: Iterable[Record], statistics: DatasetStatistics
) -> Iterator[Record]:
    """Yield the records and count them in ``statistics``, which is complete after the last one."""
    rng = random.Random(0)  # noqa: S311 - the same table gives the same sample
    longest: list[tuple[int, int, Prompt]] = []
    for record in records:
        statistics.rows += 1
        statistics.gold_rows += record.gold is not None
        prompt = build_prompt(task, record)
        if isinstance(prompt, Fault):
            statistics.faults_by_status[prompt.status] += 1
        else:
            statistics.hashes.append(int.from_bytes(hash_prompt(prompt)[:8]))
            place = rng.randrange(statistics.prompt_count)
            if len(statistics.sample) < SAMPLE_PROMPTS:
                statistics.sample.append(prompt)
            elif place < SAMPLE_PROMPTS:
                statistics.sample[place] = prompt
            entry = (len(prompt.text), -statistics.rows, prompt)
            (heapq.heappush if len(longest) < LONGEST_PROMPTS else heapq.heappushpop)(
                longest, entry
            )
        yield record
    statistics.longest = [
        prompt for _, _, prompt in sorted(longest, key=lambda entry: entry[:2], reverse=True)
    ]
