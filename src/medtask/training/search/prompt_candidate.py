"""The parts of a task that a search for words may change, and the changed task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from medtask.errors import UsageError
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
    """The words of a task.

    Attributes:
        instruction: The instruction.
        definitions: By label, in the task's order; None for kinds without labels.
        examples: The worked examples of every prompt; None for the task's own.
    """

    instruction: str
    definitions: Mapping[str, str] | None = None
    examples: tuple[Example, ...] | None = None


def extract_candidate(task: Task) -> PromptCandidate:
    """The words of the original task."""
    definitions = {label.name: label.definition for label in task.labels}
    return PromptCandidate(task.instruction, definitions if task.kind_spec.has_labels else None)


def apply_candidate(task: Task, candidate: PromptCandidate) -> Task:
    """The task with a candidate's words. Further passes are rebuilt when the file is loaded."""
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
    """The task used in a search: only its first pass, and thresholds not fitted on gold."""
    narrowed = replace(get_task_kind(task).without_threshold_fit(), passes=())
    return replace(narrowed, fingerprint=fingerprint_task(narrowed))


def check_examples_allowed(task: Task) -> None:
    """Raise UsageError if rows cannot be worked examples, with gold in the column ``answer``."""
    if "answer" in find_prompt_columns(task):
        raise UsageError(
            'input uses a column named "answer", but in an example that is the right answer',
            fix="rename that column in the table and the task, or search for instructions alone: "
            "--what prompt",
        )


def make_example(task: Task, record: Record) -> Example | None:
    """A row as a worked example, as in a task file; None if it is not valid."""
    assert task.gold_column is not None
    row = {**record.fields, "answer": record.fields.get(task.gold_column)}
    example, faults = read_example(row, replace(task, examples=(), pool=None))
    return None if faults else example


def clean_instruction(text: str) -> str | None:
    """A generated instruction, cleaned for a task file; None if it is empty or too long."""
    cleaned = clean_text(text).strip().strip('"').strip()
    return cleaned if 0 < len(cleaned) <= INSTRUCTION_CHARACTERS else None


def write_definitions(definitions: Mapping[str, str]) -> str:
    """Definitions as lines, one per label, in the format that proposers read and write."""
    return "\n".join(f"{name}: {definition}" for name, definition in definitions.items())


def read_definitions(text: str, previous: Mapping[str, str]) -> dict[str, str]:
    """Parse definitions from a proposer's lines; labels without a valid line keep theirs."""
    found: dict[str, str] = {}
    for line in clean_text(text).splitlines():
        bare = re.sub(r"^\s*(?:[-*•]|\d+[.)])?\s*", "", line).replace("**", "")
        # The longest names first, because names may be prefixes of others.
        name = next(
            (
                name
                for name in sorted(previous, key=len, reverse=True)
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
