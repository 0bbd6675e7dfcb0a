"""Metrics of rows that are given as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from medtask.evaluation.statistics.classification import (
    ClassificationMetrics,
    compute_metrics_from_cells,
)
from medtask.evaluation.statistics.extraction import ExtractionAccumulator, ExtractionMetrics
from medtask.evaluation.statistics.multilabel import (
    LabelNames,
    MultiLabelMetrics,
    MultiLabelMetricsAccumulator,
)
from medtask.evaluation.statistics.resampling import CellCounter


def compute_classification_metrics(
    gold: Sequence[str],
    answers: Sequence[str | None],
    classes: Sequence[str],
    *,
    groups: Sequence[str | None] = (),
    abstain: str | None = None,
    seed: int = 0,
) -> ClassificationMetrics | None:
    """Computes the metrics of these rows; an answer that is not a class counts as none.

    Raises:
        KeyError: If a gold value is not a class.
    """
    counter = CellCounter()
    places = _encode_pairs(gold, answers, classes)
    for place, group in zip(places, groups or [None] * len(places), strict=True):
        counter.add(place, group)
    return compute_metrics_from_cells(*counter.finish(), classes, abstain=abstain, seed=seed)


def compute_multilabel_metrics(
    classes: Sequence[str],
    gold: Sequence[LabelNames],
    answers: Sequence[LabelNames | None],
    groups: Sequence[str | None] = (),
    *,
    n_options: Sequence[int] | None = None,
    seed: int = 0,
) -> MultiLabelMetrics | None:
    """Computes the metrics of these rows; see `MultiLabelMetricsAccumulator.add`."""
    accumulator = MultiLabelMetricsAccumulator(classes)
    for row, (truth, given) in enumerate(zip(gold, answers, strict=True)):
        accumulator.add(
            truth,
            given,
            groups[row] if groups else None,
            n_options=n_options[row] if n_options else None,
        )
    return accumulator.compute_metrics(gold, answers, groups, seed=seed)


def compute_extraction_metrics(
    gold: Sequence[Mapping[str, object]],
    answers: Iterable[Mapping[str, object] | None],
    groups: Sequence[str | None] = (),
    *,
    seed: int = 0,
) -> ExtractionMetrics | None:
    """Computes the metrics of these rows."""
    accumulator = ExtractionAccumulator()
    for truth, given, group in zip(gold, answers, groups or [None] * len(gold), strict=True):
        accumulator.add(truth, given, group)
    return accumulator.compute_metrics(seed=seed)


def _encode_pairs(
    gold: Sequence[str], answers: Sequence[str | None], classes: Sequence[str]
) -> list[tuple[int, int]]:
    index, none = {name: place for place, name in enumerate(classes)}, len(classes)
    return [
        (index[truth], none if given is None else index.get(given, none))
        for truth, given in zip(gold, answers, strict=True)
    ]
