"""The registry of metrics: their names, and their computation from sums over rows.

Every metric that systems are compared by is one entry of `METRICS`; it then appears in comparisons,
leaderboards and training gains. Metrics without ``build_sums`` are reported for one system only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medtask.evaluation.kinds.protocols import EvaluationKind, get_evaluation_kind
from medtask.evaluation.statistics.extraction import compute_field_terms, is_fully_correct
from medtask.evaluation.statistics.free_text import compute_token_f1_terms
from medtask.evaluation.statistics.intervals import FloatArray
from medtask.evaluation.statistics.metric_sums import (
    MetricSums,
    build_macro_f1_sums,
    build_mean_sums,
    build_ratio_sums,
)
from medtask.evaluation.statistics.multilabel import compute_jaccard, compute_micro_f1_terms
from medtask.evaluation.statistics.text_overlap import compute_rouge_l
from medtask.kinds import KindName
from medtask.records import list_names

SumsBuilder = Callable[[Sequence[str], Sequence[Any], Sequence[Any]], MetricSums]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: The key in reports' JSON.
        title: The name in reports and on terminals.
        build_sums: Returns the sums over rows from classes, gold and answers (None: no answer).
        ranks: By kind, the position among the metrics that comparisons show; 0 is the headline.
        is_proportion: Whether the metric is a share of right rows, which McNemar's test compares.
    """

    name: str
    title: str
    build_sums: SumsBuilder | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    is_proportion: bool = False


def _average(score: Callable[[Any, Any], float]) -> SumsBuilder:
    """A builder for the mean of ``score(gold, answer)`` over rows."""

    def build(classes: Sequence[str], gold: Sequence[Any], answers: Sequence[Any]) -> MetricSums:
        return build_mean_sums(
            [score(truth, given) for truth, given in zip(gold, answers, strict=True)]
        )

    return build


def _divide(
    compute_terms: Callable[[Sequence[Any], Sequence[Any]], tuple[FloatArray, FloatArray]],
) -> SumsBuilder:
    """A builder for the ratio of the sums of two terms over rows."""

    def build(classes: Sequence[str], gold: Sequence[Any], answers: Sequence[Any]) -> MetricSums:
        return build_ratio_sums(*compute_terms(gold, answers))

    return build


def _is_same_set(truth: Sequence[str], given: Sequence[str] | None) -> bool:
    return given is not None and frozenset(given) == frozenset(truth)


def _compute_rouge_l(truth: str, given: str | None) -> float:
    return 0.0 if given is None else compute_rouge_l(truth, given)


def _sum_macro_f1(
    classes: Sequence[str], gold: Sequence[Any], answers: Sequence[Any]
) -> MetricSums:
    return build_macro_f1_sums(
        classes,
        [
            (list_names(truth), list_names(given))
            for truth, given in zip(gold, answers, strict=True)
        ],
    )


METRICS: Mapping[str, MetricSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            MetricSpec(
                "accuracy", "accuracy", _average(operator.eq), {"label": 0, "choice": 0}, True
            ),
            MetricSpec("accuracy_answered", "accuracy of answered rows"),
            MetricSpec("balanced_accuracy", "balanced accuracy"),
            MetricSpec(
                "micro_f1", "micro-F1", _divide(compute_micro_f1_terms), {"labels": 0, "several": 2}
            ),
            MetricSpec("macro_f1", "macro-F1", _sum_macro_f1, {"label": 1, "labels": 1}),
            MetricSpec("weighted_f1", "weighted F1"),
            MetricSpec("sample_f1", "F1 by row"),
            MetricSpec("kappa", "Cohen’s kappa"),
            MetricSpec("mcc", "Matthews correlation"),
            MetricSpec("top_3", "gold in the top 3"),
            MetricSpec("top_5", "gold in the top 5"),
            MetricSpec(
                "exact_match",
                "exact match",
                _average(_is_same_set),
                {"labels": 2, "several": 0},
                True,
            ),
            MetricSpec("exact_match_answered", "exact match of answered rows"),
            MetricSpec(
                "jaccard", "mean Jaccard", _average(compute_jaccard), {"labels": 3, "several": 1}
            ),
            MetricSpec("hamming_loss", "Hamming loss"),
            MetricSpec("token_f1", "token F1", _divide(compute_token_f1_terms), {"answer": 0}),
            MetricSpec("token_f1_answered", "token F1 of answered rows"),
            MetricSpec("rouge_l", "ROUGE-L", _average(_compute_rouge_l), {"answer": 1}),
            MetricSpec("similarity", "MiniLM similarity"),
            MetricSpec("fields_right", "fields right", _divide(compute_field_terms), {"fields": 0}),
            MetricSpec("rows_right", "rows all right", _average(is_fully_correct), {"fields": 1}),
            MetricSpec("rows_right_answered", "answered rows all right"),
        )
    }
)


def get_metric_title(name: str) -> str:
    """Returns the name of a metric as reports show it; names without an entry are unchanged."""
    return METRICS[name].title if name in METRICS else name


def build_metric_sums(
    kind: KindName | EvaluationKind,
    classes: Sequence[str],
    gold: Sequence[Any],
    answers: Sequence[Any],
) -> dict[str, MetricSums]:
    """Returns the metrics that systems are compared by, the headline first.

    The headline is a ratio of sums.

    Args:
        kind: The kind of question.
        classes: Every class of kinds ``label`` and ``labels``.
        gold: The gold value of each row.
        answers: The answer to each row; None if missing.
    """
    known = kind if isinstance(kind, EvaluationKind) else get_evaluation_kind(kind)
    used = known.resolve(gold, answers)
    gold = [used.normalize(truth) for truth in gold]
    answers = [used.normalize(given) for given in answers]
    compared = sorted(
        (spec for spec in METRICS.values() if used.name in spec.ranks),
        key=lambda spec: spec.ranks[used.name],
    )
    return {
        spec.name: spec.build_sums(classes, gold, answers)
        for spec in compared
        if spec.build_sums is not None
    }
