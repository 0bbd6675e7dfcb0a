"""The prompts on which an exported model is compared with its source."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import product

from medtask.display import format_path
from medtask.errors import InputError
from medtask.exporting.source import ExportSource
from medtask.records import Branch, Prompt, Record
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt, find_prompt_columns
from medtask.tasks.rows import read_records
from medtask.tasks.serialization import task_from_dict
from medtask.tasks.task import Label, Task

PARITY_PROMPTS = 64
# For kinds that generate text: the same prompt, with two answers to weigh.
_GENERIC_BRANCH = Branch("", ("yes", "no"))
_TEXT_COLUMN = "text"
_PROCEDURES = ("Resection", "Biopsy", "Drainage", "CT", "Ultrasound", "Repair", "Removal", "Review")
_ORGANS = ("the sigmoid colon", "the left kidney", "the liver", "a skin lesion")
_REASONS = ("suspected cancer", "an abscess seen in March", "pain for 3 weeks", "routine control")


def sample_prompts(
    task: Task, table: Table, count: int = PARITY_PROMPTS, excluded: Collection[str] = ()
) -> list[Prompt]:
    """A random sample of a table's prompts without those with ``excluded`` ids, in the order of the
    table.

    Their ids are the numbers of their rows, from 1.

    Raises:
        InputError: No row of the table makes a prompt.
    """
    rng = random.Random(0)  # noqa: S311 - the same table gives the same sample
    kept: list[tuple[int, Prompt]] = []
    prompts = _build_prompts(task, read_records(task, table))
    others = (prompt for prompt in prompts if prompt.record_id not in excluded)
    for place, prompt in enumerate(others):
        if len(kept) < count:
            kept.append((place, prompt))
        elif (slot := rng.randrange(place + 1)) < count:
            kept[slot] = (place, prompt)
    if not kept and not excluded:
        raise InputError(
            f"no row of {format_path(table.source)} can be asked, so the models cannot be compared",
            fix="name a table with texts, or leave task and table out",
        )
    return [prompt for _, prompt in sorted(kept, key=lambda pair: pair[0])]


def make_default_prompts(source: ExportSource, count: int = PARITY_PROMPTS) -> list[Prompt]:
    """Prompts about invented sentences: of the task that the model was trained for, if its prompts
    can be made of one text, otherwise of a simple labelling task.
    """
    combinations = list(product(_PROCEDURES, _ORGANS, _REASONS))
    random.Random(0).shuffle(combinations)  # noqa: S311 - the same sentences each time
    sentences = [
        f"{procedure} of {organ} because of {reason}." for procedure, organ, reason in combinations
    ][:count]
    for task in _list_tasks(source):
        columns = find_prompt_columns(task)
        records = (
            Record(str(number), dict.fromkeys(columns, sentence))
            for number, sentence in enumerate(sentences)
        )
        prompts = list(_build_prompts(task, records))
        if len(prompts) == len(sentences):
            return prompts
    raise AssertionError("the simple task makes a prompt of every sentence")


def _list_tasks(source: ExportSource) -> Iterator[Task]:
    for number, content in enumerate(source.training.get("tasks", ())):
        try:
            yield task_from_dict(f"task {number}", content)
        except (LookupError, TypeError, ValueError):
            continue
    labels = source.metadata.labels if source.metadata else ()
    names = labels or ("cancer", "infection", "injury", "control")
    yield Task(
        "parity",
        "Decide what the text is about.",
        f"{{{{ {_TEXT_COLUMN} }}}}",
        labels=tuple(Label(name, "", name) for name in names),
    )


def _build_prompts(task: Task, records: Iterable[Record]) -> Iterator[Prompt]:
    for number, record in enumerate(records, 1):
        prompt = build_prompt(task, record)
        if isinstance(prompt, Prompt):
            # Ids of a table may recur.
            yield replace(
                prompt, record_id=str(number), branches=prompt.branches or (_GENERIC_BRANCH,)
            )
