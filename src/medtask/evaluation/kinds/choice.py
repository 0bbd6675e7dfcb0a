"""Kind ``choice``: one or several of the options of each row, by letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medtask.evaluation.baselines.context import BaselineAnswers, BaselineContext
from medtask.evaluation.baselines.untrained import (
    LabelDefinitions,
    find_most_frequent,
    match_options,
)
from medtask.evaluation.kinds.choice_results import (
    SET_METRICS,
    MultipleChoiceEvaluation,
    MultipleChoiceStatistics,
    parse_letters,
)
from medtask.evaluation.kinds.label import build_confusion_matrix, find_top_k_index
from medtask.evaluation.kinds.protocols import (
    AgreementMethod,
    BaselineMethods,
    ErrorTexts,
    EvaluationKind,
    GoldSample,
    GradedRow,
    KindTexts,
    RowGrade,
)
from medtask.evaluation.presentation.formatting import format_value
from medtask.evaluation.statistics.classification import (
    TOP_K,
    ClassificationMetrics,
    compute_metrics_from_cells,
)
from medtask.evaluation.statistics.multilabel import (
    MultiLabelMetrics,
    MultiLabelMetricsAccumulator,
)
from medtask.evaluation.statistics.resampling import CellCounter
from medtask.evaluation.statistics.significance import Baseline
from medtask.records import LETTERS, Option, Status, Value


class MultipleChoiceGrader:
    """Grades letters; gold that is not a letter of its row is not valid."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._index = {letter: place for place, letter in enumerate(LETTERS)}
        self._cell_counts = CellCounter()  # (gold, answer, index in TOP_K)
        # the smallest number of options of a row with probabilities
        self._min_options: int | None = None
        self._sets = MultiLabelMetricsAccumulator(LETTERS)
        self._has_several = False
        self._answered = 0
        self._gold: Counter[str] = Counter()
        self._given: Counter[str] = Counter()

    def parse_gold(self, gold: Value, options: Sequence[Option]) -> Value | None:
        letters = parse_letters(gold)
        # If a row's options could not be read, no question was asked; its gold can still be a
        # letter.
        allowed = {option.letter for option in options} or set(LETTERS)
        if letters is None or not allowed.issuperset(letters):
            return None
        return tuple(sorted(set(letters))) if isinstance(gold, tuple) else gold

    def comparable_value(self, status: Status, value: Value | None) -> Value | None:
        return tuple(sorted(value)) if isinstance(value, tuple) else value

    def is_right(self, predicted: Value | None, truth: Value) -> bool:
        return predicted is not None and set(predicted) == set(truth)

    def add(self, row: GradedRow) -> RowGrade:
        gold_letters = parse_letters(row.truth) or ()
        predicted_letters = parse_letters(row.predicted)
        probabilities = row.answer.probabilities or {}
        self._has_several |= isinstance(row.truth, tuple) or isinstance(row.predicted, tuple)
        self._sets.add(
            gold_letters,
            predicted_letters,
            row.group,
            n_options=len(row.options) or len(probabilities),
        )
        if probabilities:
            self._min_options = min(len(probabilities), self._min_options or len(LETTERS))
        if gold_letters:
            self._cell_counts.add(
                (
                    self._index[gold_letters[0]],
                    self._index[predicted_letters[0]] if predicted_letters else len(LETTERS),
                    find_top_k_index(gold_letters[0], probabilities, self._index),
                ),
                row.group,
            )
        self._answered += predicted_letters is not None
        self._gold.update(gold_letters)
        self._given.update(predicted_letters or ())
        return RowGrade(self.is_right(row.predicted, row.truth), row.answer.confidence or 0.0)

    def finish(self, sample: GoldSample) -> MultipleChoiceEvaluation | None:
        letters = {
            letter: (self._gold[letter], self._given[letter])
            for letter in sorted(self._gold | self._given)
        }
        quality: ClassificationMetrics | MultiLabelMetrics | None
        if self._has_several:
            gold, given = (
                [parse_letters(value) for value in column]
                for column in (sample.gold, sample.answers)
            )
            quality = self._sets.compute_metrics(
                [truth or () for truth in gold], given, sample.groups, seed=self._seed
            )
            return (
                MultipleChoiceEvaluation(quality, letters, self._answered, None)
                if quality
                else None
            )
        cells, units = self._cell_counts.finish()
        # With k options or fewer, top-k accuracy is always 1.
        tops = [size for size in TOP_K if self._min_options and size < self._min_options]
        quality = compute_metrics_from_cells(cells, units, LETTERS, top_k=tops, seed=self._seed)
        return (
            MultipleChoiceEvaluation(
                quality, letters, self._answered, build_confusion_matrix(cells, units, len(LETTERS))
            )
            if quality
            else None
        )


def _run_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    # Without options, as where they could not be read, no guess is right.
    chances = [1 / len(options) if options else 0.0 for options in sample.options]
    most = find_most_frequent(sample.gold) or ""
    return [
        context.predict(
            Baseline("MiniLM", "the option nearest in meaning to the question"),
            len(sample.texts),
            lambda limit: match_options(sample.texts, sample.options, limit=limit),
        ),
        (
            Baseline("most frequent letter", f"in gold, for every row: {most}", role="floor"),
            [most] * len(sample.gold),
        ),
        (
            Baseline("guessing", "any of the row's options with the same chance", role="floor"),
            float(np.mean(chances or [0])),
        ),
    ]


def _run_set_baselines(
    sample: GoldSample, labels: LabelDefinitions, context: BaselineContext
) -> list[BaselineAnswers]:
    most = find_most_frequent(sample.gold) or ()
    near = "the options nearest in meaning to the question, as many in total as gold has"
    return [
        context.predict(
            Baseline("MiniLM", near),
            len(sample.texts),
            lambda limit: match_options(sample.texts, sample.options, sample.gold, limit),
        ),
        (
            Baseline(
                "most frequent letters",
                f"in gold, for every row: {format_value(most)}",
                role="floor",
            ),
            [most] * len(sample.gold),
        ),
    ]


_TEXTS = KindTexts(
    gold_form="an option of its row",
    bars="The bars are the likeliest options with their probabilities",
    errors=ErrorTexts(colours="Gold’s option is blue, the answer orange."),
)
SEVERAL = EvaluationKind(
    name="several",
    create_statistics=lambda labels: MultipleChoiceStatistics(),
    create_grader=lambda labels, abstain, seed: MultipleChoiceGrader(seed),
    baselines=BaselineMethods(SET_METRICS, _run_set_baselines),
    agreement=AgreementMethod("jaccard", "mean Jaccard", kappa="labels"),
    summary_has_caveats=True,
    texts=_TEXTS,
    normalize=parse_letters,
)

KIND = EvaluationKind(
    name="choice",
    create_statistics=lambda labels: MultipleChoiceStatistics(),
    create_grader=lambda labels, abstain, seed: MultipleChoiceGrader(seed),
    baselines=BaselineMethods(("accuracy",), _run_baselines),
    agreement=AgreementMethod("accuracy", "agreement", is_proportion=True, kappa="rows"),
    summary_has_caveats=True,
    several=SEVERAL,
    texts=_TEXTS,
)
