"""Kind ``fields``: an object by a JSON schema."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medtask.evaluate.agreement import ObjectCounts, ObjectQuality, agree_wholly, flatten, is_absent
from medtask.evaluate.blocks import Bar, Bars, Block, Heading, Table, Text
from medtask.evaluate.cases import name_outcome
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.kinds.figures import describe_intervals, tell_figures, warn_of_groups
from medtask.evaluate.kinds.kind import RowGrade, Sample
from medtask.evaluate.kinds.label import LABELS, rank_names
from medtask.evaluate.words import count_rows, percent
from medtask.records import Answer, Option, Status, Value


@dataclass(frozen=True, slots=True)
class FieldShape:
    """One field, by its dotted path: rows in which it is ``filled``, and in which of these it has a
    quote. ``values``: rows by value, of fields whose values the schema names.
    """

    field: str
    filled: int
    quoted: int
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FieldsShape:
    answered: int
    fields: tuple[FieldShape, ...]

    def to_json(self) -> dict[str, object]:
        return {"answered": self.answered, "fields": [asdict(one) for one in self.fields]}

    def tell(self, manifest: Mapping[str, object]) -> list[Block]:
        if not self.answered:
            return [Text("No row got an answer.")]
        quoted = any(one.quoted for one in self.fields)
        lines = [
            Bar(
                one.field,
                one.filled / self.answered,
                (
                    f"{one.filled:,}",
                    percent(one.filled / self.answered),
                    *([_tell_quotes(one)] if quoted else []),
                ),
            )
            for one in self.fields
        ]
        blocks: list[Block] = [
            Bars(
                ("Field", "Filled", "Share", *(["Quoted"] if quoted else [])),
                tuple(lines[: 2 * LABELS]),
            )
        ]
        values = [
            (
                one.field,
                "; ".join(f"{value} {rows:,}" for value, rows in list(one.values.items())[:LABELS]),
            )
            for one in self.fields
            if one.values
        ]
        if values:
            blocks += [
                Heading("Values"),
                Table("Values of fields", (("Field", "l"), ("Rows by value", "w")), values),
            ]
        return blocks

    def say(self) -> None:
        return None


def _tell_quotes(one: FieldShape) -> str:
    return percent(one.quoted / one.filled) if one.quoted and one.filled else "–"


class FieldsShaper:
    """Counts fields that have a value, and their quotes."""

    def __init__(self) -> None:
        self._answered = 0
        self._filled: Counter[tuple[str, ...]] = Counter()
        self._quoted: Counter[str] = Counter()
        self._values: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if not isinstance(answer.value, Mapping):
            return
        self._answered += 1
        for path, leaf in flatten(answer.value).items():
            self._filled[path] += not is_absent(leaf)
            name = name_outcome(path, leaf)
            if name in (answer.probabilities or {}):  # only what the schema names has a probability
                field = ".".join(path)
                self._values[field][name[len(field) + 1 :]] += 1
        self._quoted.update(list(answer.quotes or ()))

    def finish(self) -> FieldsShape:
        wholes = {path[:length] for path in self._filled for length in range(1, len(path))}
        paths = [".".join(path) for path in sorted(self._filled) if path not in wholes]
        rows = {".".join(path): count for path, count in self._filled.items()}
        return FieldsShape(
            self._answered,
            tuple(
                FieldShape(
                    path, rows[path], self._quoted[path], rank_names(self._values.get(path, {}))
                )
                for path in paths
            ),
        )


@dataclass(frozen=True, slots=True)
class GradedObjects:
    quality: ObjectQuality

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        quality = self.quality
        return {
            "fields_right": quality.fields_right,
            "rows_right": quality.rows_right,
            "rows_right_answered": quality.rows_right_answered,
        }

    @property
    def headlines(self) -> tuple[str, ...]:
        return ("fields_right", "rows_right")

    @property
    def right(self) -> None:
        return None  # confidence is that of some fields, and never of the numbers and texts

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self.quality)}

    def tell(self) -> list[str]:
        quality = self.quality
        rows, answered = quality.rows_right, quality.rows_right_answered
        without = rows.n - (answered.n if answered else 0)
        right = round(rows.value * rows.n)
        sentences = [
            (
                f"Of {count_rows(rows.n)} with gold, {right:,} have every field right: {rows}. Of "
                f"all fields, {quality.fields_right} are right."
            )
        ]
        if without:
            sentences.append(
                f"{count_rows(without)} without an answer count as wrong in every field."
            )
        sentences.append(
            f"In {quality.missed:,} fields gold has a value and the answer none; in "
            f"{quality.invented:,} the answer has one and gold none."
        )
        return sentences

    def caveats(self) -> list[str]:
        return warn_of_groups(self.quality.groups)

    def explain(self) -> str:
        groups = self.quality.groups
        return (
            f"{describe_intervals('rows and single fields', 'all fields together', groups)} "
            "Numbers agree within a billionth "
            "of their size, text but for case and blanks, lists whatever their order. "
            "Differences in fields right are judged by "
            "approximate randomisation (p below 0.05)."
        )

    def detail(self) -> list[Block]:
        lines = [
            (
                one.field,
                f"{one.rows:,}",
                f"{one.gold:,}",
                f"{one.filled:,}",
                str(one.agreement),
                f"{one.missed:,}",
                f"{one.invented:,}",
            )
            for one in self.quality.fields
        ]
        figures = ("Rows", "In gold", "Filled", "Right", "Missed", "Invented")
        head: list[tuple[str, Any]] = [("Field", "l"), *((title, "n") for title in figures)]
        told = (
            "Missed: gold has a value, the answer none. Invented: the answer has one, gold "
            "says that there is none."
        )
        fields: list[Block] = [
            Heading("Field by field"),
            Text(told, "quiet small"),
            Table("Quality by field", tuple(head), lines),
        ]
        return [*tell_figures(self.figures), *fields]


class FieldsGrader:
    """Fields that gold speaks of; a row is right where all of them are."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts = ObjectCounts()

    def read(self, gold: Value, options: Sequence[Option]) -> Value | None:
        return gold if isinstance(gold, Mapping) and gold else None

    def settle(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, given: Value | None, truth: Value) -> bool:
        assert isinstance(truth, Mapping)
        return agree_wholly(truth, given if isinstance(given, Mapping) else None)

    def add(
        self,
        given: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        assert isinstance(truth, Mapping)
        wrong = self._counts.add(truth, given if isinstance(given, Mapping) else None, group)
        return RowGrade(given is not None and not wrong, wrong)

    def finish(self, sample: Sample) -> GradedObjects | None:
        quality = self._counts.grade(seed=self._seed)
        return GradedObjects(quality) if quality else None
