"""Whether an object with fields says what gold says, field by field."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from medtask.evaluate.intervals import Estimate, Figures, estimate_ratio, estimate_share

Path = tuple[str, ...]
Finding = Literal["right", "wrong", "missed", "invented"]
_NOWHERE = object()


@dataclass(frozen=True, slots=True)
class FieldQuality:
    """One field, by its dotted path, in the ``rows`` whose gold speaks of it. ``filled`` and ``gold`` count those in which the
    answer, or gold, has a value; ``missed`` and ``invented`` those in which gold alone, or the answer alone, has one."""

    field: str
    rows: int
    gold: int
    filled: int
    missed: int
    invented: int
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class ObjectQuality:
    """What objects are worth against gold, over all rows with gold; without an answer all fields of a row are wrong.

    ``fields_right``: the share of fields that are right, all rows together. ``rows_right``: rows without a wrong field;
    ``rows_right_answered``: of those with an answer.
    """

    fields_right: Estimate
    rows_right: Estimate
    rows_right_answered: Estimate | None
    missed: int
    invented: int
    fields: tuple[FieldQuality, ...]


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    right: int = 0
    gold: int = 0
    filled: int = 0
    missed: int = 0
    invented: int = 0

    def add(self, other: _Tally) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


class ObjectCounts:
    """Sums up pairs of objects, row by row; memory grows with the fields, not with the rows."""

    def __init__(self) -> None:
        self._fields: dict[Path, _Tally] = {}
        self._rows: Counter[tuple[int, int]] = Counter()  # fields right, fields graded
        self._answered = self._answered_right = 0

    def add(self, gold: Mapping[str, object], answer: Mapping[str, object] | None) -> int:
        """How many fields are not right. ``answer`` is None where there is none."""
        right = graded = 0
        for path, finding, in_gold, in_answer in compare_objects(gold, answer):
            tally = self._fields.setdefault(path, _Tally())
            tally.rows += 1
            tally.right += finding == "right"
            tally.gold += in_gold
            tally.filled += in_answer
            tally.missed += finding == "missed"
            tally.invented += finding == "invented"
            graded += 1
            right += finding == "right"
        self._rows[right, graded] += 1
        self._answered += answer is not None
        self._answered_right += answer is not None and right == graded
        return graded - right

    def grade(self, *, seed: int = 0) -> ObjectQuality | None:
        """None where no row had a field to grade."""
        cells = np.array([(*cell, rows) for cell, rows in sorted(self._rows.items())], dtype=np.int64).reshape(-1, 3)
        right, graded, rows = cells.T
        share = estimate_ratio(right, graded, rows, seed=seed)
        whole = estimate_share(self._answered_right, int(rows.sum()))
        if share is None or whole is None or not self._fields:
            return None
        found = _merge(self._fields)
        return ObjectQuality(
            fields_right=share,
            rows_right=whole,
            rows_right_answered=estimate_share(self._answered_right, self._answered),
            missed=sum(one.missed for one in found.values()),
            invented=sum(one.invented for one in found.values()),
            fields=tuple(_describe(path, one) for path, one in found.items()),
        )


def flatten(value: Mapping[str, object], above: Path = ()) -> dict[Path, object]:
    """Every value that is no object, by its path."""
    found: dict[Path, object] = {}
    for key, inner in value.items():
        path = (*above, str(key))
        found |= flatten(inner, path) if isinstance(inner, Mapping) and inner else {path: None if isinstance(inner, Mapping) else inner}
    return found


def unflatten(leaves: Mapping[Path, object]) -> dict[str, object]:
    """The object whose values these are."""
    found: dict[str, object] = {}
    for path, leaf in leaves.items():
        home = found
        for key in path[:-1]:
            inner = home.setdefault(key, {})
            home = inner if isinstance(inner, dict) else home
        home[path[-1]] = leaf
    return found


def compare_objects(gold: Mapping[str, object], answer: Mapping[str, object] | None) -> Iterator[tuple[Path, Finding, bool, bool]]:
    """Path, finding, whether gold has a value there, whether the answer has one, of every field that gold speaks of.

    Gold that is null says that there is nothing, so a value there is invented; of a key that it lacks it says nothing.
    Without an answer no field is right, even where gold has nothing.
    """
    paths = dict.fromkeys((*flatten(gold), *flatten(answer or {})))
    inner = {path[:length] for path in paths for length in range(1, len(path))}
    for path in paths:
        truth = _look_up(gold, path)
        if truth is _NOWHERE or (path in inner and (truth is None or isinstance(truth, Mapping))):
            continue
        given = _look_up(answer or {}, path)
        in_gold, in_answer = not is_absent(truth), given is not _NOWHERE and not is_absent(given)
        finding: Finding = "missed" if in_gold and not in_answer else "invented" if in_answer and not in_gold else "wrong"
        if answer is not None and (agree(truth, given) if in_gold and in_answer else in_gold == in_answer):
            finding = "right"
        yield path, finding, in_gold, in_answer


def agree(gold: object, answer: object) -> bool:
    """Whether two values say the same: whole numbers and booleans exactly, other numbers within 1e-9 of their size, text but
    for case and blanks, lists as sets. A number or boolean may stand as text."""
    if isinstance(gold, list) or isinstance(answer, list):
        left, right = (value if isinstance(value, list) else [value] for value in (gold, answer))
        return all(any(agree(a, b) for b in right) for a in left) and all(any(agree(a, b) for a in left) for b in right)
    if isinstance(gold, Mapping) and isinstance(answer, Mapping):
        return gold.keys() == answer.keys() and all(agree(gold[key], answer[key]) for key in gold)
    if isinstance(gold, bool) or isinstance(answer, bool):
        return fold(gold) == fold(answer)
    if isinstance(gold, int) and isinstance(answer, int):
        return gold == answer
    one, other = _read_number(gold), _read_number(answer)
    if one is not None and other is not None and not (isinstance(gold, str) and isinstance(answer, str)):
        return math.isclose(one, other, rel_tol=1e-9)
    return fold(gold) == fold(answer)


def fold(value: object) -> str:
    """What of a value counts when values are compared as text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def weigh_objects(gold: Sequence[Mapping[str, object]], answers: Iterable[Mapping[str, object] | None]) -> tuple[Figures, Figures]:
    """Each row's fields that are right, and that are graded, as comparison.compare_ratios wants it."""
    rows = [[finding == "right" for _, finding, _, _ in compare_objects(truth, given)] for truth, given in zip(gold, answers, strict=True)]
    return np.array([float(sum(row)) for row in rows]), np.array([float(len(row)) for row in rows])


def grade_objects(
    gold: Sequence[Mapping[str, object]], answers: Iterable[Mapping[str, object] | None], *, seed: int = 0
) -> ObjectQuality | None:
    """The quality of these very rows."""
    counts = ObjectCounts()
    for truth, given in zip(gold, answers, strict=True):
        counts.add(truth, given)
    return counts.grade(seed=seed)


def _look_up(value: object, path: Path) -> object:
    """What stands at a path; None below a null, _NOWHERE where the object has no such key."""
    for depth, key in enumerate(path):
        if depth and (value is None or value == {}):
            return None
        if not isinstance(value, Mapping) or key not in value:
            return _NOWHERE
        value = value[key]
    return None if isinstance(value, Mapping) and not value else value


def is_absent(value: object) -> bool:
    """Whether a field says nothing: null, or empty."""
    return value is None or value == "" or value == []


def _read_number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


def _merge(tallies: Mapping[Path, _Tally]) -> dict[Path, _Tally]:
    """Where an object was null in some rows, and so a field without parts, those rows count for each of its parts."""
    merged: dict[Path, _Tally] = {}
    for path in sorted(tallies):
        parts = [other for other in tallies if len(other) > len(path) and other[: len(path)] == path]
        if parts:
            continue
        whole = _Tally()
        for length in range(1, len(path) + 1):
            if path[:length] in tallies:
                whole.add(tallies[path[:length]])
        merged[path] = whole
    return merged


def _describe(path: Path, one: _Tally) -> FieldQuality:
    agreement = estimate_share(one.right, one.rows)
    assert agreement is not None
    return FieldQuality(".".join(path), one.rows, one.gold, one.filled, one.missed, one.invented, agreement)
