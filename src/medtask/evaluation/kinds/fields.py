"""Kind ``fields``: an object that follows a JSON schema."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medtask.display import format_count, format_percent, format_row_count
from medtask.evaluation.baselines.context import BaselineAnswers, BaselineContext
from medtask.evaluation.baselines.untrained import LabelDefinitions
from medtask.evaluation.kinds.label_blocks import MAX_LABELS_SHOWN, sort_by_frequency
from medtask.evaluation.kinds.metric_report import (
    build_metric_table,
    describe_intervals,
    describe_tests,
)
from medtask.evaluation.kinds.protocols import (
    AgreementMethod,
    BaselineMethods,
    ErrorTexts,
    EvaluationKind,
    GoldSample,
    GradedRow,
    KindTexts,
    PartMetric,
    RowGrade,
)
from medtask.evaluation.presentation.blocks import (
    BarChart,
    BarRow,
    Heading,
    Paragraph,
    ReportBlock,
    ReportTable,
)
from medtask.evaluation.presentation.report_rows import (
    MAX_ANSWER_CHARACTERS,
    RowStyle,
    format_outcome,
)
from medtask.evaluation.statistics.extraction import (
    ExtractionAccumulator,
    ExtractionMetrics,
    FieldPath,
    find_objects,
    flatten,
    is_absent,
    is_fully_correct,
    normalize_text,
    unflatten,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import Baseline
from medtask.records import Answer, Option, Status, Value


@dataclass(frozen=True, slots=True)
class FieldCoverage:
    """One field, by its dotted path: rows that fill it, rows with a quote, and for enums rows by
    value.
    """

    field: str
    filled: int
    quoted: int
    values: Mapping[str, int]


@dataclass(slots=True)
class FieldsStatistics:
    """Counts fields that have a value, and their quotes."""

    answered: int = 0
    _filled: Counter[FieldPath] = field(default_factory=Counter)
    _quoted: Counter[str] = field(default_factory=Counter)
    _values: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if not isinstance(answer.value, Mapping):
            return
        self.answered += 1
        for path, leaf in flatten(answer.value).items():
            self._filled[path] += not is_absent(leaf)
            name = format_outcome(path, leaf)
            # only values defined by the schema have a probability
            if name in (answer.probabilities or {}):
                dotted = ".".join(path)
                self._values[dotted][name[len(dotted) + 1 :]] += 1
        self._quoted.update(list(answer.quotes or ()))

    @property
    def fields(self) -> tuple[FieldCoverage, ...]:
        """All fields in the order of their paths, without the objects that contain others."""
        objects = find_objects(self._filled)
        rows = {
            ".".join(path): self._filled[path] for path in sorted(self._filled.keys() - objects)
        }
        return tuple(
            FieldCoverage(
                path, filled, self._quoted[path], sort_by_frequency(self._values.get(path, {}))
            )
            for path, filled in rows.items()
        )

    def to_json(self) -> dict[str, object]:
        return {"answered": self.answered, "fields": [asdict(one) for one in self.fields]}

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        if not self.answered:
            return [Paragraph("No row has an answer.")]
        fields = self.fields
        quoted = any(one.quoted for one in fields)
        lines = [
            BarRow(
                one.field,
                one.filled / self.answered,
                (
                    f"{one.filled:,}",
                    format_percent(one.filled / self.answered),
                    *([_format_quoted_share(one)] if quoted else []),
                ),
            )
            for one in fields
        ]
        blocks: list[ReportBlock] = [
            BarChart(
                ("Field", "Filled", "Share", *(["Quoted"] if quoted else [])),
                tuple(lines[: 2 * MAX_LABELS_SHOWN]),
            )
        ]
        values = [
            (
                one.field,
                "; ".join(
                    f"{value} {rows:,}"
                    for value, rows in list(one.values.items())[:MAX_LABELS_SHOWN]
                ),
            )
            for one in fields
            if one.values
        ]
        if values:
            blocks += [
                Heading("Values"),
                ReportTable("Values of fields", (("Field", "l"), ("Rows by value", "w")), values),
            ]
        return blocks

    def format_summary(self) -> None:
        return None


def _format_quoted_share(one: FieldCoverage) -> str:
    return format_percent(one.quoted / one.filled) if one.quoted and one.filled else "–"


@dataclass(frozen=True, slots=True)
class FieldsEvaluation:
    quality: ExtractionMetrics

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        quality = self.quality
        return {
            "fields_right": quality.fields_right,
            "rows_right": quality.rows_right,
            "rows_right_answered": quality.rows_right_answered,
        }

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        return ("fields_right", "rows_right")

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        return {one.field: (one.rows, one.agreement) for one in self.quality.fields}

    @property
    def accuracy_answered(self) -> None:
        return None  # the confidence covers only some fields, never numbers and texts

    @property
    def groups(self) -> int | None:
        return self.quality.groups

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self.quality)}

    def describe(self) -> list[str]:
        quality = self.quality
        rows, answered = quality.rows_right, quality.rows_right_answered
        without = rows.n - (answered.n if answered else 0)
        right = round(rows.value * rows.n)
        sentences = [
            f"Of {format_row_count(rows.n)} with gold, {right:,} have every field right: "
            f"{rows}. Of all fields, {quality.fields_right} are right."
        ]
        if without:
            sentences.append(
                f"{format_row_count(without)} without an answer count as wrong in every field."
            )
        sentences.append(
            f"In {format_count(quality.missed, 'field')} gold has a value and the answer none; in "
            f"{quality.invented:,} the answer has one and gold none."
        )
        return sentences

    def describe_caveats(self) -> list[str]:
        return []

    def describe_methods(self) -> str:
        groups = self.quality.groups
        tests = describe_tests(
            groups,
            "Differences in fields right are tested by approximate randomisation (p below 0.05).",
        )
        return (
            f"{describe_intervals('rows and single fields', 'all fields together', groups)} "
            "Numbers are equal within a billionth of their size, texts without regard to case and "
            f"spaces, lists without regard to order. {tests}"
        )

    def build_blocks(self) -> list[ReportBlock]:
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
        note = (
            "Missed: gold has a value, the answer has none. Invented: the answer has a value, gold "
            "has none."
        )
        fields: list[ReportBlock] = [
            Heading("Field by field"),
            Paragraph(note, "quiet small"),
            ReportTable("Quality by field", tuple(head), lines),
        ]
        return [*build_metric_table(self.metrics), *fields]


class FieldsGrader:
    """Grades the fields that gold has; a row is right if all its fields are."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts = ExtractionAccumulator()

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> Value | None:
        return gold if isinstance(gold, Mapping) and gold else None

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, predicted: Value | None, truth: Value) -> bool:
        assert isinstance(truth, Mapping)
        return is_fully_correct(truth, predicted if isinstance(predicted, Mapping) else None)

    def add(self, row: GradedRow) -> RowGrade:
        assert isinstance(row.truth, Mapping)
        predicted = row.predicted if isinstance(row.predicted, Mapping) else None
        wrong = self._counts.add(row.truth, predicted, row.group)
        return RowGrade(row.predicted is not None and not wrong, wrong)

    def finish(self, sample: GoldSample) -> FieldsEvaluation | None:
        quality = self._counts.compute_metrics(seed=self._seed)
        return FieldsEvaluation(quality) if quality else None


def _run_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    most = _find_most_frequent_values(sample.gold)
    return [
        (
            Baseline(
                "most frequent values",
                "each field's most frequent value in gold, for every row",
                role="floor",
            ),
            [most] * len(sample.gold),
        )
    ]


def _find_most_frequent_values(gold: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The most frequent gold value of each field."""
    seen: dict[FieldPath, Counter[str]] = {}
    values: dict[tuple[FieldPath, str], object] = {}
    for truth in gold:
        for path, leaf in flatten(truth).items():
            seen.setdefault(path, Counter())[normalize_text(leaf)] += 1
            values.setdefault((path, normalize_text(leaf)), leaf)
    # Null in some rows, an object in others.
    objects = find_objects(seen)
    most = {
        path: max(counts.items(), key=lambda item: (item[1], item[0]))[0]
        for path, counts in seen.items()
        if path not in objects
    }
    return unflatten({path: values[path, key] for path, key in most.items()})


KIND = EvaluationKind(
    name="fields",
    create_statistics=lambda labels: FieldsStatistics(),
    create_grader=lambda labels, abstain, seed: FieldsGrader(seed),
    baselines=BaselineMethods(("fields_right", "rows_right"), _run_baselines, need_texts=False),
    agreement=AgreementMethod("fields_right", "fields that agree"),
    is_closed=False,
    row_style=RowStyle(limit=MAX_ANSWER_CHARACTERS, has_fields=True),
    texts=KindTexts(
        gold_form="an object with fields",
        part_noun="field",
        part_metric="How often each field is right",
        bars=(
            "The bars are the chosen values of fields with a fixed set of values, the least "
            "certain first"
        ),
        errors=ErrorTexts(
            "Where does gold contradict it most?",
            "answers with the most fields that gold contradicts",
            colours="Such fields are orange.",
        ),
    ),
)
