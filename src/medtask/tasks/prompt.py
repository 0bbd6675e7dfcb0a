"""The only place that writes prompts. One user turn: the question, the labels, and last of all the row's own text.

    <instruction>

    Choose exactly one of these labels:
    - <name>: <definition>
    ...

    Answer with the label alone.

    Text: <the rendered input>

Whatever stands before the row's text is the same for every row of a task, so that an engine reads it once. Examples are
turns before it, in the same form; roles alternate and there is no system turn, because some chat templates refuse one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import jinja2

from medtask.errors import InputError
from medtask.records import Branch, Fault, Message, Prompt, Record, Status
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import clean_text
from medtask.tasks.task import Label, Task
from medtask.tasks.template import MAX_STEPS, MAX_TEXT, InputTemplate, Overlong, read_template, render_template

PROMPT_VERSION = 1  # goes up with every change that alters a prompt
ABSTAIN_DEFINITION = "if the text does not say enough to decide"

_BLANK_WORDS = frozenset({"", "nan", "null", "none", "n/a", "#n/a", "<na>"})


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all prompts of a task have in common: finished turns, and the head of the last one."""

    turns: tuple[Message, ...]
    head: str
    branch: Branch


def build_prompt(task: Task, record: Record) -> Prompt | Fault:
    """The question about one record, or why it cannot be asked."""
    text = render_text(task.input, record)
    if isinstance(text, Fault):
        return text
    frame = _build_frame(task)
    turn = Message("user", frame.head + _write_text(text))
    return Prompt(record.id, (*frame.turns, turn), (frame.branch,), text)


def render_text(source: str, record: Record) -> str | Fault:
    """The clean text that the input template ``source`` makes of a record, or why there is none."""
    template = read_template(source)
    if _has_only_blanks(template, record.fields):
        return Fault(record.id, Status.EMPTY_INPUT, "every column that the input uses is blank")
    try:
        text = clean_text(render_template(template, record.fields))
    except Overlong:
        reason = f"the input makes more than {MAX_TEXT:,} characters or takes more than {MAX_STEPS:,} turns of loops"
        return Fault(record.id, Status.TOO_LONG, reason)
    except jinja2.UndefinedError as error:
        # Only names that the template itself spells out may be told: others can come from the row's text.
        missing = quote(template.names.get(str(error), "a value"))
        return Fault(record.id, Status.FAILED, f"the input uses {missing}, which this row does not have")
    except Exception as error:  # values of any type meet operators of any kind here
        return Fault(record.id, Status.FAILED, f"the input template fails on this row ({type(error).__name__})")
    return text or Fault(record.id, Status.EMPTY_INPUT, "the input has no text")


def input_columns(task: Task) -> frozenset[str]:
    """The columns that the task's input names, as variables or as ``row["..."]``."""
    return frozenset(read_template(task.input).columns)


def prompt_key(prompt: Prompt) -> bytes:
    """16 bytes, equal for prompts that ask the same: such rows need be asked once."""
    asked = [[[turn.role, turn.content] for turn in prompt.messages], [[branch.lead, branch.tails] for branch in prompt.branches]]
    return blake2b(json.dumps(asked).encode(), digest_size=16).digest()


@lru_cache(maxsize=8)
def _build_frame(task: Task) -> _Frame:
    lead = clean_text(_write_head(task)) + "\n\n"
    turns: list[Message] = []
    for number, example in enumerate(task.examples, 1):
        text = render_text(task.input, Record(f"example {number}", example.fields))
        if isinstance(text, Fault):
            raise InputError(f"example {number}: {text.reason}", fix="correct the example")
        say = next((label.say for label in task.candidates if label.name == example.answer), None)
        if say is None:
            raise InputError(f"example {number} answers something that is no label", fix="correct the example")
        turns += [Message("user", lead + _write_text(text)), Message("assistant", say)]
        lead = ""
    return _Frame(tuple(turns), lead, Branch("", tuple(label.say for label in task.candidates)))


def _write_head(task: Task) -> str:
    lines = [task.instruction.strip(), "", "Choose exactly one of these labels:"]
    lines += [_write_label(label, label.definition, task.readout) for label in task.labels]
    if task.abstain:
        lines.append(_write_label(task.abstain, task.abstain.definition or ABSTAIN_DEFINITION, task.readout))
    return "\n".join([*lines, "", f"Answer with the {'code' if task.readout == 'code' else 'label'} alone."])


def _write_label(label: Label, definition: str, readout: str) -> str:
    bullet = f"{label.say} = {label.name}" if readout == "code" else f"- {label.name}"
    return f"{bullet}: {definition}" if definition else bullet


def _write_text(text: str) -> str:
    return f"Text: {text}"


def _has_only_blanks(template: InputTemplate, fields: Mapping[str, object]) -> bool:
    used = fields if template.whole_row else [column for column in template.columns if column in fields]
    return bool(used) and all(_is_blank(fields[column]) for column in used)


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        text = value.strip()
        return len(text) < 100 and clean_text(text).casefold() in _BLANK_WORDS
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or str(value).casefold() in _BLANK_WORDS
