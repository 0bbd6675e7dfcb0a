"""One row as a model reads it: the exact text, each label's continuation, and what they cost in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medtask.cli import show
from medtask.errors import EngineError, TaskFaults, UsageError
from medtask.records import Fault, Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records

if TYPE_CHECKING:
    from medtask.data.table import Table
    from medtask.engines.base import Engine
    from medtask.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Look:
    """``candidates``: label -> continuation, in the task's order. ``shared_tokens``: of the prompt, with the other rows."""

    record_id: str
    model: str
    prompt: str | None
    candidates: dict[str, str]
    prompt_tokens: int
    candidate_tokens: dict[str, int]
    shared_tokens: int
    warnings: tuple[str, ...]
    fault: Fault | None = None


def find_record(task: Task, table: Table, row: int, record_id: str | None) -> Record:
    """The record of a row (from 1), or with an id. UsageError where there is none."""
    for number, record in enumerate(read_records(task, table), 1):
        if record.id == record_id if record_id is not None else number == row:
            return record
    if record_id is not None:
        raise UsageError(f"no row of {table.source} has the id {record_id}", fix="look the id up, or name the row's number with --row")
    raise UsageError(f"{table.source} has no row {row}", fix="rows count from 1, without the header")


def look_at(task: Task, engine: Engine, record: Record, others: Sequence[Prompt]) -> Look:
    """Render a record's prompt; ``others`` are prompts of the same table, for what they have in common with it."""
    prompt = build_prompt(task, record)
    title = engine.info.title
    if isinstance(prompt, Fault):
        return Look(record.id, title, None, {}, 0, {}, 0, task.warnings, prompt)
    rendering = engine.render(prompt)
    if rendering is None:
        raise EngineError(f"{title} does not tell what it reads", fix="choose a model of the hf engine")
    plan = engine.plan([prompt, *(other for other in others if other.record_id != prompt.record_id)])
    names = [label.name for label in task.candidates]
    return Look(
        record.id,
        title,
        rendering.prompt,
        dict(zip(names, rendering.candidates, strict=True)),
        len(rendering.prompt_tokens),
        dict(zip(names, map(len, rendering.candidate_tokens), strict=True)),
        plan.shared if plan else 0,
        (*task.warnings, *(plan.warnings if plan else ())),
    )


def describe_look(look: Look) -> dict[str, Any]:
    """The JSON document of a look."""
    fault = look.fault
    return {
        "record_id": look.record_id,
        "model": look.model,
        "prompt": look.prompt,
        "candidates": look.candidates,
        "prompt_tokens": look.prompt_tokens,
        "candidate_tokens": look.candidate_tokens,
        "shared_tokens": look.shared_tokens,
        "warnings": list(look.warnings),
        "faults": [{"record_id": fault.record_id, "status": fault.status, "message": fault.reason}] if fault else [],
    }


def describe_faults(error: TaskFaults) -> dict[str, Any]:
    """The same document where the task's faults allow no look."""
    listed = [{"line": fault.line, "message": fault.message} for fault in error.faults]
    return {"prompt": None, "candidates": {}, "warnings": [], "faults": listed}


def show_look(look: Look) -> None:
    if look.fault:
        show.say(f"{look.record_id} is not asked: {look.fault.status}, {look.fault.reason}")
        return
    shared = f"{look.shared_tokens:,} of them shared with other rows"
    show.say(("row ", "dim"), look.record_id, (f" as {look.model} reads it: {show.count(look.prompt_tokens, 'token')}, {shared}\n", "dim"))
    show.show_exactly(look.prompt or "")
    show.say(("\nand how each label continues it", "dim"))
    width = min(40, max(map(len, look.candidates)))
    for name, text in look.candidates.items():
        cost = show.count(look.candidate_tokens[name], "token")
        show.say(f"  {show.escape(name, keep=''):<{width}}  {text!r}", (f"  {cost}", "dim"))
    for warning in look.warnings:
        show.warn(warning)
