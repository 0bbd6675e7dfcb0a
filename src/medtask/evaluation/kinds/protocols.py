"""What each kind of question brings to a report: how its answers are counted, held against gold,
and told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from medtask.evaluation.presentation.blocks import ReportBlock
from medtask.evaluation.statistics.intervals import Metric
from medtask.kinds import KindName
from medtask.records import Answer, Option, Status, Value


@dataclass(frozen=True, slots=True)
class GoldSample:
    """Up to 2,000 random rows with gold, column by column, for baselines. An answer is None where
    there was none, a group where the row has none; without groups the column may be empty.
    """

    texts: tuple[str, ...] = ()
    gold: tuple[Any, ...] = ()
    answers: tuple[Any, ...] = ()
    options: tuple[tuple[Option, ...], ...] = ()
    groups: tuple[str | None, ...] = ()


class RowGrade(NamedTuple):
    """Whether an answer is right (see Grader.is_right), and the larger ``review_priority``, the
    sooner a person should see that it is not.
    """

    right: bool | None
    review_priority: float


class AnswerStatistics(Protocol):
    """What a run's answers look like."""

    def to_json(self) -> Mapping[str, object]:
        """A plain dict without record text."""

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]: ...

    def format_summary(self) -> str | None:
        """One line for a terminal, where there is something that changes what the user does
        next.
        """


class KindEvaluation(Protocol):
    """What a run's answers are worth against gold."""

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """All of them by measure (see words.MEASURES), the headline first. Each names the rows that
        it is over; None where these leave it undefined.
        """

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        """The few measures that stand in the lead, the headline first."""

    @property
    def accuracy_answered(self) -> Metric | None:
        """The share of answered rows that are right, which their confidence should be; None where
        there is no such thing.
        """

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text."""

    def describe(self) -> list[str]:
        """The headline in sentences."""

    def describe_caveats(self) -> list[str]:
        """What the figures do not say, in sentences."""

    def describe_methods(self) -> str:
        """How the figures and the comparison with baselines were made."""

    def build_blocks(self) -> list[ReportBlock]:
        """Whatever else a report shows."""


class StatisticsAccumulator(Protocol):
    """Counts answers."""

    def add(self, answer: Answer, options: Sequence[Option]) -> None: ...

    def finish(self) -> AnswerStatistics: ...


class Grader(Protocol):
    """Holds answers against gold."""

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> Value | None:
        """Gold as a truth of this kind; None where it is none."""

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        """What stands for an answer where it is compared; None where it is none."""

    def is_right(self, predicted: Value | None, truth: Value) -> bool | None:
        """None where right and wrong are not all there is."""

    def add(
        self,
        predicted: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        """``predicted``: what settle made of the answer. Rows of one ``group`` (a patient, say)
        are not independent.
        """

    def finish(self, sample: GoldSample) -> KindEvaluation | None:
        """None where no row could be graded."""


def create_accumulator_and_grader(
    kind: KindName, labels: Sequence[str], abstain: str | None, seed: int
) -> tuple[StatisticsAccumulator, Grader]:
    """What counts and grades the answers of one run."""
    # Each kind is a room of its own, and only the one that is used is loaded.
    match kind:
        case "label":
            from medtask.evaluation.kinds.label import SingleLabelAccumulator, SingleLabelGrader

            return SingleLabelAccumulator(labels), SingleLabelGrader(labels, abstain, seed)
        case "labels":
            from medtask.evaluation.kinds.labels import MultiLabelAccumulator, MultiLabelGrader

            return MultiLabelAccumulator(labels), MultiLabelGrader(labels, seed)
        case "choice":
            from medtask.evaluation.kinds.choice import (
                MultipleChoiceAccumulator,
                MultipleChoiceGrader,
            )

            return MultipleChoiceAccumulator(), MultipleChoiceGrader(seed)
        case "answer":
            from medtask.evaluation.kinds.answer import FreeTextAccumulator, FreeTextGrader

            return FreeTextAccumulator(), FreeTextGrader(seed)
        case "fields":
            from medtask.evaluation.kinds.fields import FieldsAccumulator, FieldsGrader

            return FieldsAccumulator(), FieldsGrader(seed)
