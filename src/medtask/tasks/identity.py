"""What makes a task the same task: every fact that can change an answer, by name."""

from __future__ import annotations

import json
from hashlib import sha256

from medtask.tasks.prompt import PROMPT_VERSION
from medtask.tasks.task import Task

_LONG = 80


def fingerprint_task(task: Task) -> str:
    """SHA-256, in hex, over everything that can change an answer or its status.

    The name, the id and gold columns, the table and the model are not in it.
    """
    return _hash(_list_facts(task))


def describe(task: Task) -> dict[str, str]:
    """The same facts, short enough to be stored and compared: two tasks differ here if their fingerprints do.

    Long values are cut and carry a hash; examples, which are rows, are told by their number and hash alone.
    """
    facts = _list_facts(task)
    examples = f"{len(task.examples)} (sha256 {_hash(facts['examples'])[:16]})"
    return {name: _shorten(fact) for name, fact in facts.items()} | {"examples": examples}


def _list_facts(task: Task) -> dict[str, str]:
    return {
        "kind": task.kind,
        "instruction": task.instruction,
        "input": task.input,
        "labels": ", ".join(json.dumps(label.name, ensure_ascii=False) for label in task.labels),
        **{f"labels.{label.name}": label.definition for label in task.labels},
        "abstain": f"{task.abstain.name}: {task.abstain.definition}" if task.abstain else "",
        "readout": task.readout,
        "examples": _write_json([[dict(example.fields), example.answer] for example in task.examples]),
        "review.confidence_below": repr(task.review.confidence_below),
        "review.off_set_above": repr(task.review.off_set_above),
        "prompt_version": str(PROMPT_VERSION),
    }


def _shorten(fact: str) -> str:
    return fact if len(fact) <= _LONG else f"{fact[:_LONG]}… (sha256 {_hash(fact)[:16]})"


def _hash(value: object) -> str:
    return sha256(_write_json(value).encode()).hexdigest()


def _write_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
