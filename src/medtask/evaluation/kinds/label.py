"""Kind ``label``: one of the task's labels per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from medtask.display import format_row_count
from medtask.evaluation.baselines.context import (
    TFIDF_SHARE,
    BaselineAnswers,
    BaselineContext,
)
from medtask.evaluation.baselines.tfidf import cross_validate_labels
from medtask.evaluation.baselines.untrained import (
    LabelDefinitions,
    find_most_frequent,
    match_definitions,
)
from medtask.evaluation.kinds.label_blocks import (
    build_confusion_table,
    build_label_bars,
    build_label_table,
    list_label_metrics,
    sort_by_frequency,
    warn_about_rare_labels,
)
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
from medtask.evaluation.presentation.blocks import Paragraph, ReportBlock
from medtask.evaluation.presentation.report_rows import RowStyle
from medtask.evaluation.statistics.classification import (
    NOT_IN_TOP_K,
    TOP_K,
    ClassificationMetrics,
    compute_metrics_from_cells,
)
from medtask.evaluation.statistics.intervals import IntArray, Metric, ResamplingUnits
from medtask.evaluation.statistics.resampling import FOLDS, CellCounter
from medtask.evaluation.statistics.significance import Baseline
from medtask.records import Answer, Option, Status, Value, comparable_value


@dataclass(slots=True)
class SingleLabelStatistics:
    """Counts rows by label; ``labels`` are all labels of the task."""

    labels: Sequence[str]
    rows_by_label: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if isinstance(answer.value, str):
            self.rows_by_label[answer.value] += 1

    def to_json(self) -> dict[str, object]:
        return dict(sort_by_frequency(self.rows_by_label))

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        if not self.rows_by_label:
            return [Paragraph("No row got a label.")]
        return build_label_bars(self.rows_by_label, self.rows_by_label.total(), self.labels)

    def format_summary(self) -> None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class SingleLabelEvaluation:
    """Metrics of single labels.

    ``confusion`` is rows by gold and answer, [classes, classes + 1]; the last column is for no
    answer.
    """

    quality: ClassificationMetrics
    classes: tuple[str, ...]
    confusion: IntArray

    @property
    def accuracy(self) -> Metric:
        return self.quality.accuracy

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        return list_metrics(self.quality)

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1")

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        return list_label_metrics(self.quality.labels)

    @property
    def accuracy_answered(self) -> Metric | None:
        return self.quality.accuracy_answered

    @property
    def groups(self) -> int | None:
        return self.quality.groups

    def to_json(self) -> dict[str, object]:
        cells = np.argwhere(self.confusion)
        return {
            "quality": asdict(self.quality),
            "classes": [*self.classes, None],
            # [gold, answer, rows]: the first two are indices in "classes", in which the last is "no
            # answer"
            "confusion": [
                [truth, given, int(self.confusion[truth, given])] for truth, given in cells.tolist()
            ],
        }

    def describe(self) -> list[str]:
        return describe_accuracy(self.quality, "a label")

    def describe_caveats(self) -> list[str]:
        return [
            *warn_about_rare_labels(self.quality.labels, len(self.classes)),
        ]

    def describe_methods(self) -> str:
        tests = describe_tests(
            self.quality.groups,
            "Differences are judged row by row (McNemar’s exact test, p below 0.05).",
        )
        return f"{describe_metrics(self.quality)} {tests}"

    def build_blocks(self) -> list[ReportBlock]:
        return [
            *build_metric_table(self.metrics),
            *build_confusion_table(self.confusion, self.classes),
            *build_label_table(self.quality.labels),
        ]


class SingleLabelGrader:
    """Grades labels; gold that is not a label or the abstention is not valid."""

    def __init__(self, labels: Sequence[str], abstain: str | None, seed: int) -> None:
        self._classes = tuple(labels) if abstain is None else (*labels, abstain)
        self._index = {name: place for place, name in enumerate(self._classes)}
        self._abstain, self._seed = abstain, seed
        self._cell_counts = CellCounter()  # (gold, answer, index in TOP_K)
        # With k labels or fewer, top-k accuracy is always 1.
        self._top_sizes = tuple(size for size in TOP_K if size < len(labels))
        self._has_probabilities = False

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> str | None:
        return gold if isinstance(gold, str) and gold in self._index else None

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return comparable_value(status, value, self._abstain)

    def is_right(self, predicted: Value | None, truth: Value) -> bool:
        return predicted == truth

    def add(self, row: GradedRow) -> RowGrade:
        truth, probabilities = str(row.truth), row.answer.probabilities
        is_label = isinstance(row.predicted, str)
        column = self._index[str(row.predicted)] if is_label else len(self._classes)
        top = (
            find_top_k_index(truth, probabilities, self._index) if self._top_sizes else NOT_IN_TOP_K
        )
        self._has_probabilities |= bool(probabilities)
        self._cell_counts.add((self._index[truth], column, top), row.group)
        return RowGrade(self.is_right(row.predicted, truth), row.answer.confidence or 0.0)

    def finish(self, sample: GoldSample) -> SingleLabelEvaluation | None:
        cells, units = self._cell_counts.finish()
        tops = self._top_sizes if self._has_probabilities else ()
        quality = compute_metrics_from_cells(
            cells, units, self._classes, abstain=self._abstain, top_k=tops, seed=self._seed
        )
        return (
            SingleLabelEvaluation(
                quality, self._classes, build_confusion_matrix(cells, units, len(self._classes))
            )
            if quality
            else None
        )


def find_top_k_index(
    truth: str, probabilities: Mapping[str, float] | None, class_order: Mapping[str, int]
) -> int:
    """The index in `TOP_K` of the first k that includes the truth; NOT_IN_TOP_K if none does.

    Ties are broken by ``class_order``, as in the decision.
    """
    share = probabilities.get(truth) if probabilities else None
    # A NaN share would rank first, because no probability compares greater than NaN.
    if probabilities is None or share is None or share != share:
        return NOT_IN_TOP_K
    ahead = sum(map(share.__lt__, probabilities.values()))
    if ahead < TOP_K[-1]:
        last = len(class_order)
        ahead += sum(
            other == share and class_order.get(name, last) < class_order.get(truth, last)
            for name, other in probabilities.items()
        )
    return next((place for place, size in enumerate(TOP_K) if ahead < size), NOT_IN_TOP_K)


def build_confusion_matrix(cells: IntArray, units: ResamplingUnits, class_count: int) -> IntArray:
    """Rows by gold and answer, [classes, classes + 1]."""
    counts = np.zeros((class_count, class_count + 1), dtype=np.int64)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), units.count_rows_per_cell())
    return counts


def list_metrics(quality: ClassificationMetrics) -> dict[str, Metric | None]:
    """All metrics by name; top k only if computed."""
    figures: dict[str, Metric | None] = {
        "accuracy": quality.accuracy,
        "accuracy_answered": quality.accuracy_answered,
        "macro_f1": quality.macro_f1,
        "weighted_f1": quality.weighted_f1,
        "balanced_accuracy": quality.balanced_accuracy,
        "kappa": quality.kappa,
        "mcc": quality.mcc,
    }
    return figures | {
        measure: top for measure, top in (("top_3", quality.top_3), ("top_5", quality.top_5)) if top
    }


def describe_metrics(quality: ClassificationMetrics) -> str:
    """How the metrics of `list_metrics` are computed."""
    shares = "accuracy, precision, recall and what is in the top k"
    top = (
        (
            " Gold is in the top k where it is among the k likeliest; a row without probabilities "
            "is not."
        )
        if quality.top_3 or quality.top_5
        else ""
    )
    return (
        f"{describe_intervals(shares, 'the others', quality.groups)} Macro-F1 is the mean of F1 "
        "over the labels that occur in gold, weighted F1 the same by how often they do, balanced "
        "accuracy the mean of their recall. Cohen’s kappa and Matthews correlation are 0 where "
        "answers agree with gold as often as chance would, 1 where always; no answer counts as a "
        f"further class.{top}"
    )


def describe_accuracy(quality: ClassificationMetrics, answer_noun: str) -> list[str]:
    accuracy, answered = quality.accuracy, quality.accuracy_answered
    without = accuracy.n - (answered.n if answered else 0)
    right = round(accuracy.value * accuracy.n)
    sentences = [
        f"Of {format_row_count(accuracy.n)} with gold, {right:,} have the right answer: "
        f"accuracy {accuracy}."
    ]
    if without:
        agreed = right - (round(answered.value * answered.n) if answered else 0)
        but = f", but for {agreed:,} where gold abstains too" if agreed else ""
        sentences.append(f"{format_row_count(without)} without {answer_noun} count as wrong{but}.")
    if without and answered:
        sentences.append(
            f"Among the {answered.n:,} that got {answer_noun}, accuracy is {answered}."
        )
    return sentences


def _run_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    most = find_most_frequent(sample.gold) or ""
    learned = (
        "a linear classifier on words and letters, trained on these rows' own gold in "
        f"{FOLDS}-fold cross-validation"
    )
    return [
        context.predict(
            Baseline("TF-IDF", learned, role="learned"),
            len(sample.texts),
            lambda limit: cross_validate_labels(
                sample.texts, sample.gold, sample.groups, context.settings.seed, limit
            ),
            share=TFIDF_SHARE,
        ),
        context.predict(
            Baseline("MiniLM", "the label whose name and definition are nearest in meaning"),
            len(sample.texts),
            lambda limit: match_definitions(sample.texts, labels, limit),
        ),
        (
            Baseline(
                "majority", f"the most frequent label in gold for every row, {most!r}", role="floor"
            ),
            [most] * len(sample.gold),
        ),
    ]


def _choose_matched(sample: GoldSample, matched: Sequence[tuple[str, ...]]) -> list[str]:
    most = find_most_frequent(sample.gold) or ""
    return [names[0] if names else most for names in matched]


KIND = EvaluationKind(
    name="label",
    create_statistics=SingleLabelStatistics,
    create_grader=SingleLabelGrader,
    baselines=BaselineMethods(
        ("accuracy", "macro_f1"), _run_baselines, choose_matched=_choose_matched
    ),
    agreement=AgreementMethod("accuracy", "agreement", is_proportion=True, kappa="rows"),
    summary_has_all_headlines=False,
    row_style=RowStyle(shows_answer=False),
    texts=KindTexts(
        gold_form="a label of the task",
        answer_noun="label",
        allowed_noun="labels",
        bars="The bars are the likeliest labels with their probabilities",
        gold_mark="its label is",
        errors=ErrorTexts(colours="Gold’s label is blue, the answer orange."),
    ),
)
