"""Prompts: the order of their parts, and the rejection of rows.

    <instruction>

    <the possible answers, and their format>

    The text is between <kq> and </kq>.

    Text: <kq> <the rendered input> </kq>

The prompt is one user turn, which starts with the parts that are equal for all rows of a task, so
that an engine processes them once. Examples are earlier turns in the same form. Roles alternate and
there is no system turn, because some chat templates reject one. A row's options follow its text.
The text for each kind of question is in `medtask.tasks.kinds`, the tags in
`medtask.tasks.fence`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import jinja2

from medtask.display import quote
from medtask.errors import InputError
from medtask.records import Fault, Message, Prompt, Record, Status
from medtask.tables.missing import MissingText
from medtask.tasks.example_selection import select_examples
from medtask.tasks.fence import FENCED_VERSION, Fence, choose_fence
from medtask.tasks.gate import find_rejection
from medtask.tasks.input_template import InputTemplate, read_template, render_template
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.kinds.base import RowExtras, TaskKind
from medtask.tasks.task import Gate, Task
from medtask.tasks.template_sandbox import MAX_LOOP_STEPS, MAX_RENDERED_LENGTH, RenderBudgetExceeded
from medtask.tasks.text_cleaning import clean_text, is_blank


@dataclass(frozen=True, slots=True)
class _PromptPrefix:
    """The common part of a task's prompts: complete turns, and the beginning of the last one."""

    messages: tuple[Message, ...]
    instructions: str
    fence: Fence | None


@dataclass(frozen=True, slots=True)
class _PromptInputs:
    """The parts of a prompt that depend on the row."""

    text: str
    extras: RowExtras


def build_prompt(task: Task, record: Record, text: str | None = None) -> Prompt | Fault:
    """The prompt for one record, or why the record is rejected.

    ``text`` replaces the record's input with a part of it; the gate is then skipped.
    """
    inputs = _read_prompt_inputs(task, record, text)
    if isinstance(inputs, Fault):
        return inputs
    indices: tuple[int, ...] = ()
    if task.pool:
        whole_text = None if text is None else render_text(task.input, record)
        whole_text = whole_text if isinstance(whole_text, str) else None
        indices = select_examples(task.pool, inputs.text, record.group, whole_text)
    prefix = _build_prompt_prefix(task, indices)
    kind, options = get_task_kind(task), inputs.extras.options
    content = prefix.instructions + kind.write_question(*_enclose(kind, prefix.fence, inputs))
    messages = (*prefix.messages, Message("user", content))
    return Prompt(record.id, messages, kind.build_branches(options), inputs.text, options)


def render_text(source: str, record: Record) -> str | Fault:
    """The cleaned text of a record by the input template ``source``, or why there is none."""
    raw = _render_input(source, record)
    if isinstance(raw, Fault):
        return raw
    return clean_text(raw) or Fault(record.id, Status.EMPTY_INPUT, "the input has no text")


def find_prompt_columns(task: Task) -> frozenset[str]:
    """The columns that a prompt shows: those of the input, the options and the context."""
    return frozenset(read_template(task.input).columns).union(get_task_kind(task).columns)


def hash_prompt(prompt: Prompt) -> bytes:
    """A 16-byte hash, equal for equal prompts."""
    asked = [
        [[turn.role, turn.content] for turn in prompt.messages],
        [
            [branch.ask, branch.prefix, branch.candidates, branch.weigh]
            for branch in prompt.branches
        ],
        [[option.letter, option.text] for option in prompt.options],
        [prompt.thoughts, prompt.partial_response],
    ]
    return blake2b(json.dumps(asked).encode(), digest_size=16).digest()


def _read_prompt_inputs(
    task: Task, record: Record, given_text: str | None
) -> _PromptInputs | Fault:
    text = given_text if given_text is not None else _read_text(task, record)
    if isinstance(text, Fault):
        return text
    extras = get_task_kind(task).read_extras(record.fields)
    if isinstance(extras, str):
        return Fault(record.id, Status.FAILED, extras)
    return _PromptInputs(text, extras)


def _read_text(task: Task, record: Record) -> str | Fault:
    """The record's input, or a Fault if the gate rejects it."""
    raw = _render_input(task.input, record)
    if isinstance(raw, Fault):
        return raw
    text = clean_text(raw)
    if not text:
        return Fault(record.id, Status.EMPTY_INPUT, "the input has no text")
    unfit = find_rejection(
        task.gate, raw, text, _render_examples(task) if task.gate.novelty is not None else ()
    )
    return Fault(record.id, *unfit) if unfit else text


@lru_cache(maxsize=8)
def _render_examples(task: Task) -> tuple[str, ...]:
    if task.pool:
        return task.pool.texts
    texts = [
        render_text(task.input, Record(f"example {number}", example.fields))
        for number, example in enumerate(task.examples, 1)
    ]
    return tuple(text for text in texts if isinstance(text, str))


@lru_cache(maxsize=256)  # one per group of a pool
def _build_prompt_prefix(task: Task, example_indices: tuple[int, ...]) -> _PromptPrefix:
    """The examples at ``example_indices`` of the task's pool, or all examples without a pool."""
    examples = (
        [task.pool.examples[index] for index in example_indices] if task.pool else task.examples
    )
    kind, ungated = get_task_kind(task), replace(task, gate=Gate())
    lines = [task.instruction.strip(), "", *kind.write_choices()]
    instructions = clean_text("\n".join(lines)) + "\n\n"
    fence = None
    if task.prompt_version >= FENCED_VERSION and kind.fenced_part:
        fence = choose_fence(instructions)
        instructions += f"{fence.describe(kind.fenced_part)}\n\n"
    messages: list[Message] = []
    for number, example in enumerate(examples, 1):
        inputs = _read_prompt_inputs(ungated, Record(f"example {number}", example.fields), None)
        if isinstance(inputs, Fault):
            raise InputError(f"example {number}: {inputs.reason}", fix="correct the example")
        try:
            answer = kind.write_answer(example.answer, inputs.extras.options)
        except (KeyError, ValueError):
            raise InputError(
                f"example {number} gives an answer that the task does not have",
                fix="correct the example",
            ) from None
        content = instructions + kind.write_example_question(*_enclose(kind, fence, inputs))
        messages += [Message("user", content), Message("assistant", answer)]
        instructions = ""
    return _PromptPrefix(tuple(messages), instructions, fence)


def _enclose(
    kind: TaskKind[Any], fence: Fence | None, inputs: _PromptInputs
) -> tuple[str, RowExtras]:
    """The text and the further inputs, with the tags around the part that is data."""
    if fence is None:
        return inputs.text, inputs.extras
    return kind.enclose(fence, inputs.text, inputs.extras)


def _render_input(source: str, record: Record) -> str | Fault:
    template = read_template(source)
    if _has_only_blanks(template, record.fields):
        cells = [record.fields.get(column) for column in template.columns]
        has_word = any(isinstance(cell, MissingText) for cell in cells)
        reason = "every column that the input uses is blank" + (
            ", or a word for a missing value" if has_word else ""
        )
        return Fault(record.id, Status.EMPTY_INPUT, reason)
    try:
        return render_template(template, record.fields)
    except RenderBudgetExceeded:
        reason = (
            f"the input makes more than {MAX_RENDERED_LENGTH:,} characters or takes more than "
            f"{MAX_LOOP_STEPS:,} turns of loops"
        )
        return Fault(record.id, Status.TOO_LONG, reason)
    except jinja2.UndefinedError as error:
        # Only names in the template may be reported; others can be record text.
        missing = quote(template.value_paths.get(str(error), "a value"))
        return Fault(
            record.id, Status.FAILED, f"the input uses {missing}, which this row does not have"
        )
    except Exception as error:  # any operator can be applied to values of any type here
        return Fault(
            record.id,
            Status.FAILED,
            f"the input template fails on this row ({type(error).__name__})",
        )


def _has_only_blanks(template: InputTemplate, fields: Mapping[str, object]) -> bool:
    used = (
        fields
        if template.whole_row
        else [column for column in template.columns if column in fields]
    )
    return bool(used) and all(is_blank(fields[column]) for column in used)
