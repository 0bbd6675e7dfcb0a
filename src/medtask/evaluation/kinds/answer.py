"""Kind ``answer``: generated text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from medtask.display import format_count, format_row_count
from medtask.evaluation.baselines.context import BaselineAnswers, BaselineContext
from medtask.evaluation.baselines.tfidf import find_nearest_texts
from medtask.evaluation.baselines.untrained import LabelDefinitions
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
from medtask.evaluation.presentation.blocks import Paragraph, ReportBlock, ReportTable
from medtask.evaluation.presentation.report_rows import MAX_ANSWER_CHARACTERS, RowStyle
from medtask.evaluation.statistics.free_text import (
    MAX_ENCODED_ROWS,
    FreeTextMetrics,
    compute_free_text_metrics,
)
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import Baseline
from medtask.evaluation.statistics.text_overlap import MAX_WORDS, compute_token_f1
from medtask.records import Answer, Option, Status, Value
from medtask.unicode_text import split_words

OVERLAP_CAVEAT = (
    "Similarity to gold is not correctness: an answer in other words can be right, and one wrong "
    "word among equal words can be dangerous."
)
SIMILARITY_CAVEAT = (
    "MiniLM similarity is optimistic: unrelated texts are near 0.1, not 0, and a wrong answer in "
    "the words of gold is near 1."
)


@dataclass(frozen=True, slots=True)
class LengthStatistics:
    """Words of an answer: median, 5th and 95th percentile, shortest and longest."""

    median: int
    low: int
    high: int
    shortest: int
    longest: int


@dataclass(slots=True)
class FreeTextStatistics:
    """Counts how answers ended, and answers by their number of words.

    Attributes:
        ended: Number of answers that the model ended.
        truncated: Number of answers stopped by a limit.
        cut: Number of truncated answers that still have a value.
        word_counts: Answers by number of words, at most `MAX_WORDS`.
    """

    ended: int = 0
    truncated: int = 0
    cut: int = 0
    word_counts: Counter[int] = field(default_factory=Counter)

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        stopped = answer.status is Status.TRUNCATED
        self.truncated += stopped
        if isinstance(answer.value, str):
            self.cut += stopped
            self.ended += not stopped
            self.word_counts[len(split_words(answer.value, MAX_WORDS))] += 1

    def measure_lengths(self) -> LengthStatistics | None:
        """Lengths in words; None without answers."""
        if not self.word_counts:
            return None
        sizes, rows = np.array(sorted(self.word_counts.items()), dtype=np.int64).T
        ranks = np.cumsum(rows) / rows.sum()
        low, median, high = (
            int(sizes[np.searchsorted(ranks, share - 1e-9)]) for share in (0.05, 0.5, 0.95)
        )
        return LengthStatistics(median, low, high, int(sizes[0]), int(sizes[-1]))

    def to_json(self) -> dict[str, object]:
        words = self.measure_lengths()
        return {
            "ended": self.ended,
            "truncated": self.truncated,
            "cut": self.cut,
            "words": asdict(words) if words else None,
        }

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        words = self.measure_lengths()
        if words is None:
            return [Paragraph("No row has an answer.")]
        lines = [
            ("Ended by the model", f"{self.ended:,}"),
            ("Stopped by a limit", f"{self.truncated:,}"),
            ("of these with an answer, cut after a complete sentence", f"{self.cut:,}"),
        ]
        lengths = [
            ("median", f"{words.median:,}"),
            ("5th to 95th percentile", f"{words.low:,}-{words.high:,}"),
            (
                "shortest and longest",
                f"{words.shortest:,}-{words.longest:,}{'+' * (words.longest >= MAX_WORDS)}",
            ),
        ]
        return [
            ReportTable("How answers ended", (("Answers", ""), ("Rows", "n")), lines),
            ReportTable("How long answers are", (("Length", ""), ("Words", "n")), lengths),
        ]

    def format_summary(self) -> str | None:
        words = self.measure_lengths()
        if words is None:
            return None
        spread = (
            f"median {format_count(words.median, 'word')}, nine in ten have "
            f"{words.low:,}-{words.high:,}"
        )
        return f"{spread}; {format_row_count(self.truncated)} stopped by a limit"


@dataclass(frozen=True, slots=True)
class FreeTextEvaluation:
    """Similarity of a run's texts to gold."""

    quality: FreeTextMetrics

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        return {
            "token_f1": self.quality.token_f1,
            "rouge_l": self.quality.rouge_l,
            "exact_match": self.quality.exact_match,
            "similarity": self.quality.similarity,
            "token_f1_answered": self.quality.token_f1_answered,
            "exact_match_answered": self.quality.exact_answered,
        }

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        # Similarity is never shown without exact match, because any answer has a high similarity.
        return ("token_f1", "rouge_l", "exact_match", "similarity")

    @property
    def part_metrics(self) -> Mapping[str, PartMetric]:
        return {}

    @property
    def accuracy_answered(self) -> None:
        return None

    @property
    def groups(self) -> int | None:
        return self.quality.groups

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self.quality)}

    def describe(self) -> list[str]:
        quality, n = self.quality, self.quality.token_f1.n
        rows = (
            f"On {n:,} random rows of {quality.of:,} with gold"
            if n < quality.of
            else f"On {format_row_count(quality.of)} with gold"
        )
        equal = round(quality.exact_match.value * n)
        sentences = [
            f"{rows}, the mean token F1 of answers and gold is {quality.token_f1}; {equal:,} "
            f"answers are equal to gold: {quality.exact_match}."
        ]
        if quality.similarity:
            sentences.append(
                f"The mean similarity in meaning is {quality.similarity}; it is not a share of "
                "right answers."
            )
        if quality.without:
            sentences.append(f"{format_row_count(quality.without)} without an answer count as 0.")
        return sentences

    def describe_caveats(self) -> list[str]:
        return [
            OVERLAP_CAVEAT,
            *([SIMILARITY_CAVEAT] if self.quality.similarity else []),
        ]

    def describe_methods(self) -> str:
        similarity = (
            f"MiniLM similarity was not measured: {self.quality.note}."
            if self.quality.note
            else f"MiniLM reads at most {MAX_ENCODED_ROWS} of the rows."
        )
        tests = describe_tests(
            self.quality.groups,
            "Differences in token F1 are tested by approximate randomisation (p below 0.05).",
        )
        return (
            f"{describe_intervals('exact match', 'the others', self.quality.groups)} Exact match "
            "and token F1 (as in SQuAD) compare words without case, punctuation and articles; "
            "ROUGE-L counts words in the same order. MiniLM similarity is the cosine similarity "
            f"of sentence vectors. {similarity} {tests}"
        )

    def build_blocks(self) -> list[ReportBlock]:
        return build_metric_table(self.metrics)


class FreeTextGrader:
    """Compares texts with gold texts by similarity; they are not graded right or wrong."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows = self._unanswered = 0

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> str | None:
        return gold if isinstance(gold, str) else None

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, predicted: Value | None, truth: Value) -> None:
        return None

    def add(self, row: GradedRow) -> RowGrade:
        self._rows += 1
        self._unanswered += row.predicted is None
        is_text = isinstance(row.predicted, str)
        likeness = compute_token_f1(str(row.truth), str(row.predicted)) if is_text else 0.0
        return RowGrade(True if likeness == 1 else None, 1 - likeness)

    def finish(self, sample: GoldSample) -> FreeTextEvaluation | None:
        quality = compute_free_text_metrics(
            sample.gold,
            sample.answers,
            sample.groups,
            total_rows=self._rows,
            unanswered=self._unanswered,
            seed=self._seed,
        )
        return FreeTextEvaluation(quality) if quality else None


def _run_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    # Rows, not texts: kept predictions contain no text of a record.
    baseline, nearest = context.predict(
        Baseline(
            "nearest question",
            "the gold answer of the most similar other question, by TF-IDF",
            role="learned",
        ),
        len(sample.texts),
        lambda limit: find_nearest_texts(sample.texts),
    )
    return [
        (
            baseline,
            nearest if isinstance(nearest, str) else [sample.gold[place] for place in nearest],
        )
    ]


KIND = EvaluationKind(
    name="answer",
    create_statistics=lambda labels: FreeTextStatistics(),
    create_grader=lambda labels, abstain, seed: FreeTextGrader(seed),
    baselines=BaselineMethods(("token_f1", "rouge_l", "exact_match", "similarity"), _run_baselines),
    agreement=AgreementMethod("token_f1", "token F1"),
    has_right_answers=False,
    is_closed=False,
    compares_sample=True,
    summary_has_caveats=True,
    row_style=RowStyle(limit=MAX_ANSWER_CHARACTERS, is_text=True),
    texts=KindTexts(
        gold_form="text",
        no_confidence="Generated text has no probability, so there is no confidence to show.",
        errors=ErrorTexts(
            "Where is it farthest from gold?",
            "answers that share the fewest words with gold",
            "it is right in other words",
        ),
    ),
)
