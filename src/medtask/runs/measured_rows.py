"""Which rows metrics are based on: those that are new to the model.

The prompt shows examples with their answers, its words were chosen on rows, a model was trained on
rows, a calibration was fitted on rows. Metrics, acceptance, calibration and thresholds leave these
rows out, and the rows of their groups. `medtask.run` finds them once, and its manifest keeps their
numbers as first and last rows:

    "left_out": {"example": [[4, 4], [7, 9]], "training": [[10, 120]]}
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.engines.base import Engine
from medtask.records import AnsweredRow, LeftOut, Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.row_fingerprints import (
    RowFingerprints,
    RowKey,
    RowUse,
    fingerprint_rows,
    make_row_key,
    read_fingerprints,
    read_training_rows,
)
from medtask.tasks.task import Gate, Task
from medtask.tasks.text_cleaning import normalize_group

# The reasons for a row that was used, and for another row of its group.
_REASONS: Mapping[RowUse, tuple[LeftOut, LeftOut]] = {
    "example": (LeftOut.EXAMPLE, LeftOut.EXAMPLE_GROUP),
    "training": (LeftOut.TRAINING, LeftOut.TRAINING_GROUP),
    "validation": (LeftOut.VALIDATION, LeftOut.VALIDATION),
    "tuning": (LeftOut.TUNING, LeftOut.TUNING),
    "calibration": (LeftOut.CALIBRATION, LeftOut.CALIBRATION),
    "confidence": (LeftOut.CONFIDENCE, LeftOut.CONFIDENCE),
}
_GROUP_REASONS = dict(_REASONS.values())
_ORDER = {reason: position for position, reason in enumerate(LeftOut)}  # the first one is reported
# A calibration is fitted on the model's own probabilities, whatever calibration was applied before.
CALIBRATED = frozenset({LeftOut.CALIBRATION, LeftOut.CONFIDENCE})
# An audit draws rows of every confidence, so a calibration can be fitted on them without weights.
CALIBRATION_ROWS = CALIBRATED | {LeftOut.AUDIT}


def find_left_out(
    keys: Iterable[RowKey], fingerprints: Sequence[RowFingerprints]
) -> dict[int, LeftOut]:
    """Why rows are left out, by row number; rows that are new to the model are missing.

    Args:
        keys: The keys of all rows, from row 1.
        fingerprints: The rows that the model, its calibration and its prompt were made from.
    """
    if not fingerprints:
        return {}
    groups: list[str | None] = []
    reasons: dict[int, LeftOut] = {}
    related_groups: dict[str, LeftOut] = {}
    for row, key in enumerate(keys, 1):
        groups.append(None if key.group is None else normalize_group(key.group))
        for one in fingerprints:
            direct, by_group = _REASONS[one.use]
            if one.has_row(key):
                _add_reason(reasons, row, direct)
                # Where the groups of the used rows are not known, those of equal rows are.
                if not one.groups and groups[-1] is not None:
                    _add_reason(related_groups, groups[-1], by_group)
            elif one.has_group(key.group):
                _add_reason(reasons, row, by_group)
    _add_related_rows(reasons, groups, related_groups)
    return reasons


def extend_to_groups(
    left_out: Mapping[int, LeftOut], groups: Iterable[str | None]
) -> dict[int, LeftOut]:
    """The rows that are left out, and all rows of their groups.

    ``groups`` are the groups of all rows, from row 1.
    """
    names = [None if group is None else normalize_group(group) for group in groups]
    related: dict[str, LeftOut] = {}
    for row, reason in left_out.items():
        if row <= len(names) and (name := names[row - 1]) is not None:
            _add_reason(related, name, _GROUP_REASONS.get(reason, reason))
    reasons = dict(left_out)
    _add_related_rows(reasons, names, related)
    return reasons


def make_record_key(task: Task, record: Record) -> RowKey:
    """The key of a record; without hashes if the task cannot ask it."""
    plain = _strip_task(task)
    prompt = build_prompt(plain, record)
    if not isinstance(prompt, Prompt):
        return RowKey((), record.group)
    return make_row_key(plain, record, prompt)


def make_answered_row_key(task: Task, row: AnsweredRow) -> RowKey:
    """The key of an answered row; without hashes if its text and fields are not known."""
    record = Record(row.answer.record_id, row.fields, group=row.group)
    return make_row_key(task, record, Prompt(record.id, (), (), row.text, row.options))


def fingerprint_task_rows(task: Task) -> list[RowFingerprints]:
    """The fingerprints of the rows that a task was made from.

    These are the examples that every prompt of the task or of a further pass shows, and the rows
    that chose its words. Examples that are selected for each row are never of its group: rows need
    not be left out.

    Raises:
        InputError: The list of rows that chose the words is not valid.
    """
    keys = [
        make_record_key(asked, Record("example", example.fields, group=example.group))
        for asked in (task, *(one.task for one in task.passes))
        for example in asked.examples
    ]
    parts = ([key for key in keys if key.group is None], [key for key in keys if key.group])
    found = [fingerprint_rows(part, "example", "") for part in parts if part]
    return [*found, *(read_fingerprints(task.tuning_rows) if task.tuning_rows else ())]


def collect_fingerprints(
    task: Task, engines: Iterable[Engine]
) -> tuple[list[RowFingerprints], list[str]]:
    """The fingerprints of the rows that models and prompts were made from.

    Returns:
        The fingerprints, and the folders of trained models that do not have any.

    Raises:
        InputError: The list of a folder is not valid.
    """
    found = fingerprint_task_rows(task)
    unknown: list[str] = []
    for folder in dict.fromkeys(name for engine in engines for name in engine.info.trained_folders):
        rows = read_training_rows(Path(folder))
        if rows is None:
            unknown.append(folder)
        found += rows or ()
    return found, unknown


def left_out_to_json(left_out: Mapping[int, LeftOut]) -> dict[str, list[list[int]]]:
    """The rows as ranges by reason, for a manifest."""
    ranges: dict[str, list[list[int]]] = {}
    for row in sorted(left_out):
        spans = ranges.setdefault(str(left_out[row]), [])
        if spans and spans[-1][1] == row - 1:
            spans[-1][1] = row
        else:
            spans.append([row, row])
    return ranges


def left_out_from_json(
    content: Mapping[str, Any], without: Collection[LeftOut] = ()
) -> dict[int, LeftOut]:
    """The rows from `left_out_to_json`, without some reasons.

    Raises ValueError or TypeError if not valid.
    """
    return {
        row: LeftOut(reason)
        for reason, spans in content.items()
        if LeftOut(reason) not in without
        for first, last in spans
        for row in range(first, last + 1)
    }


def select_measured(
    rows: Iterable[AnsweredRow], accepted: Collection[LeftOut] = ()
) -> Iterator[AnsweredRow]:
    """The rows with gold that are not left out, or only for one of the ``accepted`` reasons."""
    return (
        row
        for row in rows
        if row.gold is not None and (row.left_out is None or row.left_out in accepted)
    )


def _strip_task(task: Task) -> Task:
    """The task without the parts that are equal for all rows, or that reject rows."""
    return replace(task, examples=(), pool=None, passes=(), gate=Gate())


def _add_reason(reasons: dict[Any, LeftOut], key: object, reason: LeftOut) -> None:
    known = reasons.get(key)
    if known is None or _ORDER[reason] < _ORDER[known]:
        reasons[key] = reason


def _add_related_rows(
    reasons: dict[int, LeftOut], groups: Sequence[str | None], related: Mapping[str, LeftOut]
) -> None:
    for row, group in enumerate(groups, 1):
        if group is not None and row not in reasons and group in related:
            reasons[row] = related[group]
