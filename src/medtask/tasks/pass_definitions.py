"""Definitions of further passes, which ask the selected rows again with changes."""

from __future__ import annotations

from dataclasses import replace

from medtask.display import format_suggestion, quote
from medtask.records import Status, list_names
from medtask.tasks.config import PassConditionConfig, PassConfig, ReasoningConfig
from medtask.tasks.document import KeyPath
from medtask.tasks.fewshot import read_examples
from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.gate import GATE_STATUSES
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.reader import TaskReader
from medtask.tasks.task import (
    STUDENT_PASS,
    ExamplePool,
    Pass,
    PassCondition,
    Reasoning,
    Task,
)

FIRST_PASS = "first"  # noqa: S105 - the name of the pass that asks every row


def derive_passes(reader: TaskReader, task: Task) -> tuple[Pass, ...]:
    """Read ``passes:``; ``task`` is the complete first pass."""
    passes: list[Pass] = []
    names = {FIRST_PASS}
    for path, config in _read_pass_configs(reader):
        if config.name in names:
            what = (
                "is the name of the first pass"
                if config.name == FIRST_PASS
                else "is the name of an earlier pass"
            )
            message = f"{quote(config.name)} {what}: give this one another name"
            reader.add_fault(message, *path, "name")
        if config.name == STUDENT_PASS and task.cascade_alpha is not None:
            message = f"{quote(config.name)} is the pass of the cascade: give this one another name"
            reader.add_fault(message, *path, "name")
        names.add(config.name)
        when = _read_pass_condition(reader, (*path, "when"), task)
        derived = _derive_task(reader, path, config, task)
        derived = replace(derived, fingerprint=fingerprint_task(derived))
        passes.append(Pass(config.name, when, derived, config.model))
    return tuple(passes)


def read_reasoning(reader: TaskReader, path: KeyPath) -> Reasoning | None:
    """Read the reasoning section of a task or a pass; None if missing."""
    if reader.is_missing(*path):
        return None
    config = reader.read_config(path, ReasoningConfig)
    return Reasoning(config.budget, config.deadline_s) if config else None


def check_reasoning(reader: TaskReader, path: KeyPath, task: Task) -> None:
    """Add a fault if the task does not allow reasoning."""
    if task.reasoning and (conflict := get_task_kind(task).find_reasoning_conflict()):
        reader.add_fault(conflict, *path)


def _read_pass_configs(reader: TaskReader) -> list[tuple[KeyPath, PassConfig]]:
    """The values of every valid pass before interpretation, with its path."""
    if reader.is_missing("passes"):
        return []
    raw = reader.document.get_value("passes")
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        reader.add_fault('"passes" is a list, and every pass begins with "- name:"', "passes")
        return []
    paths: list[KeyPath] = [("passes", index) for index in range(len(raw))]
    configs = [(path, reader.read_config(path, PassConfig)) for path in paths]
    return [(path, config) for path, config in configs if config is not None]


def _read_pass_condition(reader: TaskReader, path: KeyPath, task: Task) -> PassCondition:
    before = len(reader.faults)
    config = reader.read_config(path, PassConditionConfig)
    if config is None:
        return PassCondition()
    status = _read_status(reader, (*path, "status"), config.status)
    answer_names = _read_names(reader, (*path, "answer_in"), config.answer_in)
    condition = PassCondition(config.confidence_below, status, answer_names)
    kind = get_task_kind(task)
    if config.confidence_below is not None and (problem := kind.find_confidence_problem()):
        reader.add_fault(f"{problem}: remove confidence_below", *path, "confidence_below")
    if answer_names and reader.answers_known:
        for message in kind.find_unknown_answers(answer_names):
            reader.add_fault(message, *path, "answer_in")
    if condition == PassCondition() and len(reader.faults) == before:
        message = '"when" selects the rows of a pass: confidence_below, status or answer_in'
        reader.add_fault(message, *path)
    return condition


def _read_status(reader: TaskReader, path: KeyPath, raw: object) -> tuple[Status, ...]:
    known = [status.value for status in Status]
    found: list[Status] = []
    for name in _read_names(reader, path, raw):
        if name not in known:
            hint = format_suggestion(name, known) or f" - there are {', '.join(known)}"
            reader.add_fault(f"unknown status {quote(name)}{hint}", *path)
        elif Status(name) in GATE_STATUSES:
            reader.add_fault(f"rows with the status {name} are asked in no pass", *path)
        else:
            found.append(Status(name))
    return tuple(found)


def _read_names(reader: TaskReader, path: KeyPath, raw: object) -> tuple[str, ...]:
    """One name, or a list of names."""
    if raw is None:
        return ()
    names = raw if isinstance(raw, list) else [raw]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        reader.add_fault(f"{quote(path[-1])} is a name, or a list of names", *path)
        return ()
    return tuple(str(name).strip() for name in names)


def _derive_task(reader: TaskReader, path: KeyPath, config: PassConfig, task: Task) -> Task:
    """The task of the first pass with the changes of this one."""
    derived = replace(
        task,
        name=f"{task.name}/{config.name}",
        instruction=config.instruction or task.instruction,
        # Novelty compares rows with the first pass's examples, not with this one's.
        gate=replace(task.gate, novelty=None),
        passes=(),
        warnings=(),
    )
    if config.labels is not None:
        derived = _restrict_labels(reader, (*path, "labels"), config.labels, derived)
    if reader.document.get_value(*path, "reasoning") is not None:
        derived = replace(derived, reasoning=read_reasoning(reader, (*path, "reasoning")))
    check_reasoning(reader, (*path, "reasoning"), derived)
    if config.examples is not None:
        bare = replace(derived, examples=(), pool=None)
        few_shot = read_examples(reader, (*path, "examples"), bare)
        derived = replace(
            bare, examples=few_shot.examples, pool=few_shot.pool, warnings=few_shot.warnings
        )
    return replace(derived, model=config.model or task.model)


def _restrict_labels(reader: TaskReader, path: KeyPath, raw: object, task: Task) -> Task:
    """The task with some of its labels, without examples of the others."""
    if not task.kind_spec.has_labels:
        message = f'"labels" belongs to tasks with labels, and this one is of the kind {task.kind}'
        reader.add_fault(message, *path)
        return task
    names = _read_names(reader, path, raw)
    known = [label.name for label in task.labels]
    if unknown := [name for name in names if name not in known]:
        for name in unknown if reader.answers_known else ():
            hint = format_suggestion(name, known)
            reader.add_fault(f"{quote(name)} is not a label of the task{hint}", *path)
        return task
    if not names:
        return task
    restricted = get_task_kind(task).select_labels(names)
    allowed = {label.name for label in restricted.candidates}
    fits = [example for example in task.examples if allowed.issuperset(list_names(example.answer))]
    return replace(restricted, examples=tuple(fits), pool=_restrict_pool(task.pool, allowed))


def _restrict_pool(pool: ExamplePool | None, allowed: set[str]) -> ExamplePool | None:
    if pool is None:
        return None
    fits = [
        index
        for index, example in enumerate(pool.examples)
        if allowed.issuperset(list_names(example.answer))
    ]
    if not fits:
        return None
    return replace(
        pool,
        examples=tuple(pool.examples[index] for index in fits),
        texts=tuple(pool.texts[index] for index in fits),
    )
