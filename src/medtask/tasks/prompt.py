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

from medtask.errors import InputError
from medtask.records import Branch, Fault, Meaning, Message, Option, Prompt, Record, Status
from medtask.tasks.gate import find_unfit
from medtask.tasks.hints import quote
from medtask.tasks.hygiene import clean_text
from medtask.tasks.nearest import choose_examples
from medtask.tasks.options import Options, read_options
from medtask.tasks.task import AnyLabels, Choice, Form, FreeText, Gate, Label, OneLabel, Task
from medtask.tasks.template import (
    MAX_STEPS,
    MAX_TEXT,
    InputTemplate,
    Overlong,
    read_template,
    render_template,
)
from medtask.tasks.wording import YES_NO, write_answer, write_head, write_options, write_question

PROMPT_VERSION = 1  # goes up with every change that alters a prompt

_BLANK_WORDS = frozenset({"", "nan", "null", "none", "n/a", "#n/a", "<na>"})


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the prompts of a task have in common: finished turns, and the head of the last one."""

    turns: tuple[Message, ...]
    head: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """What one row brings to its prompt."""

    text: str
    context: str
    options: tuple[Option, ...]


def build_prompt(task: Task, record: Record, text: str | None = None) -> Prompt | Fault:
    """The question about one record, or why it cannot be asked.

    ``text``: a part of the record's input, about which the prompt is then; the gate has let the
    whole record pass.
    """
    parts = _read_parts(task, record, text)
    if isinstance(parts, Fault):
        return parts
    frame = _build_frame(task, choose_examples(task.pool, parts.text) if task.pool else ())
    content = frame.head + write_question(task, parts.text, parts.context)
    if isinstance(task.form, Choice) and task.form.several:
        content += write_options(task.form, parts.options)
    branches = _build_branches(task, parts.options)
    return Prompt(
        record.id, (*frame.turns, Message("user", content)), branches, parts.text, parts.options
    )


def render_text(source: str, record: Record) -> str | Fault:
    """The clean text that the input template ``source`` makes of a record, or why there is none."""
    raw = _render_raw(source, record)
    if isinstance(raw, Fault):
        return raw
    return clean_text(raw) or Fault(record.id, Status.EMPTY_INPUT, "the input has no text")


def input_columns(task: Task) -> frozenset[str]:
    """The columns that a prompt shows: those that the input names, as variables or as
    ``row["..."]``, options and context.
    """
    return frozenset(read_template(task.input).columns).union(extra_columns(task.form))


def extra_columns(form: Form) -> tuple[str, ...]:
    """The columns that a prompt shows besides its input."""
    match form:
        case Choice(columns=columns):
            return columns
        case FreeText(context=str(column)):
            return (column,)
    return ()


def prompt_key(prompt: Prompt) -> bytes:
    """16 bytes, equal for prompts that ask the same: such rows need be asked once."""
    asked = [
        [[turn.role, turn.content] for turn in prompt.messages],
        [[branch.ask, branch.lead, branch.tails, branch.weigh] for branch in prompt.branches],
        [[option.letter, option.text] for option in prompt.options],
        [prompt.thoughts, prompt.written],
    ]
    return blake2b(json.dumps(asked).encode(), digest_size=16).digest()


def _read_parts(task: Task, record: Record, given: str | None) -> _Parts | Fault:
    text = given if given is not None else _read_text(task, record)
    if isinstance(text, Fault):
        return text
    options, context = _read_options(task, record), _read_context(task, record)
    if isinstance(options, Fault):
        return options
    return context if isinstance(context, Fault) else _Parts(text, context, options.shown)


def _read_text(task: Task, record: Record) -> str | Fault:
    """The record's input, if the gate lets it pass."""
    raw = _render_raw(task.input, record)
    if isinstance(raw, Fault):
        return raw
    text = clean_text(raw)
    if not text:
        return Fault(record.id, Status.EMPTY_INPUT, "the input has no text")
    unfit = find_unfit(
        task.gate, raw, text, _example_texts(task) if task.gate.novelty is not None else ()
    )
    return Fault(record.id, *unfit) if unfit else text


def _read_options(task: Task, record: Record) -> Options | Fault:
    if not isinstance(task.form, Choice):
        return Options(())
    found = read_options(task.form, record.fields)
    return Fault(record.id, Status.FAILED, found) if isinstance(found, str) else found


def _read_context(task: Task, record: Record) -> str | Fault:
    column = task.form.context if isinstance(task.form, FreeText) else None
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
    match task.form:
        case OneLabel():
            return (
                Branch(
                    "",
                    tuple(label.say for label in task.candidates),
                    meanings=tuple(map(_mean, task.candidates)),
                ),
            )
        case AnyLabels():
            return tuple(
                Branch(f"{label.name}: ", YES_NO, meanings=(_mean(label),)) for label in task.labels
            )
        case Choice(several=True):
            return tuple(
                Branch(f"{option.letter}: ", YES_NO, meanings=(Meaning(option.text),))
                for option in options
            )
        case Choice(readout="text"):
            texts = tuple(option.text for option in options)
            return (
                Branch(
                    "", texts, write_options(task.form, options), "text", tuple(map(Meaning, texts))
                ),
            )
        case Choice(debias=debias):
            letters = tuple(option.letter for option in options)
            orders = _rotate(options) if debias == "permute" else [options]
            return tuple(
                Branch(
                    "",
                    letters,
                    write_options(task.form, order),
                    "text",
                    tuple(Meaning(option.text) for option in order),
                )
                for order in orders
            )
    return ()


def _mean(label: Label) -> Meaning:
    return Meaning(label.name, label.definition)


def _rotate(options: Sequence[Option]) -> list[list[Option]]:
    """All cyclic orders: in order j, the i-th letter shows the text of option (i + j) mod n."""
    orders = ([*options[shift:], *options[:shift]] for shift in range(len(options)))
    return [
        [Option(option.letter, shown.text) for option, shown in zip(options, order, strict=True)]
        for order in orders
    ]


@lru_cache(maxsize=8)
def _example_texts(task: Task) -> tuple[str, ...]:
    if task.pool:
        return task.pool.texts
    texts = [
        render_text(task.input, Record(f"example {number}", example.fields))
        for number, example in enumerate(task.examples, 1)
    ]
    return tuple(text for text in texts if isinstance(text, str))


@lru_cache(maxsize=256)  # one for every group of a pool
def _build_frame(task: Task, chosen: tuple[int, ...]) -> _Frame:
    """``chosen``: places in the task's pool; without one, all its examples are shown."""
    examples = [task.pool.examples[place] for place in chosen] if task.pool else task.examples
    lead = clean_text(write_head(task)) + "\n\n"
    turns: list[Message] = []
    for number, example in enumerate(examples, 1):
        parts = _read_parts(
            replace(task, gate=Gate()), Record(f"example {number}", example.fields), None
        )
        if isinstance(parts, Fault):
            raise InputError(f"example {number}: {parts.reason}", fix="correct the example")
        try:
            answer = write_answer(task, example.answer, parts.options)
        except (KeyError, ValueError):
            raise InputError(
                f"example {number} gives an answer that the task does not have",
                fix="correct the example",
            ) from None
        content = lead + write_question(task, parts.text, parts.context)
        content += write_options(task.form, parts.options) if isinstance(task.form, Choice) else ""
        turns += [Message("user", content), Message("assistant", answer)]
        lead = ""
    return _Frame(tuple(turns), lead)


def _render_raw(source: str, record: Record) -> str | Fault:
    template = read_template(source)
    if _has_only_blanks(template, record.fields):
        return Fault(record.id, Status.EMPTY_INPUT, "every column that the input uses is blank")
    try:
        return render_template(template, record.fields)
    except Overlong:
        reason = (
            f"the input makes more than {MAX_TEXT:,} characters or takes more than "
            f"{MAX_STEPS:,} turns of loops"
        )
        return Fault(record.id, Status.TOO_LONG, reason)
    except jinja2.UndefinedError as error:
        # Only names that the template itself spells out may be told: others can come from the row's
        # text.
        missing = quote(template.names.get(str(error), "a value"))
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
        return len(text) < 100 and clean_text(text).casefold() in _BLANK_WORDS
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or str(value).casefold() in _BLANK_WORDS
