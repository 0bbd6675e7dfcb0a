"""What a run would ask of a table: how many rows, how many different ones, and which of them to
look at more closely.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from medtask.records import Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt, prompt_key
from medtask.tasks.task import Task

SAMPLE = 512
LONGEST = 32


@dataclass(slots=True)
class Census:
    """Counts over all rows, a random sample of the prompts, and the longest ones (by characters,
    longest first).

    Memory grows by 8 bytes a row, for the hashes that tell different prompts apart.
    """

    rows: int = 0
    gold: int = 0
    unaskable: Counter[Status] = field(default_factory=Counter)
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    sample: list[Prompt] = field(default_factory=list)
    longest: list[Prompt] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return len(self.hashes)

    def count_different(self) -> int:
        """How many different prompts there are: what a model is really asked."""
        import numpy as np

        return len(np.unique(np.frombuffer(self.hashes, dtype=np.uint64)))


def take_census(task: Task, records: Iterable[Record], census: Census) -> Iterator[Record]:
    """Pass records on, each counted in ``census``; it is complete when the last one is through."""
    dice = random.Random(0)  # noqa: S311 - the same table gives the same sample
    longest: list[tuple[int, int, Prompt]] = []
    for record in records:
        census.rows += 1
        census.gold += record.gold is not None
        prompt = build_prompt(task, record)
        if isinstance(prompt, Fault):
            census.unaskable[prompt.status] += 1
        else:
            census.hashes.append(int.from_bytes(prompt_key(prompt)[:8]))
            place = dice.randrange(census.asked)
            if len(census.sample) < SAMPLE:
                census.sample.append(prompt)
            elif place < SAMPLE:
                census.sample[place] = prompt
            entry = (len(prompt.text), -census.rows, prompt)
            (heapq.heappush if len(longest) < LONGEST else heapq.heappushpop)(longest, entry)
        yield record
    census.longest = [
        prompt for _, _, prompt in sorted(longest, key=lambda entry: entry[:2], reverse=True)
    ]
