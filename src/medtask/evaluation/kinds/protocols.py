"""The interface of a kind of question: statistics, grading, baselines, agreement and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

from medtask.evaluation.baselines.context import BaselineAnswers, BaselineContext
from medtask.evaluation.baselines.untrained import LabelDefinitions
from medtask.evaluation.presentation.blocks import ReportBlock
from medtask.evaluation.presentation.report_rows import RowStyle
from medtask.evaluation.statistics.intervals import Metric
from medtask.kinds import KINDS, KindName
from medtask.records import Answer, Option, Status, Value

SAMPLE_SIZE = 2000  # rows with gold that baselines and slow metrics are computed on
MAX_SAMPLE_CHARACTERS = 20_000  # maximum characters of one text in the sample
PartMetric = tuple[int, Metric | None]  # number of rows with gold, and the metric


@dataclass(frozen=True, slots=True)
class GoldSample:
    """Up to 2,000 random rows with gold, by column; None for a missing answer or group."""

    texts: tuple[str, ...] = ()
    gold: tuple[Any, ...] = ()
    answers: tuple[Any, ...] = ()
    options: tuple[tuple[Option, ...], ...] = ()
    groups: tuple[str | None, ...] = ()

    def take_first(self, rows: int) -> GoldSample:
        """The first rows, which are a random sample too."""
        return GoldSample(
            self.texts[:rows],
            self.gold[:rows],
            self.answers[:rows],
            self.options[:rows],
            self.groups[:rows],
        )


def compute_sample_key(record_id: str, seed: int = 0) -> int:
    """The place of a row in random order: a sample is the rows with the smallest numbers.

    It depends on the id only, so that a run and a comparison of runs draw the same rows.
    """
    digest = blake2b(f"{seed}:{record_id}".encode("utf-8", "surrogatepass"), digest_size=6)
    return int.from_bytes(digest.digest(), "big")


class GradedRow(NamedTuple):
    """An answer and its gold.

    Attributes:
        predicted: The comparable value of the answer.
        truth: The valid gold value.
        answer: The answer.
        group: The group of the row; rows of one group are not independent.
        options: The row's options.
    """

    predicted: Value | None
    truth: Value
    answer: Answer
    group: str | None = None
    options: Sequence[Option] = ()


class RowGrade(NamedTuple):
    """Whether an answer is right (None if not graded so), and its priority for review."""

    right: bool | None
    review_priority: float


class AnswerStatistics(Protocol):
    """Counts a run's answers."""

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        """Adds the answer to one row."""

    def to_json(self) -> Mapping[str, object]:
        """Returns a plain dict without record text."""

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]: ...

    def format_summary(self) -> str | None:
        """One line for a terminal, if a statistic needs attention."""


class KindEvaluation(Protocol):
    """Metrics of a run's answers."""

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """All metrics by name, the headline first; None if undefined."""

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        """The metrics that are shown first."""

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        """By label, letter or field that gold has: its rows, and its metric."""

    @property
    def accuracy_answered(self) -> Metric | None:
        """Share of right answers, which mean confidence should equal; None without answers."""

    @property
    def groups(self) -> int | None:
        """Number of groups whose rows are not independent; None without such groups."""

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text."""

    def describe(self) -> list[str]:
        """The headline in sentences."""

    def describe_caveats(self) -> list[str]:
        """Limits of the metrics of this kind, in sentences."""

    def describe_methods(self) -> str:
        """How metrics and comparisons are computed."""

    def build_blocks(self) -> list[ReportBlock]:
        """Further blocks of the report."""


class Grader(Protocol):
    """Compares answers with gold."""

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> Value | None:
        """A valid gold value of the kind; None if it is not valid."""

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        """The value of an answer in comparisons; None if it is missing."""

    def is_right(self, predicted: Value | None, truth: Value) -> bool | None:
        """Whether the prediction is right; None if the kind is not graded right or wrong."""

    def add(self, row: GradedRow) -> RowGrade:
        """Adds one row."""

    def finish(self, sample: GoldSample) -> KindEvaluation | None:
        """The evaluation; None if no row was graded."""


@dataclass(frozen=True, slots=True)
class BaselineMethods:
    """The baselines of one kind.

    Attributes:
        metrics: Names of the metrics that are computed, the compared one first.
        answer: Returns each baseline with its answers to the first rows of a sample; see
            `BaselineAnswers`.
        need_texts: Whether the baselines read the rows' texts.
        choose_matched: Returns the answers to a sample from the labels whose keywords each row has,
            those with most keywords first; None if answers are not labels.
    """

    metrics: tuple[str, ...]
    answer: Callable[[GoldSample, LabelDefinitions, BaselineContext], list[BaselineAnswers]]
    need_texts: bool = True
    choose_matched: Callable[[GoldSample, Sequence[tuple[str, ...]]], list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class AgreementMethod:
    """How the agreement of two annotators is measured.

    Attributes:
        metric: Name of the metric; see `kinds.metrics`.
        title: The metric as reports name it.
        is_proportion: Whether the metric is the share of rows on which both are equal.
        kappa: Whether Cohen's kappa is computed for whole answers or for each label; None for not
            at all.
    """

    metric: str
    title: str
    is_proportion: bool = False
    kappa: Literal["rows", "labels"] | None = None


@dataclass(frozen=True, slots=True)
class ErrorTexts:
    """Texts of the report's section on answers that contradict gold.

    Attributes:
        title: The heading.
        which: Which answers are listed.
        explanation: A possible reason other than errors of the model or of gold.
        colours: What the colours mean.
    """

    title: str = "Where was it confident and wrong?"
    which: str = "most confident answers that gold contradicts"
    explanation: str = "the task’s wording is misleading"
    colours: str = ""


@dataclass(frozen=True, slots=True)
class KindTexts:
    """Texts of reports that depend on the kind.

    Attributes:
        gold_form: What a gold value must be, such as "a label of the task".
        answer_noun: Term for an answer.
        allowed_noun: Term for the allowed answers.
        bars: What the bars of a row show; "" for no bars.
        gold_mark: What the mark for gold among the bars means.
        no_confidence: Why there is no histogram of confidences.
        part_noun: Term for the parts of the evaluation, such as labels or fields.
        part_metric: The metric that is shown for each part.
        errors: The section on answers that contradict gold.
    """

    gold_form: str
    answer_noun: str = "answer"
    allowed_noun: str = "allowed answers"
    bars: str = ""
    gold_mark: str = "its value is"
    no_confidence: str = "No row has a probability."
    part_noun: str = "label"
    part_metric: str = "F1 of each label that gold has"
    errors: ErrorTexts = field(default_factory=ErrorTexts)


def _keep(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class EvaluationKind:
    """The functions and properties that evaluation uses for one kind of question.

    Attributes:
        name: The kind's name, or "several" for kind ``choice`` with several right options.
        create_statistics: Returns empty statistics, given the task's labels.
        create_grader: Returns a grader, given labels, abstention and seed.
        has_right_answers: Whether an answer is right or wrong, rather than more or less similar.
        is_closed: Whether a value outside the allowed answers counts as no answer.
        compares_sample: Whether comparisons use a sample of the rows because grading is slow.
        summary_has_all_headlines: Whether a terminal shows all headline metrics.
        summary_has_caveats: Whether a terminal shows the caveats of the metrics.
        several: The kind that is used if any value is a set.
        normalize: Converts a gold value or an answer to the form that metrics compare.
    """

    name: str
    create_statistics: Callable[[Sequence[str]], AnswerStatistics]
    create_grader: Callable[[Sequence[str], str | None, int], Grader]
    baselines: BaselineMethods
    agreement: AgreementMethod
    texts: KindTexts
    row_style: RowStyle = field(default_factory=RowStyle)
    has_right_answers: bool = True
    is_closed: bool = True
    compares_sample: bool = False
    summary_has_all_headlines: bool = True
    summary_has_caveats: bool = False
    several: EvaluationKind | None = None
    normalize: Callable[[Any], Any] = _keep

    def resolve(self, *columns: Sequence[Any]) -> EvaluationKind:
        """The kind to use for these columns of gold values and answers."""
        has_sets = any(isinstance(value, tuple) for column in columns for value in column)
        return self.several if self.several is not None and has_sets else self


def get_evaluation_kind(name: KindName) -> EvaluationKind:
    """The `EvaluationKind` of a kind of question; only its module is loaded."""
    kind: EvaluationKind = import_module(f"medtask.evaluation.kinds.{KINDS[name].name}").KIND
    return kind
