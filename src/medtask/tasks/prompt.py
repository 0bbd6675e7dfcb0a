"""The only place that writes prompts. Its words stand in wording.py; this is what stands where, and
which rows are not asked.

    <instruction>

    <what there is to choose from, and how to answer>

    Text: <the rendered input>

One user turn, in which everything that is the same for every row of a task stands first, so that an
engine reads it once. Examples are turns before it, in the same form; roles alternate and there is
no system turn, because some chat templates refuse one. What the row brings besides its text
(options) follows its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import jinja2

from medtask.display import quote
from medtask.errors import InputError
from medtask.records import Branch, Description, Fault, Message, Option, Prompt, Record, Status
from medtask.tasks.example_selection import select_examples
from medtask.tasks.gate import find_rejection
from medtask.tasks.input_template import (
    MAX_LOOP_STEPS,
    MAX_RENDERED_LENGTH,
    InputTemplate,
    RenderBudgetExceeded,
    read_template,
    render_template,
)
from medtask.tasks.prompt_text import (
    YES_NO,
    write_answer,
    write_instructions,
    write_options,
    write_question,
)
from medtask.tasks.row_options import RowOptions, read_options
from medtask.tasks.task import (
    AnswerSpec,
    FreeText,
    Gate,
    Label,
    MultiLabel,
    MultipleChoice,
    SingleLabel,
    Task,
)
from medtask.tasks.text_cleaning import clean_text

PROMPT_VERSION = 1  # goes up with every change that alters a prompt

_MISSING_VALUES = frozenset({"", "nan", "null", "none", "n/a", "#n/a", "<na>"})


@dataclass(frozen=True, slots=True)
class _PromptPrefix:
    """What the prompts of a task have in common: finished turns, and the head of the last one."""

    messages: tuple[Message, ...]
    instructions: str


@dataclass(frozen=True, slots=True)
class _PromptInputs:
    """What one row brings to its prompt."""

    text: str
    context: str
    options: tuple[Option, ...]


def build_prompt(task: Task, record: Record, text: str | None = None) -> Prompt | Fault:
    """The question about one record, or why it cannot be asked.

    ``text``: a part of the record's input, about which the prompt is then; the gate has let the
    whole record pass.
    """
    inputs = _read_prompt_inputs(task, record, text)
    if isinstance(inputs, Fault):
        return inputs
    prefix = _build_prompt_prefix(
        task, select_examples(task.pool, inputs.text) if task.pool else ()
    )
    content = prefix.instructions + write_question(task, inputs.text, inputs.context)
    if isinstance(task.answer_spec, MultipleChoice) and task.answer_spec.several:
        content += write_options(task.answer_spec, inputs.options)
    branches = _build_branches(task, inputs.options)
    return Prompt(
        record.id,
        (*prefix.messages, Message("user", content)),
        branches,
        inputs.text,
        inputs.options,
    )


def render_text(source: str, record: Record) -> str | Fault:
    """The clean text that the input template ``source`` makes of a record, or why there is none."""
    raw = _render_input(source, record)
    if isinstance(raw, Fault):
        return raw
    return clean_text(raw) or Fault(record.id, Status.EMPTY_INPUT, "the input has no text")


def find_prompt_columns(task: Task) -> frozenset[str]:
    """The columns that a prompt shows: those that the input names, as variables or as
    ``row["..."]``, options and context.
    """
    return frozenset(read_template(task.input).columns).union(find_extra_columns(task.answer_spec))


def find_extra_columns(answer_spec: AnswerSpec) -> tuple[str, ...]:
    """The columns that a prompt shows besides its input."""
    match answer_spec:
        case MultipleChoice(columns=columns):
            return columns
        case FreeText(context=str(column)):
            return (column,)
    return ()


def hash_prompt(prompt: Prompt) -> bytes:
    """16 bytes, equal for prompts that ask the same: such rows need be asked once."""
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
    options, context = _read_options(task, record), _read_context(task, record)
    if isinstance(options, Fault):
        return options
    return context if isinstance(context, Fault) else _PromptInputs(text, context, options.options)


def _read_text(task: Task, record: Record) -> str | Fault:
    """The record's input, if the gate lets it pass."""
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


def _read_options(task: Task, record: Record) -> RowOptions | Fault:
    if not isinstance(task.answer_spec, MultipleChoice):
        return RowOptions(())
    found = read_options(task.answer_spec, record.fields)
    return Fault(record.id, Status.FAILED, found) if isinstance(found, str) else found


def _read_context(task: Task, record: Record) -> str | Fault:
    column = task.answer_spec.context if isinstance(task.answer_spec, FreeText) else None
    if column is None:
        return ""
    if column not in record.fields:
        return Fault(
            record.id,
            Status.FAILED,
            f"the row has no column {quote(column)}, which should hold the context",
        )
    value = record.fields[column]
    return "" if _is_blank(value) else clean_text(str(value))


def _build_branches(task: Task, options: Sequence[Option]) -> tuple[Branch, ...]:
    match task.answer_spec:
        case SingleLabel():
            return (
                Branch(
                    "",
                    tuple(label.verbalizer for label in task.candidates),
                    descriptions=tuple(map(_describe_label, task.candidates)),
                ),
            )
        case MultiLabel():
            return tuple(
                Branch(f"{label.name}: ", YES_NO, descriptions=(_describe_label(label),))
                for label in task.labels
            )
        case MultipleChoice(several=True):
            return tuple(
                Branch(f"{option.letter}: ", YES_NO, descriptions=(Description(option.text),))
                for option in options
            )
        case MultipleChoice(readout="text"):
            texts = tuple(option.text for option in options)
            return (
                Branch(
                    "",
                    texts,
                    write_options(task.answer_spec, options),
                    "text",
                    tuple(map(Description, texts)),
                ),
            )
        case MultipleChoice(debias=debias):
            letters = tuple(option.letter for option in options)
            orders = _rotate_options(options) if debias == "permute" else [options]
            return tuple(
                Branch(
                    "",
                    letters,
                    write_options(task.answer_spec, order),
                    "text",
                    tuple(Description(option.text) for option in order),
                )
                for order in orders
            )
    return ()


def _describe_label(label: Label) -> Description:
    return Description(label.name, label.definition)


def _rotate_options(options: Sequence[Option]) -> list[list[Option]]:
    """All cyclic orders: in order j, the i-th letter shows the text of option (i + j) mod n."""
    orders = ([*options[shift:], *options[:shift]] for shift in range(len(options)))
    return [
        [Option(option.letter, shown.text) for option, shown in zip(options, order, strict=True)]
        for order in orders
    ]


@lru_cache(maxsize=8)
def _render_examples(task: Task) -> tuple[str, ...]:
    if task.pool:
        return task.pool.texts
    texts = [
        render_text(task.input, Record(f"example {number}", example.fields))
        for number, example in enumerate(task.examples, 1)
    ]
    return tuple(text for text in texts if isinstance(text, str))


@lru_cache(maxsize=256)  # one for every group of a pool
def _build_prompt_prefix(task: Task, example_indices: tuple[int, ...]) -> _PromptPrefix:
    """``example_indices``: places in the task's pool; without one, all its examples are shown."""
    examples = (
        [task.pool.examples[place] for place in example_indices] if task.pool else task.examples
    )
    instructions = clean_text(write_instructions(task)) + "\n\n"
    messages: list[Message] = []
    for number, example in enumerate(examples, 1):
        inputs = _read_prompt_inputs(
            replace(task, gate=Gate()), Record(f"example {number}", example.fields), None
        )
        if isinstance(inputs, Fault):
            raise InputError(f"example {number}: {inputs.reason}", fix="correct the example")
        try:
            answer = write_answer(task, example.answer, inputs.options)
        except (KeyError, ValueError):
            raise InputError(
                f"example {number} gives an answer that the task does not have",
                fix="correct the example",
            ) from None
        content = instructions + write_question(task, inputs.text, inputs.context)
        content += (
            write_options(task.answer_spec, inputs.options)
            if isinstance(task.answer_spec, MultipleChoice)
            else ""
        )
        messages += [Message("user", content), Message("assistant", answer)]
        instructions = ""
    return _PromptPrefix(tuple(messages), instructions)


def _render_input(source: str, record: Record) -> str | Fault:
    template = read_template(source)
    if _has_only_blanks(template, record.fields):
        return Fault(record.id, Status.EMPTY_INPUT, "every column that the input uses is blank")
    try:
        return render_template(template, record.fields)
    except RenderBudgetExceeded:
        reason = (
            f"the input makes more than {MAX_RENDERED_LENGTH:,} characters or takes more than "
            f"{MAX_LOOP_STEPS:,} turns of loops"
        )
        return Fault(record.id, Status.TOO_LONG, reason)
    except jinja2.UndefinedError as error:
        # Only names that the template itself spells out may be told: others can come from the row's
        # text.
        missing = quote(template.value_paths.get(str(error), "a value"))
        return Fault(
            record.id, Status.FAILED, f"the input uses {missing}, which this row does not have"
        )
    except Exception as error:  # values of any type meet operators of any kind here
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
    return bool(used) and all(_is_blank(fields[column]) for column in used)


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        text = value.strip()
        return len(text) < 100 and clean_text(text).casefold() in _MISSING_VALUES
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or str(value).casefold() in _MISSING_VALUES
