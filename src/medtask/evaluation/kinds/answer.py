"""Kind ``answer``: text that the model wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from medtask.display import format_row_count
from medtask.errors import MissingExtra
from medtask.evaluation.kinds.metric_report import (
    build_metric_table,
    describe_intervals,
    warn_about_few_groups,
)
from medtask.evaluation.kinds.protocols import GoldSample, RowGrade
from medtask.evaluation.presentation.blocks import Paragraph, ReportBlock, ReportTable
from medtask.evaluation.statistics.intervals import (
    FloatArray,
    IntArray,
    Metric,
    estimate_clustered_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.text_overlap import (
    compute_rouge_l,
    compute_token_f1,
    is_exact_match,
    split_words,
)
from medtask.records import Answer, Option, Status, Value
from medtask.similarity import encode_texts

MAX_WORDS = 2000  # words, from which on lengths are counted together
MAX_ENCODED_ROWS = (
    200  # rows of the sample that MiniLM reads: of long texts it takes a second for some 30
)
OVERLAP_CAVEAT = (
    "Likeness to gold is not correctness: an answer in other words can be right, and one "
    "wrong word in the same words can be dangerous."
)

SIMILARITY_CAVEAT = (
    "MiniLM similarity overstates: unrelated texts are near 0.1, not 0, and a wrong "
    "answer in gold’s own words is near 1."
)


@dataclass(frozen=True, slots=True)
class LengthStatistics:
    """Words an answer: the middle, the shortest and longest, and the 5th and 95th percentile."""

    median: int
    low: int
    high: int
    shortest: int
    longest: int


@dataclass(frozen=True, slots=True)
class FreeTextStatistics:
    """``ended``: rows whose answer came to its own end; ``truncated``: those stopped before, of
    which ``cut`` still have an answer.
    """

    ended: int
    truncated: int
    cut: int
    words: LengthStatistics | None

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def build_blocks(self, manifest: Mapping[str, object]) -> list[ReportBlock]:
        if self.words is None:
            return [Paragraph("No row got an answer.")]
        lines = [
            ("Came to their own end", f"{self.ended:,}"),
            ("Stopped by a limit", f"{self.truncated:,}"),
            ("of these with an answer, cut after a whole sentence", f"{self.cut:,}"),
        ]
        words = self.words
        lengths = [
            ("the middle one", f"{words.median:,}"),
            ("nine in ten", f"{words.low:,}-{words.high:,}"),
            (
                "the shortest and the longest",
                f"{words.shortest:,}-{words.longest:,}{'+' * (words.longest >= MAX_WORDS)}",
            ),
        ]
        return [
            ReportTable("How answers ended", (("Answers", ""), ("Rows", "n")), lines),
            ReportTable("How long answers are", (("Length", ""), ("Words", "n")), lengths),
        ]

    def format_summary(self) -> str | None:
        if self.words is None:
            return None
        words = self.words
        spread = (
            f"{words.median:,} word{'s' * (words.median != 1)} an answer, nine in ten have "
            f"{words.low:,}-{words.high:,}"
        )
        return f"{spread}; {format_row_count(self.truncated)} stopped by a limit"


class FreeTextAccumulator:
    """Counts answers by their number of words."""

    def __init__(self) -> None:
        self._ended = self._truncated = self._cut = 0
        self._words = np.zeros(MAX_WORDS + 1, dtype=np.int64)

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        stopped = answer.status is Status.TRUNCATED
        self._truncated += stopped
        if isinstance(answer.value, str):
            self._cut += stopped
            self._ended += not stopped
            self._words[len(split_words(answer.value))] += 1

    def finish(self) -> FreeTextStatistics:
        return FreeTextStatistics(
            self._ended, self._truncated, self._cut, _compute_length_statistics(self._words)
        )


def _compute_length_statistics(word_counts: IntArray) -> LengthStatistics | None:
    seen = np.flatnonzero(word_counts)
    if not len(seen):
        return None
    ranks = np.cumsum(word_counts) / word_counts.sum()
    low, median, high = (int(np.searchsorted(ranks, share - 1e-9)) for share in (0.05, 0.5, 0.95))
    return LengthStatistics(median, low, high, int(seen[0]), int(seen[-1]))


@dataclass(frozen=True, slots=True)
class FreeTextEvaluation:
    """Figures of rows with gold (a random sample where there are more than 2,000, ``of`` all);
    without an answer a row counts as 0, but in those of the answered, which are None where there
    are none. ``similarity`` is over fewer rows; None, with the reason in ``note``, where MiniLM is
    not installed. ``groups``: see Units.
    """

    token_f1: Metric
    rouge_l: Metric
    exact_match: Metric
    similarity: Metric | None
    token_f1_answered: Metric | None
    exact_answered: Metric | None
    note: str
    of: int
    without: int
    groups: int | None

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        return {
            "token_f1": self.token_f1,
            "rouge_l": self.rouge_l,
            "exact_match": self.exact_match,
            "similarity": self.similarity,
            "token_f1_answered": self.token_f1_answered,
            "exact_match_answered": self.exact_answered,
        }

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        # Similarity never stands without exact match: by itself it makes any answer look good.
        return ("token_f1", "rouge_l", "exact_match", "similarity")

    @property
    def accuracy_answered(self) -> None:
        return None

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self)}

    def describe(self) -> list[str]:
        n = self.token_f1.n
        whom = (
            f"On {n:,} random rows of {self.of:,} with gold"
            if n < self.of
            else f"On {format_row_count(self.of)} with gold"
        )
        sentences = [
            f"{whom}, answers share words with gold to a token F1 of {self.token_f1} in the mean; "
            f"{round(self.exact_match.value * n):,} say exactly the same: {self.exact_match}."
        ]
        if self.similarity:
            sentences.append(
                f"Their mean similarity in meaning is {self.similarity}, which is no share of "
                "right answers."
            )
        if self.without:
            sentences.append(f"{format_row_count(self.without)} without an answer count as 0.")
        return sentences

    def describe_caveats(self) -> list[str]:
        return [
            OVERLAP_CAVEAT,
            *([SIMILARITY_CAVEAT] if self.similarity else []),
            *warn_about_few_groups(self.groups),
        ]

    def describe_methods(self) -> str:
        unlike = (
            f"MiniLM similarity was not measured: {self.note}."
            if self.note
            else f"MiniLM reads at most {MAX_ENCODED_ROWS} of the rows."
        )
        return (
            f"{describe_intervals('exact match', 'the others', self.groups)} Exact match and "
            "token F1 (as in SQuAD) compare words "
            "without case, punctuation and articles, ROUGE-L counts words in the same order. "
            "MiniLM similarity is the cosine of meaning. "
            f"{unlike} Differences in token F1 are judged by approximate randomisation (p below "
            "0.05)."
        )

    def build_blocks(self) -> list[ReportBlock]:
        return build_metric_table(self.metrics)


class FreeTextGrader:
    """Gold is the text that a person would have written. There is no right and wrong, only
    likeness.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows = self._unanswered = 0

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> str | None:
        return gold if isinstance(gold, str) else None

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, predicted: Value | None, truth: Value) -> None:
        return None

    def add(
        self,
        predicted: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        self._rows += 1
        self._unanswered += predicted is None
        likeness = compute_token_f1(str(truth), predicted) if isinstance(predicted, str) else 0.0
        return RowGrade(True if likeness == 1 else None, 1 - likeness)

    def finish(self, sample: GoldSample) -> FreeTextEvaluation | None:
        return grade_texts(
            sample.gold,
            sample.answers,
            sample.groups,
            total_rows=self._rows,
            unanswered=self._unanswered,
            seed=self._seed,
        )


def grade_texts(
    gold: Sequence[str],
    answers: Sequence[str | None],
    groups: Sequence[str | None] = (),
    *,
    total_rows: int | None = None,
    unanswered: int = 0,
    seed: int = 0,
) -> FreeTextEvaluation | None:
    """How like gold these rows' answers are; ``groups``: the rows', if any of them has one. None
    without rows.
    """
    pairs = list(zip(gold, answers, strict=True))
    if not pairs:
        return None
    units, every = build_resampling_units(groups, len(pairs)), np.ones(len(pairs))
    answered = np.array([given is not None for _, given in pairs], dtype=np.int64)
    shared = _score_pairs(pairs, compute_token_f1)
    exact = _score_pairs(pairs, is_exact_match)
    f1 = estimate_ratio(shared, every, units, seed=seed)
    rouge = estimate_ratio(_score_pairs(pairs, compute_rouge_l), every, units, seed=seed)
    same = estimate_clustered_proportion(exact, every, units, seed=seed)
    assert f1 is not None
    assert rouge is not None
    assert same is not None
    similarity, note = _score_similarity(pairs[:MAX_ENCODED_ROWS], groups[:MAX_ENCODED_ROWS], seed)
    f1_answered = estimate_ratio(shared, answered, units, seed=seed)
    return FreeTextEvaluation(
        token_f1=f1,
        rouge_l=rouge,
        exact_match=same,
        similarity=similarity,
        token_f1_answered=replace(f1_answered, n=int(answered.sum())) if f1_answered else None,
        exact_answered=estimate_clustered_proportion(exact, answered, units, seed=seed),
        note=note,
        of=len(pairs) if total_rows is None else total_rows,
        without=unanswered,
        groups=units.n_groups,
    )


def compute_token_f1_terms(
    gold: Sequence[str], answers: Sequence[str | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's part in the mean token F1, as comparison.compare_ratios wants it."""
    shares = _score_pairs(list(zip(gold, answers, strict=True)), compute_token_f1)
    return shares, np.ones(len(shares))


def _score_pairs(
    pairs: Sequence[tuple[str, str | None]], score: Callable[[str, str], float]
) -> FloatArray:
    """[rows], 0 where there is no answer."""
    return np.array(
        [0.0 if given is None else float(score(truth, given)) for truth, given in pairs]
    )


def _score_similarity(
    pairs: Sequence[tuple[str, str | None]], groups: Sequence[str | None], seed: int
) -> tuple[Metric | None, str]:
    texts = [text for pair in pairs for text in pair if text is not None]
    try:
        vectors = dict(zip(texts, encode_texts(texts), strict=True))
    except MissingExtra as missing:
        return None, f"{missing} ({missing.fix})"
    near = _score_pairs(
        pairs, lambda truth, given: max(0.0, float(vectors[truth] @ vectors[given]))
    )
    return estimate_ratio(
        near, np.ones(len(pairs)), build_resampling_units(groups, len(pairs)), seed=seed
    ), ""
