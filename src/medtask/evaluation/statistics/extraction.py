"""Compares objects with gold, field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    Metric,
    ResamplingUnits,
    estimate_clustered_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.resampling import CellCounter, GroupCounts, combine_units
from medtask.names import fold_case

FieldPath = tuple[str, ...]
FieldOutcome = Literal["right", "wrong", "missed", "invented"]
_NOT_FOUND = object()


@dataclass(frozen=True, slots=True)
class PerFieldMetrics:
    """One field in the rows whose gold has it.

    Attributes:
        field: Dotted path.
        rows: Number of rows whose gold has the field, even as null.
        gold: Number of rows whose gold has a value.
        filled: Number of rows whose answer has a value.
        missed: Number of rows where only gold has a value.
        invented: Number of rows where only the answer has a value.
        agreement: Share of right values.
    """

    field: str
    rows: int
    gold: int
    filled: int
    missed: int
    invented: int
    agreement: Metric


@dataclass(frozen=True, slots=True)
class ExtractionMetrics:
    """Metrics of objects over all rows with gold; in rows without an answer all fields are wrong.

    Attributes:
        fields_right: Share of right fields over all rows together.
        rows_right: Share of rows without a wrong field.
        rows_right_answered: Share of rows without a wrong field, over rows with an answer.
        missed: Number of fields for which only gold has a value.
        invented: Number of fields for which only the answer has a value.
        fields: Metrics of each field.
        groups: Number of resampling units; see `ResamplingUnits`.
    """

    fields_right: Metric
    rows_right: Metric
    rows_right_answered: Metric | None
    missed: int
    invented: int
    fields: tuple[PerFieldMetrics, ...]
    groups: int | None


@dataclass(slots=True)
class _FieldCounts:
    rows: int = 0
    right: int = 0
    gold: int = 0
    filled: int = 0
    missed: int = 0
    invented: int = 0

    def add(self, other: _FieldCounts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


class ExtractionAccumulator:
    """Counts fields of pairs of objects.

    Memory grows with the number of fields and, if rows have groups, with the number of rows.
    """

    def __init__(self) -> None:
        self._fields: dict[FieldPath, _FieldCounts] = {}
        self._rows = CellCounter()  # (fields right, fields graded, answered)
        self._sums = GroupCounts()  # (path, whether it is right)

    def add(
        self,
        gold: Mapping[str, object],
        answer: Mapping[str, object] | None,
        group: str | None = None,
    ) -> int:
        """Adds a pair; returns the number of fields that are not right. ``answer`` is None if
        missing.
        """
        right = graded = 0
        for path, finding, in_gold, in_answer in compare_objects(gold, answer):
            counts = self._fields.setdefault(path, _FieldCounts())
            counts.rows += 1
            counts.right += finding == "right"
            counts.gold += in_gold
            counts.filled += in_answer
            counts.missed += finding == "missed"
            counts.invented += finding == "invented"
            graded += 1
            right += finding == "right"
            if group:
                self._sums.add(group, [(path, finding == "right")])
        self._rows.add((right, graded, int(answer is not None)), group)
        return graded - right

    def compute_metrics(self, *, seed: int = 0) -> ExtractionMetrics | None:
        """The metrics; None if no row had a field to compare."""
        cells, units = self._rows.finish()
        if not self._fields:
            return None
        right, graded, answered = cells.T
        whole, every = right == graded, np.ones(len(cells), dtype=np.int64)
        share = estimate_ratio(right, graded, units, seed=seed)
        rows = estimate_clustered_proportion(whole & (answered > 0), every, units, seed=seed)
        assert share is not None
        assert rows is not None
        found = _merge_nested_counts(self._fields)
        return ExtractionMetrics(
            fields_right=share,
            rows_right=rows,
            rows_right_answered=estimate_clustered_proportion(whole, answered, units, seed=seed),
            missed=sum(one.missed for one in found.values()),
            invented=sum(one.invented for one in found.values()),
            fields=tuple(self._compute_per_field_metrics(found, units, seed)),
            groups=units.n_groups,
        )

    def _compute_per_field_metrics(
        self, counts_by_path: Mapping[FieldPath, _FieldCounts], units: ResamplingUnits, seed: int
    ) -> Iterator[PerFieldMetrics]:
        outcomes = [(path, right) for path in self._fields for right in (False, True)]
        column = {fate: place for place, fate in enumerate(outcomes)}
        table = self._sums.to_sparse(outcomes).tocsc() if units.n_groups is not None else None
        for path, one in counts_by_path.items():
            alone, of_groups = np.array([one.rows - one.right, one.right], dtype=np.int64), None
            if table is not None:
                parts = [above for above in _list_path_prefixes(path) if above in self._fields]
                of_groups = sum(
                    table[:, [column[above, False], column[above, True]]] for above in parts
                ).tocsr()
                alone = alone - np.asarray(of_groups.sum(axis=0)).ravel()
            agreement = estimate_clustered_proportion(
                [False, True], [True, True], combine_units(alone, of_groups), seed=seed
            )
            assert agreement is not None
            yield PerFieldMetrics(
                ".".join(path), one.rows, one.gold, one.filled, one.missed, one.invented, agreement
            )


def flatten(value: Mapping[str, object], prefix: FieldPath = ()) -> dict[FieldPath, object]:
    """All values that are not objects, by path."""
    found: dict[FieldPath, object] = {}
    for key, inner in value.items():
        path = (*prefix, str(key))
        found |= (
            flatten(inner, path)
            if isinstance(inner, Mapping) and inner
            else {path: None if isinstance(inner, Mapping) else inner}
        )
    return found


def unflatten(leaves: Mapping[FieldPath, object]) -> dict[str, object]:
    """The object with these values, the inverse of `flatten`."""
    found: dict[str, object] = {}
    for path, leaf in leaves.items():
        home = found
        for key in path[:-1]:
            inner = home.setdefault(key, {})
            home = inner if isinstance(inner, dict) else home
        home[path[-1]] = leaf
    return found


def find_objects(paths: Iterable[FieldPath]) -> set[FieldPath]:
    """The paths of the objects that contain these values."""
    return {path[:length] for path in paths for length in range(1, len(path))}


def is_fully_correct(gold: Mapping[str, object], answer: Mapping[str, object] | None) -> bool:
    """Whether the answer is right in every field of gold; False without an answer."""
    return answer is not None and all(
        finding == "right" for _, finding, _, _ in compare_objects(gold, answer)
    )


def compare_objects(
    gold: Mapping[str, object], answer: Mapping[str, object] | None
) -> Iterator[tuple[FieldPath, FieldOutcome, bool, bool]]:
    """Compares an answer with gold, field by field.

    A null in gold means that there is no value, so a value in the answer is invented. Keys that are
    not in gold are not compared. Without an answer no field is right.

    Yields:
        Path, outcome, whether gold has a value, whether the answer has one.
    """
    paths = dict.fromkeys((*flatten(gold), *flatten(answer or {})))
    inner = find_objects(paths)
    for path in paths:
        truth = _look_up(gold, path)
        if truth is _NOT_FOUND or (path in inner and (truth is None or isinstance(truth, Mapping))):
            continue
        given = _look_up(answer or {}, path)
        in_gold, in_answer = not is_absent(truth), given is not _NOT_FOUND and not is_absent(given)
        finding: FieldOutcome = (
            "missed"
            if in_gold and not in_answer
            else "invented"
            if in_answer and not in_gold
            else "wrong"
        )
        if answer is not None and (
            is_equal_value(truth, given) if in_gold and in_answer else in_gold == in_answer
        ):
            finding = "right"
        yield path, finding, in_gold, in_answer


def is_equal_value(gold: object, answer: object) -> bool:
    """Whether two values are equal.

    Integers and booleans are compared exactly, other numbers with a relative tolerance of 1e-9,
    text without case and extra spaces, lists as sets. Numbers and booleans may be given as text.
    """
    if isinstance(gold, list) or isinstance(answer, list):
        left, right = (value if isinstance(value, list) else [value] for value in (gold, answer))
        return all(any(is_equal_value(a, b) for b in right) for a in left) and all(
            any(is_equal_value(a, b) for a in left) for b in right
        )
    if isinstance(gold, Mapping) and isinstance(answer, Mapping):
        return gold.keys() == answer.keys() and all(
            is_equal_value(gold[key], answer[key]) for key in gold
        )
    if isinstance(gold, bool) or isinstance(answer, bool):
        return normalize_text(gold) == normalize_text(answer)
    if isinstance(gold, int) and isinstance(answer, int):
        return gold == answer
    one, other = _parse_number(gold), _parse_number(answer)
    if (
        one is not None
        and other is not None
        and not (isinstance(gold, str) and isinstance(answer, str))
    ):
        return math.isclose(one, other, rel_tol=1e-9)
    return normalize_text(gold) == normalize_text(answer)


def normalize_text(value: object) -> str:
    """A value as text for comparison."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    )
    return fold_case(text)


def compute_field_terms(
    gold: Sequence[Mapping[str, object]], answers: Iterable[Mapping[str, object] | None]
) -> tuple[FloatArray, FloatArray]:
    """Right and compared fields of each row; see `compare_by_randomisation`."""
    rows = [
        [finding == "right" for _, finding, _, _ in compare_objects(truth, given)]
        for truth, given in zip(gold, answers, strict=True)
    ]
    return np.array([float(sum(row)) for row in rows]), np.array([float(len(row)) for row in rows])


def _look_up(value: object, path: FieldPath) -> object:
    """The value at a path; None below a null, _NOT_FOUND if a key is missing."""
    for depth, key in enumerate(path):
        if depth and (value is None or value == {}):
            return None
        if not isinstance(value, Mapping) or key not in value:
            return _NOT_FOUND
        value = value[key]
    return None if isinstance(value, Mapping) and not value else value


def is_absent(value: object) -> bool:
    """Whether a field has no value: null or empty."""
    return value is None or value == "" or value == []


def _parse_number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


def _merge_nested_counts(
    counts_by_path: Mapping[FieldPath, _FieldCounts],
) -> dict[FieldPath, _FieldCounts]:
    """Merge counts of nested fields: a row in which an object is null counts for each of its
    fields.
    """
    objects, merged = find_objects(counts_by_path), dict[FieldPath, _FieldCounts]()
    for path in sorted(counts_by_path):
        if path in objects:
            continue
        whole = _FieldCounts()
        for above in _list_path_prefixes(path):
            if above in counts_by_path:
                whole.add(counts_by_path[above])
        merged[path] = whole
    return merged


def _list_path_prefixes(path: FieldPath) -> list[FieldPath]:
    """The path of a field and those of the objects that contain it."""
    return [path[:length] for length in range(1, len(path) + 1)]
