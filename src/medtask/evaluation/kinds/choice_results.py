"""Statistics and metrics of answers to multiple-choice questions, by letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from medtask.display import format_percent
from medtask.evaluation.kinds.label import describe_accuracy, describe_metrics, list_metrics
from medtask.evaluation.kinds.label_blocks import (
    build_confusion_table,
    build_label_table,
    list_label_metrics,
)
from medtask.evaluation.kinds.labels import (
    describe_set_metrics,
    describe_set_results,
    list_set_metrics,
)
from medtask.evaluation.kinds.metric_report import (
    build_metric_table,
    describe_tests,
)
from medtask.evaluation.kinds.protocols import PartMetric
from medtask.evaluation.presentation.blocks import (
    BarChart,
    BarRow,
    Heading,
    Paragraph,
    ReportBlock,
    ReportTable,
)
from medtask.evaluation.statistics.classification import ClassificationMetrics
from medtask.evaluation.statistics.intervals import (
    IntArray,
    Metric,
    estimate_proportion,
    metrics_to_json,
)
from medtask.evaluation.statistics.multilabel import MultiLabelMetrics
from medtask.records import LETTERS, Answer, Option, Value, list_names

MAX_LETTERS_SHOWN = 10  # with more, the confusion table is mostly empty

# minimum excess of a letter's share of answers over its share of gold, to be reported as a bias
MIN_LETTER_BIAS = 0.1

SET_METRICS = ("exact_match", "jaccard", "micro_f1")  # of several options, the headline first


@dataclass(slots=True)
class MultipleChoiceStatistics:
    """Counts rows by letter: of the answers, and of the options on offer."""

    rows_by_letter: Counter[str] = field(default_factory=Counter)
    offered_by_letter: Counter[str] = field(default_factory=Counter)
    answered: int = 0

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        letters = parse_letters(answer.value)
        if letters is not None:
            self.answered += 1
            self.rows_by_letter.update(letters)
            self.offered_by_letter.update({option.letter for option in options} | set(letters))

    def to_json(self) -> dict[str, object]:
        return {
            "letters": dict(sorted(self.rows_by_letter.items())),
            "offered": dict(sorted(self.offered_by_letter.items())),
            "answered": self.answered,
        }

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        if not self.answered:
            return [Paragraph("No row has an answer.")]
        peak = max(1, *self.rows_by_letter.values(), *self.offered_by_letter.values())
        lines = [
            BarRow(
                letter,
                (rows := self.rows_by_letter[letter]) / peak,
                (f"{offered:,}", f"{rows:,}", format_percent(rows / self.answered)),
            )
            for letter, offered in sorted(self.offered_by_letter.items())
        ]
        return [
            BarChart(("Letter", "On offer", "Answered", "Share"), tuple(lines)),
            Paragraph(
                "Letters denote different options in every row; a model that prefers one of them "
                "answers by position and not by content.",
                "quiet",
            ),
        ]

    def format_summary(self) -> None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class MultipleChoiceEvaluation:
    """Metrics of multiple-choice answers.

    Attributes:
        quality: ClassificationMetrics if one option is right, else MultiLabelMetrics.
        rows_by_letter: By letter, rows that have it in gold and in the answer.
        answered: Number of rows with an answer.
        confusion: Gold by answer, the last column for no answer; None for sets.
    """

    quality: ClassificationMetrics | MultiLabelMetrics
    rows_by_letter: Mapping[str, tuple[int, int]]
    answered: int
    confusion: IntArray | None

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        if isinstance(self.quality, ClassificationMetrics):
            return list_metrics(self.quality)
        figures = list_set_metrics(self.quality)
        return {
            measure: figures[measure]
            for measure in dict.fromkeys((*self.headline_metrics, *figures))
        }

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        return ("accuracy",) if isinstance(self.quality, ClassificationMetrics) else SET_METRICS

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        return list_label_metrics(self.quality.labels)

    @property
    def accuracy_answered(self) -> Metric | None:
        return (
            self.quality.accuracy_answered
            if isinstance(self.quality, ClassificationMetrics)
            else self.quality.exact_answered
        )

    @property
    def groups(self) -> int | None:
        return self.quality.groups

    def to_json(self) -> dict[str, object]:
        figures = metrics_to_json(self.metrics)
        letters = {
            letter: {"gold": gold, "answered": given}
            for letter, (gold, given) in self.rows_by_letter.items()
        }
        return {
            "quality": figures,
            "letters": letters,
            "by_letter": [asdict(one) for one in self.quality.labels],
        }

    def describe(self) -> list[str]:
        return (
            describe_accuracy(self.quality, "an answer")
            if isinstance(self.quality, ClassificationMetrics)
            else describe_set_results(self.quality)
        )

    def describe_caveats(self) -> list[str]:
        return self._describe_letter_bias()

    def _describe_letter_bias(self) -> list[str]:
        rows = self._gold_rows
        if not self.answered or not self.rows_by_letter:  # no option may be right anywhere
            return []
        gaps = {
            letter: given / self.answered - gold / rows
            for letter, (gold, given) in self.rows_by_letter.items()
        }
        letter = max(gaps, key=lambda one: (gaps[one], one))
        gold, given = self.rows_by_letter[letter]
        chance = estimate_proportion(given, self.answered)
        if (
            gaps[letter] < MIN_LETTER_BIAS
            or chance is None
            or chance.low is None
            or chance.low <= gold / rows
        ):
            return []
        return [
            f"The model prefers the letter {letter}: {format_percent(given / self.answered)} of "
            f"its answers, where gold has it in {format_percent(gold / rows)} of the rows. debias: "
            "permute asks for every order of the options."
        ]

    @property
    def _gold_rows(self) -> int:
        """Number of rows with usable gold."""
        return next(figure.n for figure in self.metrics.values() if figure)

    def describe_methods(self) -> str:
        groups = self.quality.groups
        if isinstance(self.quality, ClassificationMetrics):
            tests = describe_tests(
                groups, "Differences are judged row by row (McNemar’s exact test, p below 0.05)."
            )
            return (
                f"{describe_metrics(self.quality)} Labels are the options’ letters here. Guessing "
                f"is right as often as one draw from each row’s options would be. {tests} Guessing "
                "is tested by a binomial test, which takes rows as independent."
            )
        tests = describe_tests(
            groups,
            "Differences in exact match are judged row by row (McNemar’s exact test, p below "
            "0.05).",
        )
        return f"{describe_set_metrics(self.quality)} Labels are the options’ letters here. {tests}"

    def build_blocks(self) -> list[ReportBlock]:
        rows, given_rows = self._gold_rows, max(1, self.answered)
        lines = [
            (
                letter,
                f"{gold:,}",
                format_percent(gold / rows),
                f"{given:,}",
                format_percent(given / given_rows),
            )
            for letter, (gold, given) in self.rows_by_letter.items()
        ]
        head = ("In gold", "Share", "Answered", "Share of answers")
        table = ReportTable(
            "Letters in gold and in answers",
            (("Letter", ""), *((title, "n") for title in head)),
            lines,
        )
        blocks: list[ReportBlock] = [Heading("Does the position of an option matter?"), table]
        if self.confusion is not None and 2 < len(self.rows_by_letter) <= MAX_LETTERS_SHOWN:
            blocks += [
                *build_confusion_table(self.confusion, LETTERS),
                *build_label_table(self.quality.labels, "letter"),
            ]
        return [*build_metric_table(self.metrics), *blocks]


def parse_letters(value: Value | None) -> tuple[str, ...] | None:
    """The letters of a value; None if it is not letters."""
    letters = list_names(value)
    is_valid = isinstance(value, str | tuple) and all(letter in LETTERS for letter in letters)
    return letters if is_valid else None
