"""Fingerprints of tasks: all facts that can change an answer, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256

from medtask.records import PROMPT_VERSION
from medtask.tables.cell_values import format_canonical_json
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import AnswerSpec, Example, ExamplePool, Task

_MAX_VALUE_LENGTH = 80


def fingerprint_task(task: Task) -> str:
    """SHA-256 (hex) over all facts that can change an answer or its status.

    The name, the id and gold columns, the table and the model are excluded.
    """
    return _hash_value(_list_properties(task))


def describe_task(task: Task) -> dict[str, str]:
    """The same facts in a short form; they differ for two tasks if the fingerprints differ.

    Long values are cut and include a hash. Examples are represented by their number and hash only.
    """
    return {name: _abbreviate(fact) for name, fact in _list_properties(task).items()}


def restore_earlier_settings(task: Task, properties: Mapping[str, str]) -> Task:
    """The task with the defaults of the version that has recorded its properties.

    Args:
        task: The task as it is loaded now.
        properties: The result of `describe_task` in that version.
    """
    spec = get_task_kind(task).restore_spec(properties)
    version = _read_prompt_version(properties.get("prompt_version"))
    if spec == task.answer_spec and version == task.prompt_version:
        return task
    passes = tuple(
        replace(one, task=restore_earlier_settings(one.task, properties)) for one in task.passes
    )
    earlier = replace(task, answer_spec=spec, passes=passes, prompt_version=version)
    return replace(earlier, fingerprint=fingerprint_task(earlier))


def match_prompt_versions(
    task: Task, version: int | None, pass_versions: Mapping[str, int | None]
) -> Task:
    """The task with the prompts that its models were trained on.

    Args:
        task: The task.
        version: The version of prompts of the model; None for a model that medtask did not train.
        pass_versions: The same for the models of further passes, by their references.
    """
    passes = tuple(
        replace(
            one,
            task=match_prompt_versions(
                one.task, pass_versions[one.model] if one.model else version, pass_versions
            ),
        )
        for one in task.passes
    )
    matched = replace(task, passes=passes, prompt_version=version or task.prompt_version)
    if matched == task:
        return task
    return replace(matched, fingerprint=fingerprint_task(matched))


def _read_prompt_version(recorded: str | None) -> int:
    """The recorded version; the current one if there is none or it is of a later medtask."""
    known = {str(version): version for version in range(1, PROMPT_VERSION + 1)}
    return known.get(recorded or "", PROMPT_VERSION)


def _list_properties(task: Task) -> dict[str, str]:
    """All facts; for a further pass only those that differ, under ``passes.<name>.``."""
    properties = _list_pass_properties(task)
    for one in task.passes:
        changed = {
            name: fact
            for name, fact in _list_pass_properties(one.task).items()
            if properties.get(name) != fact
        }
        changed |= {"when": format_canonical_json(asdict(one.when)), "model": one.model or ""}
        properties |= {f"passes.{one.name}.{name}": fact for name, fact in changed.items()}
    return properties | {"passes": ", ".join(one.name for one in task.passes)}


def _list_pass_properties(task: Task) -> dict[str, str]:
    return {
        "kind": task.kind,
        "instruction": task.instruction,
        "input": task.input,
        "labels": ", ".join(json.dumps(label.name, ensure_ascii=False) for label in task.labels),
        **{f"labels.{label.name}": label.definition for label in task.labels},
        "abstain": f"{task.abstain.name}: {task.abstain.definition}" if task.abstain else "",
        **{
            name: fact if isinstance(fact, str) else format_canonical_json(fact)
            for name, fact in _list_spec_facts(task.answer_spec)
        },
        "examples": _summarize_examples(task.examples),
        "pool": f"{task.pool.k} by {task.pool.by} of {_summarize_pool(task.pool)}"
        if task.pool
        else "",
        "prompt_version": str(task.prompt_version),
        "reasoning": format_canonical_json(asdict(task.reasoning)) if task.reasoning else "",
        **{f"gate.{name}": format_canonical_json(fact) for name, fact in asdict(task.gate).items()},
        **{
            f"review.{name}": format_canonical_json(fact)
            for name, fact in asdict(task.review).items()
        },
    }


def _list_spec_facts(spec: AnswerSpec) -> Iterator[tuple[str, object]]:
    facts = asdict(spec)
    for one in fields(spec):
        rule = one.metadata.get("fingerprinted", "always")
        if rule == "always" or (rule == "if set" and facts[one.name] != one.default):
            yield one.name, facts[one.name]


def _summarize_examples(examples: Sequence[Example]) -> str:
    return (
        f"{len(examples)} (sha256 "
        f"{_hash_value([[dict(example.fields), example.answer] for example in examples])[:32]})"
    )


def _summarize_pool(pool: ExamplePool) -> str:
    """The examples and their groups: a row is shown examples of other groups only."""
    groups = _hash_value([example.group for example in pool.examples])[:32]
    return f"{_summarize_examples(pool.examples)} in other groups (sha256 {groups})"


def _abbreviate(value: str) -> str:
    return (
        value
        if len(value) <= _MAX_VALUE_LENGTH
        else f"{value[:_MAX_VALUE_LENGTH]}… (sha256 {_hash_value(value)[:16]})"
    )


def _hash_value(value: object) -> str:
    return sha256(format_canonical_json(value).encode()).hexdigest()
