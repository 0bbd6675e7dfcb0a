"""Kind ``labels``: any number of the task's labels per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from medtask.display import format_row_count
from medtask.evaluation.baselines.context import (
    TFIDF_SHARE,
    BaselineAnswers,
    BaselineContext,
)
from medtask.evaluation.baselines.tfidf import cross_validate_label_sets
from medtask.evaluation.baselines.untrained import (
    LabelDefinitions,
    find_most_frequent,
    match_label_sets,
)
from medtask.evaluation.kinds.label_blocks import (
    MAX_LABELS_SHOWN,
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
from medtask.evaluation.presentation.blocks import Heading, Paragraph, ReportBlock, ReportTable
from medtask.evaluation.presentation.formatting import format_value
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.multilabel import (
    MultiLabelMetrics,
    MultiLabelMetricsAccumulator,
)
from medtask.evaluation.statistics.resampling import FOLDS
from medtask.evaluation.statistics.significance import Baseline
from medtask.records import Answer, Option, Status, Value

HEADLINE_METRICS = ("micro_f1", "macro_f1", "exact_match", "jaccard")


@dataclass(slots=True)
class MultiLabelStatistics:
    """Counts rows by label, and by number of labels; ``labels`` are all labels of the task."""

    labels: Sequence[str]
    rows_by_label: Counter[str] = field(default_factory=Counter)
    rows_by_label_count: Counter[int] = field(default_factory=Counter)

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if isinstance(answer.value, tuple):
            self.rows_by_label.update(answer.value)
            self.rows_by_label_count[len(answer.value)] += 1

    @property
    def answered(self) -> int:
        return self.rows_by_label_count.total()

    @property
    def mean_label_count(self) -> float:
        """Mean number of labels of answered rows."""
        return self.rows_by_label.total() / max(1, self.answered)

    def to_json(self) -> dict[str, object]:
        sizes = {str(size): rows for size, rows in sorted(self.rows_by_label_count.items())}
        return {
            "labels": sort_by_frequency(self.rows_by_label),
            "rows_by_number_of_labels": sizes,
            "mean_number_of_labels": self.mean_label_count if self.answered else None,
        }

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        if not self.answered:
            return [Paragraph("No row has an answer.")]
        return [
            *build_label_bars(self.rows_by_label, self.answered, self.labels),
            Paragraph(f"{self.format_summary()}."),
            *_build_threshold_blocks(manifest),
        ]

    def format_summary(self) -> str | None:
        if not self.answered:
            return None
        none = self.rows_by_label_count[0]
        return (
            f"{self.mean_label_count:.2f} labels per row on average; {format_row_count(none)} "
            f"{'have' if none != 1 else 'has'} none"
        )


@dataclass(frozen=True, slots=True)
class MultiLabelEvaluation:
    quality: MultiLabelMetrics
    class_count: int

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        return list_set_metrics(self.quality)

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        return HEADLINE_METRICS

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        return list_label_metrics(self.quality.labels)

    @property
    def accuracy_answered(self) -> Metric | None:
        return self.quality.exact_answered

    @property
    def groups(self) -> int | None:
        return self.quality.groups

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self.quality)}

    def describe(self) -> list[str]:
        micro = self.quality.micro_f1
        return [
            *describe_set_results(self.quality),
            *([f"All decisions together: micro-F1 {micro}."] if micro else []),
        ]

    def describe_caveats(self) -> list[str]:
        return [
            *warn_about_rare_labels(self.quality.labels, self.class_count),
        ]

    def describe_methods(self) -> str:
        tests = describe_tests(
            self.quality.groups,
            "Differences in micro-F1 are judged by approximate randomisation (p below 0.05).",
        )
        return f"{describe_set_metrics(self.quality)} {tests}"

    def build_blocks(self) -> list[ReportBlock]:
        return [*build_metric_table(self.metrics), *build_label_table(self.quality.labels)]


class MultiLabelGrader:
    """Grades sets of labels; gold with an unknown label is not valid."""

    def __init__(self, labels: Sequence[str], seed: int) -> None:
        self._labels, self._seed = tuple(labels), seed
        self._index = {name: place for place, name in enumerate(self._labels)}
        self._counts = MultiLabelMetricsAccumulator(self._labels)

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> tuple[str, ...] | None:
        if not isinstance(gold, tuple) or any(name not in self._index for name in gold):
            return None
        return tuple(sorted(dict.fromkeys(gold), key=self._index.__getitem__))

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, predicted: Value | None, truth: Value) -> bool:
        return predicted is not None and set(predicted) == set(truth)

    def add(self, row: GradedRow) -> RowGrade:
        predicted = None if row.predicted is None else tuple(row.predicted)
        self._counts.add(tuple(row.truth), predicted, row.group)
        return RowGrade(self.is_right(predicted, row.truth), row.answer.confidence or 0.0)

    def finish(self, sample: GoldSample) -> MultiLabelEvaluation | None:
        quality = self._counts.compute_metrics(
            sample.gold, sample.answers, sample.groups, seed=self._seed
        )
        return MultiLabelEvaluation(quality, len(self._labels)) if quality else None


def list_set_metrics(quality: MultiLabelMetrics) -> dict[str, Metric | None]:
    """All metrics by name; Hamming loss only if known."""
    figures: dict[str, Metric | None] = {
        "micro_f1": quality.micro_f1,
        "macro_f1": quality.macro_f1,
        "sample_f1": quality.sample_f1,
        "exact_match": quality.exact_match,
        "exact_match_answered": quality.exact_answered,
        "jaccard": quality.jaccard,
    }
    return figures | ({"hamming_loss": quality.hamming_loss} if quality.hamming_loss else {})


def describe_set_metrics(quality: MultiLabelMetrics) -> str:
    """How the metrics of `list_set_metrics` are computed."""
    return (
        f"{describe_intervals('exact match, precision and recall', 'the others', quality.groups)} "
        "Micro-F1 counts every pair of row and label, macro-F1 is the mean over the labels that "
        "occur in gold, F1 by row the mean over rows. Jaccard: what gold and answer share, of all "
        "that either has. Hamming loss, of which less is better: the share of labels, given or "
        "not, that are wrong in a row; all of them where there is no answer."
    )


def describe_set_results(quality: MultiLabelMetrics) -> list[str]:
    """Describe how many answers equal gold, and how many labels both have."""
    exact = quality.exact_match
    right = round(exact.value * exact.n)
    sentences = [
        f"Of {format_row_count(exact.n)} with gold, {right:,} have exactly the right set: {exact}."
    ]
    without = exact.n - (quality.exact_answered.n if quality.exact_answered else 0)
    if without:
        sentences.append(
            f"{format_row_count(without)} without an answer count as wrong, with no label found."
        )
    if quality.answered_mean is not None:
        sentences.append(
            f"Gold has {quality.gold_mean:.2f} labels per row on average, the answers "
            f"{quality.answered_mean:.2f}."
        )
    return sentences


def _build_threshold_blocks(manifest: Mapping[str, object]) -> list[ReportBlock]:
    """The labels' thresholds, if the manifest has them."""
    thresholds, fitted = manifest.get("thresholds"), manifest.get("thresholds_fitted")
    if not isinstance(thresholds, Mapping) or not thresholds:
        return []
    lines = [
        (str(name), f"{share:.3f}" if isinstance(share, int | float) else str(share))
        for name, share in thresholds.items()
    ]
    caption = f"The first {MAX_LABELS_SHOWN} of {len(lines):,} labels."
    sentence = fitted if isinstance(fitted, str) else ""
    note = f"A label applies from this probability on. {sentence}".strip()
    return [
        Heading("Thresholds"),
        Paragraph(note, "quiet small"),
        ReportTable("Thresholds", (("Label", "l"), ("Threshold", "n")), lines, caption).cut(
            MAX_LABELS_SHOWN
        ),
    ]


def _run_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    most = find_most_frequent(sample.gold) or ()
    learned = (
        "a linear classifier on words and letters with a fitted threshold for each label, trained "
        f"on these rows' own gold in {FOLDS}-fold cross-validation"
    )
    names, rows = [name for name, _ in labels], len(sample.texts)
    near = (
        "the labels whose names and definitions are nearest in meaning, as many in total as gold "
        "has"
    )
    return [
        context.predict(
            Baseline("TF-IDF", learned, role="learned"),
            rows,
            lambda limit: cross_validate_label_sets(
                sample.texts, sample.gold, names, sample.groups, context.settings.seed, limit
            ),
            share=TFIDF_SHARE,
        ),
        context.predict(
            Baseline("MiniLM", near),
            rows,
            lambda limit: match_label_sets(sample.texts, sample.gold, labels, limit),
        ),
        (
            Baseline(
                "most frequent set",
                f"the most frequent set in gold for every row, {format_value(most)!r}",
                role="floor",
            ),
            [most] * len(sample.gold),
        ),
    ]


KIND = EvaluationKind(
    name="labels",
    create_statistics=MultiLabelStatistics,
    create_grader=lambda labels, abstain, seed: MultiLabelGrader(labels, seed),
    baselines=BaselineMethods(
        HEADLINE_METRICS,
        _run_baselines,
        choose_matched=lambda sample, matched: list(matched),
    ),
    agreement=AgreementMethod("jaccard", "mean Jaccard", kappa="labels"),
    texts=KindTexts(
        gold_form="a set of the task’s labels",
        bars="The bars are the likeliest labels, each with the probability that it applies",
        errors=ErrorTexts(colours="Gold’s labels are blue, other labels of the answer orange."),
    ),
)
