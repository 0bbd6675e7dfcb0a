"""One row as a model reads it: the exact text, each candidate's continuation, and what they cost in
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medtask.cli import show
from medtask.engines.base import Engine, Rendering
from medtask.errors import EngineError, TaskFaults, UsageError
from medtask.records import Fault, Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Fields, Task

if TYPE_CHECKING:
    from medtask.data.table import Table


@dataclass(frozen=True, slots=True)
class Candidates:
    """The text up to where the candidates begin, and by name the exact text with which each goes
    on; both with their tokens.
    """

    prompt: str
    prompt_tokens: int
    texts: Mapping[str, str]
    tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """``found``: in the task's order, or why the row cannot be asked. ``shared_tokens``: of the
    prompt, with the other rows. ``schema``: of kind ``fields``, what may be written. ``notes``:
    what the prompt does not show.
    """

    record_id: str
    model: str
    found: Candidates | Fault
    shared_tokens: int
    warnings: tuple[str, ...]
    schema: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()


def find_record(task: Task, table: Table, row: int, record_id: str | None) -> Record:
    """The record of a row (from 1), or with an id. UsageError where there is none."""
    for number, record in enumerate(read_records(task, table), 1):
        if record.id == record_id if record_id is not None else number == row:
            return record
    if record_id is not None:
        raise UsageError(
            f"no row of {table.source} has the id {record_id}",
            fix="look the id up, or name the row's number with --row",
        )
    raise UsageError(
        f"{table.source} has no row {row}", fix="rows count from 1, without the header"
    )


def look_at(task: Task, engine: Engine, record: Record, others: Sequence[Prompt]) -> Look:
    """Render a record's prompt; ``others`` are prompts of the same table, for what they have in
    common with it.
    """
    prompt = build_prompt(task, record)
    title = engine.info.title
    if isinstance(prompt, Fault):
        return Look(record.id, title, prompt, 0, task.warnings)
    plan = engine.plan(
        [prompt, *(other for other in others if other.record_id != prompt.record_id)]
    )
    return Look(
        record.id,
        title,
        read_candidates(task, engine, prompt),
        plan.shared if plan else 0,
        (*task.warnings, *(plan.warnings if plan else ())),
        schema=task.form.schema if isinstance(task.form, Fields) else None,
        notes=_note(task, prompt),
    )


def read_candidates(task: Task, engine: Engine, prompt: Prompt) -> Candidates:
    """What can follow a prompt, by name: a label, an option's letter, "<label>: yes"; nothing where
    the model writes freely.

    Where options are shown in several orders it is the first of them.
    """
    if any(branch.lead for branch in prompt.branches):
        opening = _render(engine, replace(prompt, branches=()))
        texts, tokens = {}, {}
        for branch in prompt.branches:
            rendered = _render(engine, replace(prompt, branches=(branch,)))
            for tail, text, own in zip(
                branch.tails, rendered.candidates, rendered.candidate_tokens, strict=True
            ):
                # Which of both owns the space between them is the engine's affair.
                texts[branch.lead + tail] = (rendered.prompt + text)[len(opening.prompt) :]
                tokens[branch.lead + tail] = (
                    len(rendered.prompt_tokens) + len(own) - len(opening.prompt_tokens)
                )
        return Candidates(opening.prompt, len(opening.prompt_tokens), texts, tokens)
    rendered = _render(engine, prompt)
    names = [option.letter for option in prompt.options] or [
        label.name for label in task.candidates
    ]
    texts = dict(zip(names, rendered.candidates, strict=True)) if prompt.branches else {}
    tokens = (
        dict(zip(names, map(len, rendered.candidate_tokens), strict=True))
        if prompt.branches
        else {}
    )
    return Candidates(rendered.prompt, len(rendered.prompt_tokens), texts, tokens)


def _render(engine: Engine, prompt: Prompt) -> Rendering:
    rendering = engine.render(prompt)
    if rendering is None:
        raise EngineError(
            f"{engine.info.title} does not tell what it reads",
            fix="choose a model of the hf engine",
        )
    return rendering


def _note(task: Task, prompt: Prompt) -> tuple[str, ...]:
    notes = []
    if task.reasoning:
        budget = show.count(task.reasoning.budget, "token")
        notes.append(
            f"before it answers the model thinks, for at most {budget}, which are not shown here"
        )
    orders = len({branch.ask for branch in prompt.branches})
    if orders > 1:
        notes.append(f"the options are shown in {orders} orders, of which this is the first")
    return tuple(notes)


def describe_look(look: Look) -> dict[str, Any]:
    """The JSON document of a look."""
    found = look.found
    if isinstance(found, Fault):
        asked: dict[str, Any] = {
            "prompt": None,
            "candidates": {},
            "prompt_tokens": 0,
            "candidate_tokens": {},
            "shared_tokens": 0,
        }
        faults = [{"record_id": found.record_id, "status": found.status, "message": found.reason}]
    else:
        asked = {
            "prompt": found.prompt,
            "candidates": dict(found.texts),
            "prompt_tokens": found.prompt_tokens,
            "candidate_tokens": dict(found.tokens),
            "shared_tokens": look.shared_tokens,
        }
        faults = []
    schema = {"schema": look.schema} if look.schema else {}
    return {
        "record_id": look.record_id,
        "model": look.model,
        **asked,
        **schema,
        "notes": list(look.notes),
        "warnings": list(look.warnings),
        "faults": faults,
    }


def describe_faults(error: TaskFaults) -> dict[str, Any]:
    """The same document where the task's faults allow no look."""
    listed = [{"line": fault.line, "message": fault.message} for fault in error.faults]
    return {"prompt": None, "candidates": {}, "warnings": [], "faults": listed}


def show_look(look: Look) -> None:
    found = look.found
    if isinstance(found, Fault):
        show.say(f"{look.record_id} is not asked: {found.status}, {found.reason}")
        return
    shared = f"{look.shared_tokens:,} of them shared with other rows"
    show.say(
        ("row ", "dim"),
        look.record_id,
        (
            f" as {look.model} reads it: {show.count(found.prompt_tokens, 'token')}, {shared}\n",
            "dim",
        ),
    )
    show.show_exactly(found.prompt)
    if found.texts:
        show.say(("\nand how each answer continues it", "dim"))
        width = min(40, max(map(len, found.texts)))
        for name, text in found.texts.items():
            cost = show.count(found.tokens[name], "token")
            show.say(f"  {show.escape(name, keep=''):<{width}}  {text!r}", (f"  {cost}", "dim"))
    elif look.schema:
        show.say(("\nand the JSON schema that what follows satisfies", "dim"))
        show.show_json(look.schema)
    else:
        show.say(("\nand then the model writes", "dim"))
    for note in look.notes:
        show.fact("note", note)
    for warning in look.warnings:
        show.warn(warning)
