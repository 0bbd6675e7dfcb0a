"""Whether an object with fields says what gold says, field by field."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from medtask.evaluate.intervals import Estimate, Figures, Units, estimate_rate, estimate_ratio
from medtask.evaluate.tally import GroupSums, Tally, join_units

Path = tuple[str, ...]
Finding = Literal["right", "wrong", "missed", "invented"]
_NOWHERE = object()


@dataclass(frozen=True, slots=True)
class FieldQuality:
    """One field, by its dotted path, in the ``rows`` whose gold speaks of it. ``filled`` and
    ``gold`` count those in which the answer, or gold, has a value; ``missed`` and ``invented``
    those in which gold alone, or the answer alone, has one.
    """

    field: str
    rows: int
    gold: int
    filled: int
    missed: int
    invented: int
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class ObjectQuality:
    """What objects are worth against gold, over all rows with gold; without an answer all fields of
    a row are wrong.

    ``fields_right``: the share of fields that are right, all rows together. ``rows_right``: rows
    without a wrong field; ``rows_right_answered``: of those with an answer. ``groups``: see Units.
    """

    fields_right: Estimate
    rows_right: Estimate
    rows_right_answered: Estimate | None
    missed: int
    invented: int
    fields: tuple[FieldQuality, ...]
    groups: int | None


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
    """Sums up pairs of objects, row by row; memory grows with the fields, and with the rows only
    where these have groups.
    """

    def __init__(self) -> None:
        self._fields: dict[Path, _Tally] = {}
        self._rows = Tally()  # of (fields right, fields graded, answered)
        self._sums = GroupSums()  # of (path, whether it is right)

    def add(
        self,
        gold: Mapping[str, object],
        answer: Mapping[str, object] | None,
        group: str | None = None,
    ) -> int:
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
            if group:
                self._sums.add(group, [(path, finding == "right")])
        self._rows.add((right, graded, int(answer is not None)), group)
        return graded - right

    def grade(self, *, seed: int = 0) -> ObjectQuality | None:
        """None where no row had a field to grade."""
        cells, units = self._rows.finish()
        if not self._fields:
            return None
        right, graded, answered = cells.T
        whole, every = right == graded, np.ones(len(cells), dtype=np.int64)
        share = estimate_ratio(right, graded, units, seed=seed)
        rows = estimate_rate(whole & (answered > 0), every, units, seed=seed)
        assert share is not None
        assert rows is not None
        found = _merge(self._fields)
        return ObjectQuality(
            fields_right=share,
            rows_right=rows,
            rows_right_answered=estimate_rate(whole, answered, units, seed=seed),
            missed=sum(one.missed for one in found.values()),
            invented=sum(one.invented for one in found.values()),
            fields=tuple(self._grade_fields(found, units, seed)),
            groups=units.groups,
        )

    def _grade_fields(
        self, found: Mapping[Path, _Tally], units: Units, seed: int
    ) -> Iterator[FieldQuality]:
        fates = [(path, right) for path in self._fields for right in (False, True)]
        column = {fate: place for place, fate in enumerate(fates)}
        table = self._sums.table(fates).tocsc() if units.groups is not None else None
        for path, one in found.items():
            alone, of_groups = np.array([one.rows - one.right, one.right], dtype=np.int64), None
            if table is not None:
                parts = [above for above in _list_wholes(path) if above in self._fields]
                of_groups = sum(
                    table[:, [column[above, False], column[above, True]]] for above in parts
                ).tocsr()
                alone = alone - np.asarray(of_groups.sum(axis=0)).ravel()
            agreement = estimate_rate(
                [False, True], [True, True], join_units(alone, of_groups), seed=seed
            )
            assert agreement is not None
            yield FieldQuality(
                ".".join(path), one.rows, one.gold, one.filled, one.missed, one.invented, agreement
            )


def flatten(value: Mapping[str, object], above: Path = ()) -> dict[Path, object]:
    """Every value that is no object, by its path."""
    found: dict[Path, object] = {}
    for key, inner in value.items():
        path = (*above, str(key))
        found |= (
            flatten(inner, path)
            if isinstance(inner, Mapping) and inner
            else {path: None if isinstance(inner, Mapping) else inner}
        )
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


def agree_wholly(gold: Mapping[str, object], answer: Mapping[str, object] | None) -> bool:
    """Whether the answer is right in every field that gold speaks of; False without an answer."""
    return answer is not None and all(
        finding == "right" for _, finding, _, _ in compare_objects(gold, answer)
    )


def compare_objects(
    gold: Mapping[str, object], answer: Mapping[str, object] | None
) -> Iterator[tuple[Path, Finding, bool, bool]]:
    """Path, finding, whether gold has a value there, whether the answer has one, of every field
    that gold speaks of.

    Gold that is null says that there is nothing, so a value there is invented; of a key that it
    lacks it says nothing. Without an answer no field is right, even where gold has nothing.
    """
    paths = dict.fromkeys((*flatten(gold), *flatten(answer or {})))
    inner = {path[:length] for path in paths for length in range(1, len(path))}
    for path in paths:
        truth = _look_up(gold, path)
        if truth is _NOWHERE or (path in inner and (truth is None or isinstance(truth, Mapping))):
            continue
        given = _look_up(answer or {}, path)
        in_gold, in_answer = not is_absent(truth), given is not _NOWHERE and not is_absent(given)
        finding: Finding = (
            "missed"
            if in_gold and not in_answer
            else "invented"
            if in_answer and not in_gold
            else "wrong"
        )
        if answer is not None and (
            agree(truth, given) if in_gold and in_answer else in_gold == in_answer
        ):
            finding = "right"
        yield path, finding, in_gold, in_answer


def agree(gold: object, answer: object) -> bool:
    """Whether two values say the same: whole numbers and booleans exactly, other numbers within
    1e-9 of their size, text but for case and blanks, lists as sets. A number or boolean may stand
    as text.
    """
    if isinstance(gold, list) or isinstance(answer, list):
        left, right = (value if isinstance(value, list) else [value] for value in (gold, answer))
        return all(any(agree(a, b) for b in right) for a in left) and all(
            any(agree(a, b) for a in left) for b in right
        )
    if isinstance(gold, Mapping) and isinstance(answer, Mapping):
        return gold.keys() == answer.keys() and all(agree(gold[key], answer[key]) for key in gold)
    if isinstance(gold, bool) or isinstance(answer, bool):
        return fold(gold) == fold(answer)
    if isinstance(gold, int) and isinstance(answer, int):
        return gold == answer
    one, other = _read_number(gold), _read_number(answer)
    if (
        one is not None
        and other is not None
        and not (isinstance(gold, str) and isinstance(answer, str))
    ):
        return math.isclose(one, other, rel_tol=1e-9)
    return fold(gold) == fold(answer)


def fold(value: object) -> str:
    """What of a value counts when values are compared as text."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    )
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def weigh_objects(
    gold: Sequence[Mapping[str, object]], answers: Iterable[Mapping[str, object] | None]
) -> tuple[Figures, Figures]:
    """Each row's fields that are right, and that are graded, as comparison.compare_ratios wants
    it.
    """
    rows = [
        [finding == "right" for _, finding, _, _ in compare_objects(truth, given)]
        for truth, given in zip(gold, answers, strict=True)
    ]
    return np.array([float(sum(row)) for row in rows]), np.array([float(len(row)) for row in rows])


def grade_objects(
    gold: Sequence[Mapping[str, object]],
    answers: Iterable[Mapping[str, object] | None],
    groups: Sequence[str | None] = (),
    *,
    seed: int = 0,
) -> ObjectQuality | None:
    """The quality of these very rows; ``groups``: the rows', if any of them has one."""
    counts = ObjectCounts()
    for truth, given, group in zip(gold, answers, groups or [None] * len(gold), strict=True):
        counts.add(truth, given, group)
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
    """Where an object was null in some rows, and so a field without parts, those rows count for
    each of its parts.
    """
    merged: dict[Path, _Tally] = {}
    for path in sorted(tallies):
        parts = [
            other for other in tallies if len(other) > len(path) and other[: len(path)] == path
        ]
        if parts:
            continue
        whole = _Tally()
        for above in _list_wholes(path):
            if above in tallies:
                whole.add(tallies[above])
        merged[path] = whole
    return merged


def _list_wholes(path: Path) -> list[Path]:
    """A field's path, and those of the objects that it is in."""
    return [path[:length] for length in range(1, len(path) + 1)]
