"""What a search of words may change in a question, and the task with it changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medtask.records import Record
from medtask.tasks.fewshot import read_example
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Example, Label, Task
from medtask.tasks.text_cleaning import clean_text

INSTRUCTION_CHARACTERS = 4000
DEFINITION_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class PromptCandidate:
    """``instruction``: the task's. ``definitions``: by label, in the task's order; None for kinds
    without labels. ``examples``: those that every row is shown; None for those that the task has,
    or chooses from.
    """

    instruction: str
    definitions: Mapping[str, str] | None = None
    examples: tuple[Example, ...] | None = None


def extract_candidate(task: Task) -> PromptCandidate:
    """The task's own words."""
    definitions = {label.name: label.definition for label in task.labels}
    return PromptCandidate(task.instruction, definitions if task.kind_spec.has_labels else None)


def apply_candidate(task: Task, candidate: PromptCandidate) -> Task:
    """The task with a candidate's words. Its further passes stay as they are: they are made anew
    when the file is read.
    """
    labels: tuple[Label, ...] = task.labels
    if candidate.definitions is not None:
        labels = tuple(
            replace(label, definition=candidate.definitions.get(label.name, label.definition))
            for label in labels
        )
    shown = {} if candidate.examples is None else {"examples": candidate.examples, "pool": None}
    changed = replace(task, instruction=candidate.instruction, labels=labels, **shown)  # type: ignore[arg-type]
    return replace(changed, fingerprint=fingerprint_task(changed))


def narrow_task(task: Task) -> Task:
    """The task as searches ask it: its first pass alone, and fixed thresholds, as fitted ones would
    have seen the rows' gold.
    """
    narrowed = replace(get_task_kind(task).without_threshold_fit(), passes=())
    return replace(narrowed, fingerprint=fingerprint_task(narrowed))


def supports_examples(task: Task) -> bool:
    """Whether rows can be worked examples: in those the column ``answer`` holds the truth."""
    return "answer" not in find_prompt_columns(task)


def make_example(task: Task, record: Record) -> Example | None:
    """A row as a worked example, read as a task file's would be; None where it cannot be one."""
    assert task.gold_column is not None
    row = {**record.fields, "answer": record.fields.get(task.gold_column)}
    example, troubles = read_example(row, replace(task, examples=(), pool=None))
    return None if troubles else example


def clean_instruction(text: str) -> str | None:
    """An instruction that a model wrote, fit to stand in a task file; None where it is none."""
    cleaned = clean_text(text).strip().strip('"').strip()
    return cleaned if 0 < len(cleaned) <= INSTRUCTION_CHARACTERS else None


def write_definitions(definitions: Mapping[str, str]) -> str:
    """One line a label, as a proposer reads and writes them."""
    return "\n".join(f"{name}: {definition}" for name, definition in definitions.items())


def read_definitions(text: str, previous: Mapping[str, str]) -> dict[str, str]:
    """Definitions from a proposer's lines; labels that it does not name, or names wrongly, keep
    theirs.
    """
    found: dict[str, str] = {}
    for line in clean_text(text).splitlines():
        bare = re.sub(r"^\s*(?:[-*•]|\d+[.)])?\s*", "", line).replace("**", "")
        # The longest name first: one may begin with another.
        name = next(
            (
                name
                for name in _by_length(previous)
                if bare.startswith((f"{name}:", f"{name} -", f'"{name}":'))
            ),
            None,
        )
        if name is None:
            continue
        definition = " ".join(bare.strip('"')[len(name) :].lstrip('":- ').split()).strip('"')
        if 0 < len(definition) <= DEFINITION_CHARACTERS:
            found[name] = definition
    return {name: found.get(name, definition) for name, definition in previous.items()}


def _by_length(names: Mapping[str, str]) -> Sequence[str]:
    return sorted(names, key=len, reverse=True)
