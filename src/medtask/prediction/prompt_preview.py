"""Preview of one row's prompt: exact text, continuations of the candidates, token counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medtask.display import format_count
from medtask.engines.base import Engine, Rendering
from medtask.errors import EngineError, TaskFaults, UsageError
from medtask.records import Fault, Prompt, Record
from medtask.tables.cell_values import read_key
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.tables.table import Table


@dataclass(frozen=True, slots=True)
class RenderedCandidates:
    """A rendered prompt and its candidates.

    Attributes:
        prompt: The text before the candidates.
        prompt_tokens: Number of tokens of the prompt.
        texts: The exact continuation of each candidate, by name.
        tokens: Number of tokens of each continuation, by name.
    """

    prompt: str
    prompt_tokens: int
    texts: Mapping[str, str]
    tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PromptPreview:
    """A preview of one row's prompt.

    Attributes:
        record_id: The record's id.
        model: Title of the model.
        rendered: The prompt with candidates in the task's order, or why the row cannot be asked.
        shared_tokens: Number of prompt tokens shared with the other rows.
        warnings: Warnings of the task and the engine.
        schema: JSON schema of the output, for kind ``fields``.
        notes: Facts that the prompt does not show.
    """

    record_id: str
    model: str
    rendered: RenderedCandidates | Fault
    shared_tokens: int
    warnings: tuple[str, ...]
    schema: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()


def find_record(task: Task, table: Table, row: int, record_id: str | None) -> Record:
    """The record at a row (from 1), or with an id; raises UsageError if it is not found."""
    wanted = None if record_id is None else read_key(record_id)
    for number, record in enumerate(read_records(task, table), 1):
        if record.id == wanted if record_id is not None else number == row:
            return record
    if record_id is not None:
        raise UsageError(
            f"{table.source} has no row with the id {record_id}",
            fix="check the id, or give the number of the row with --row",
        )
    raise UsageError(
        f"{table.source} has no row {row}", fix="rows are counted from 1, without the header"
    )


def preview_prompt(
    task: Task, engine: Engine, record: Record, neighbours: Sequence[Prompt]
) -> PromptPreview:
    """Render the prompt of a record.

    ``neighbours`` are other prompts of the table, for counting the shared tokens.
    """
    prompt = build_prompt(task, record)
    title = engine.info.title
    if isinstance(prompt, Fault):
        return PromptPreview(record.id, title, prompt, 0, task.warnings)
    plan = engine.plan(
        [
            prompt,
            *(neighbour for neighbour in neighbours if neighbour.record_id != prompt.record_id),
        ]
    )
    return PromptPreview(
        record.id,
        title,
        render_candidates(task, engine, prompt),
        plan.shared_tokens if plan else 0,
        (*task.warnings, *(plan.warnings if plan else ())),
        schema=get_task_kind(task).written_schema,
        notes=_list_notes(task, prompt),
    )


def render_candidates(task: Task, engine: Engine, prompt: Prompt) -> RenderedCandidates:
    """Render the possible continuations of a prompt, by name.

    Names are labels, option letters or "<label>: yes"; empty if the answer is generated. If options
    are shown in several orders, only the first is rendered.
    """
    if any(branch.prefix for branch in prompt.branches):
        without_candidates = _render_prompt(engine, replace(prompt, branches=()))
        texts, tokens = {}, {}
        for branch in prompt.branches:
            rendered = _render_prompt(engine, replace(prompt, branches=(branch,)))
            for candidate, text, candidate_tokens in zip(
                branch.candidates, rendered.candidates, rendered.candidate_tokens, strict=True
            ):
                # The engine decides whether the prefix or the candidate owns the space between
                # them.
                texts[branch.prefix + candidate] = (rendered.prompt + text)[
                    len(without_candidates.prompt) :
                ]
                tokens[branch.prefix + candidate] = (
                    len(rendered.prompt_tokens)
                    + len(candidate_tokens)
                    - len(without_candidates.prompt_tokens)
                )
        return RenderedCandidates(
            without_candidates.prompt, len(without_candidates.prompt_tokens), texts, tokens
        )
    rendered = _render_prompt(engine, prompt)
    names = [option.letter for option in prompt.options] or [
        label.name for label in task.candidates
    ]
    texts = dict(zip(names, rendered.candidates, strict=True)) if prompt.branches else {}
    tokens = (
        dict(zip(names, map(len, rendered.candidate_tokens), strict=True))
        if prompt.branches
        else {}
    )
    return RenderedCandidates(rendered.prompt, len(rendered.prompt_tokens), texts, tokens)


def _render_prompt(engine: Engine, prompt: Prompt) -> Rendering:
    rendering = engine.render(prompt)
    if rendering is None:
        raise EngineError(
            f"{engine.info.title} does not show its prompts", fix="use a model of the hf engine"
        )
    return rendering


def _list_notes(task: Task, prompt: Prompt) -> tuple[str, ...]:
    notes = []
    if task.reasoning:
        budget = format_count(task.reasoning.budget, "token")
        notes.append(
            f"the model reasons before it answers, for at most {budget}, which are not shown here"
        )
    orders = len({branch.ask for branch in prompt.branches})
    if orders > 1:
        notes.append(f"the options are shown in {orders} orders; this is the first")
    return tuple(notes)


def describe_preview(preview: PromptPreview) -> dict[str, Any]:
    """The JSON document of a preview."""
    fault = preview.rendered if isinstance(preview.rendered, Fault) else None
    rendered = None if isinstance(preview.rendered, Fault) else preview.rendered
    return {
        "record_id": preview.record_id,
        "model": preview.model,
        "prompt": rendered.prompt if rendered else None,
        "candidates": dict(rendered.texts) if rendered else {},
        "prompt_tokens": rendered.prompt_tokens if rendered else 0,
        "candidate_tokens": dict(rendered.tokens) if rendered else {},
        "shared_tokens": preview.shared_tokens,
        **({"schema": preview.schema} if preview.schema else {}),
        "notes": list(preview.notes),
        "warnings": list(preview.warnings),
        "faults": [{"record_id": fault.record_id, "status": fault.status, "message": fault.reason}]
        if fault
        else [],
    }


def describe_faults(error: TaskFaults) -> dict[str, Any]:
    """The JSON document of a preview for a task with faults."""
    listed = [{"line": fault.line, "message": fault.message} for fault in error.faults]
    return {"prompt": None, "candidates": {}, "warnings": [], "faults": listed}
