"""A row to learn from, and what can be said of its question without showing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from medtask.records import Prompt, Record, Value
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.label_definitions import normalize_name
from medtask.tasks.task import Task

# stands for a label where there is none: a row to which no label applies, or a kind without labels
NO_LABEL = ""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A row to learn from. ``row`` counts from 1 in its table; the record's gold is an answer that
    the task allows; ``prompt`` is what the model is asked about it, as a run would ask.
    """

    row: int
    record: Record
    prompt: Prompt


def list_labels(task: Task, gold: Value | None) -> tuple[str, ...]:
    """The labels by which a row is counted; NOTHING alone where it has none."""
    if not task.kind_spec.has_labels or not gold:
        return (NO_LABEL,)
    return (gold,) if isinstance(gold, str) else tuple(gold)


def format_question(task: Task, record: Record, prompt: Prompt) -> str:
    """All that a row brings to its question: text, context, options."""
    return "\n".join(
        [prompt.text, _read_context(task, record), *(option.text for option in prompt.options)]
    )


def hash_question(task: Task, record: Record, prompt: Prompt) -> bytes:
    """16 bytes, equal for rows whose text, context and options a reader cannot tell apart: case,
    blanks and width do not count.

    Options in another order make another question, since gold is a letter.
    """
    search_data = [
        prompt.text,
        _read_context(task, record),
        *(f"{option.letter} {option.text}" for option in prompt.options),
    ]
    return blake2b(
        json.dumps([normalize_name(part) for part in search_data]).encode(), digest_size=16
    ).digest()


def shuffle_by_hash(keys: Sequence[bytes], seed: int) -> list[int]:
    """The places of the keys in an order that looks random and depends on the seed and the keys
    alone, not on their order.
    """
    salt = seed.to_bytes(16, "big", signed=True)
    drawn = [blake2b(key, digest_size=16, salt=salt).digest() for key in keys]
    return sorted(range(len(keys)), key=lambda place: (drawn[place], keys[place]))


def _read_context(task: Task, record: Record) -> str:
    return get_task_kind(task).read_context(record.fields)
