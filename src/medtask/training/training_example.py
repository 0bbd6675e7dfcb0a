"""One training row with its prompt, and keys for its labels and question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from medtask.records import Prompt, Record, Value
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task

# Counts rows to which no label applies, and all rows of kinds without labels.
NO_LABEL = ""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A training row.

    Attributes:
        row: Its number in the table, from 1.
        record: The row; its gold is a valid answer of the task.
        prompt: The prompt of a run.
    """

    row: int
    record: Record
    prompt: Prompt

    @property
    def gold(self) -> Value:
        """The gold of the row."""
        assert self.record.gold is not None, "a training example has gold"
        return self.record.gold


def list_labels(task: Task, gold: Value | None) -> tuple[str, ...]:
    """The labels by which a row is counted; NO_LABEL if it has none."""
    if not task.kind_spec.has_labels or not gold:
        return (NO_LABEL,)
    return (gold,) if isinstance(gold, str) else tuple(gold)


def count_labels(task: Task, examples: Iterable[TrainingExample]) -> Counter[str]:
    """The number of rows by label; see `list_labels`."""
    return Counter(name for example in examples for name in list_labels(task, example.gold))


def format_question(task: Task, record: Record, prompt: Prompt) -> str:
    """The parts of a question that differ from row to row: text, context, options."""
    context = get_task_kind(task).read_context(record.fields)
    return "\n".join([prompt.text, context, *(option.text for option in prompt.options)])


def shuffle_by_hash(keys: Sequence[bytes], seed: int) -> list[int]:
    """Indices of the keys in a random order that depends only on the seed and the set of keys."""
    salt = seed.to_bytes(16, "big", signed=True)
    drawn = [blake2b(key, digest_size=16, salt=salt).digest() for key in keys]
    return sorted(range(len(keys)), key=lambda index: (drawn[index], keys[index]))
