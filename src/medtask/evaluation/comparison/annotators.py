"""Agreement of two annotators on the same rows, and of the model with each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medtask.evaluation.comparison.paired import SystemMetrics, compare_pair
from medtask.evaluation.kinds.metrics import build_metric_sums
from medtask.evaluation.kinds.protocols import AgreementMethod, EvaluationKind, get_evaluation_kind
from medtask.evaluation.presentation.formatting import format_value
from medtask.evaluation.presentation.report_rows import cut_text
from medtask.evaluation.statistics.intervals import Metric, ResamplingUnits
from medtask.evaluation.statistics.kappa import estimate_kappa
from medtask.evaluation.statistics.metric_sums import estimate_metric, estimate_proportion_metric
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.kinds import KindName
from medtask.records import list_names

MAX_DISAGREEMENTS = 100  # maximum number of rows in a report
MAX_VALUE_CHARACTERS = 300
NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class AnnotatedRows:
    """Rows with the values of two annotators and of the model, column by column.

    Attributes:
        first: Values of the first annotator, each a valid gold value; None if missing.
        second: Values of the second annotator.
        model: The model's answers; None if missing, which counts as disagreement.
        groups: Group of each row; rows of one group are resampled together. Empty without groups.
        ids: Record ids, for the list of disagreements.
        rows: Row numbers, for the list of disagreements; default: from 1.
        texts: Texts of the rows, for the list of disagreements.
    """

    first: Sequence[Any]
    second: Sequence[Any]
    model: Sequence[Any]
    groups: Sequence[str | None] = ()
    ids: Sequence[str] = ()
    rows: Sequence[int] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PairwiseAgreement:
    """Agreement of two columns.

    Attributes:
        one: Name of the first column.
        other: Name of the second column.
        rows: Number of rows.
        share: Share of rows with equal values, or the mean similarity; see `AgreementMethod`.
        exact: Share of equal sets, for answers that are sets.
        kappa: Cohen's kappa (1960); None if undefined.
        labels: Kappa of each label, for answers that are sets.
        note: Why there is no kappa.
    """

    one: str
    other: str
    rows: int
    share: Metric
    exact: Metric | None = None
    kappa: Metric | None = None
    labels: Mapping[str, Metric | None] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatorDisagreement:
    """One row on which two annotators differ; values are text, ``text`` is truncated."""

    row: int
    record_id: str
    first: str
    second: str
    model: str
    text: str


@dataclass(frozen=True, slots=True)
class AnnotatorAgreement:
    """Agreement of two annotators, and of the model with each and with both where they agree.

    Attributes:
        names: The annotators.
        method: How agreement is measured.
        inter_annotator: Agreement of the annotators.
        model_agreements: Agreement of the model with each annotator.
        consensus: Agreement of the model with both, on the rows where they agree.
        model_differences: By the annotator used as gold: how much better the model agrees with it
            than the other annotator does (below 0: worse), and p.
        single_annotated: Number of rows with one annotator only.
        n_groups: Number of resampling units; see `ResamplingUnits`.
        n_disagreements: Number of rows on which the annotators differ.
        disagreements: The first 100 of them.
    """

    names: tuple[str, str]
    method: AgreementMethod
    inter_annotator: PairwiseAgreement
    model_agreements: tuple[PairwiseAgreement, PairwiseAgreement]
    consensus: PairwiseAgreement | None
    model_differences: Mapping[str, tuple[Metric, float]]
    single_annotated: int
    n_groups: int | None
    n_disagreements: int
    disagreements: tuple[AnnotatorDisagreement, ...]

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text and without values, which may be text."""
        return {
            "readers": list(self.names),
            "rows": self.inter_annotator.rows,
            "lone": self.single_annotated,
            "groups": self.n_groups,
            "ceiling": asdict(self.inter_annotator),
            "model": [asdict(one) for one in self.model_agreements],
            "consensus": asdict(self.consensus) if self.consensus else None,
            "model_minus_other_reader": {
                name: {**asdict(difference), "p": p}
                for name, (difference, p) in self.model_differences.items()
            },
            "disagreements": {
                "rows": self.n_disagreements,
                "first": [{"row": one.row, "id": one.record_id} for one in self.disagreements],
            },
        }


def compare_annotators(
    columns: AnnotatedRows,
    *,
    names: tuple[str, str] = ("A", "B"),
    kind: KindName = "label",
    labels: Sequence[str] = (),
    seed: int = 0,
) -> AnnotatorAgreement | None:
    """Compares two annotators and the model.

    Args:
        columns: The values, row by row.
        names: The annotators' names.
        kind: The kind of question.
        labels: All allowed values, the abstention among them; values outside are added.
        seed: Seed of the bootstraps.

    Returns:
        The agreement, or None if no row has both annotators.
    """
    used = [
        row
        for row, (one, other) in enumerate(zip(columns.first, columns.second, strict=True))
        if one is not None and other is not None
    ]
    if not used:
        return None
    first, second, model = (
        [column[row] for row in used] for column in (columns.first, columns.second, columns.model)
    )
    groups = [columns.groups[row] for row in used] if columns.groups else []
    used_kind = get_evaluation_kind(kind).resolve(first, second, model)
    first, second, model = (
        [used_kind.normalize(value) for value in column] for column in (first, second, model)
    )
    calculator = _AgreementCalculator(
        used_kind, _list_classes(used_kind, labels, (first, second, model)), seed
    )
    differing = [row for row in range(len(used)) if not _is_equal(first[row], second[row])]
    inter_annotator = calculator.compare(names, first, second, groups)
    with_first = calculator.compare(("the model", names[0]), first, model, groups)
    with_second = calculator.compare(("the model", names[1]), second, model, groups)
    assert inter_annotator is not None and with_first is not None and with_second is not None
    return AnnotatorAgreement(
        names=names,
        method=used_kind.agreement,
        inter_annotator=inter_annotator,
        model_agreements=(with_first, with_second),
        consensus=_compare_with_consensus(calculator, (first, model), differing, groups),
        model_differences={
            names[0]: calculator.compare_with_annotator(model, second, first, groups),
            names[1]: calculator.compare_with_annotator(model, first, second, groups),
        },
        single_annotated=sum(
            (one is None) != (other is None)
            for one, other in zip(columns.first, columns.second, strict=True)
        ),
        n_groups=build_resampling_units(groups, len(used)).n_groups,
        n_disagreements=len(differing),
        disagreements=tuple(
            _build_disagreement(columns, used[row], (first[row], second[row], model[row]))
            for row in differing[:MAX_DISAGREEMENTS]
        ),
    )


def _compare_with_consensus(
    calculator: _AgreementCalculator,
    gold_and_model: tuple[Sequence[Any], Sequence[Any]],
    differing: Sequence[int],
    groups: Sequence[str | None],
) -> PairwiseAgreement | None:
    agreed = sorted(set(range(len(gold_and_model[0]))) - set(differing))
    gold, model = ([column[row] for row in agreed] for column in gold_and_model)
    return calculator.compare(
        ("the model", "both annotators"),
        gold,
        model,
        [groups[row] for row in agreed] if groups else [],
    )


def _build_disagreement(
    columns: AnnotatedRows, row: int, values: tuple[Any, Any, Any]
) -> AnnotatorDisagreement:
    first, second, model = (
        NO_ANSWER if value is None else cut_text(format_value(value), MAX_VALUE_CHARACTERS)
        for value in values
    )
    return AnnotatorDisagreement(
        row=columns.rows[row] if columns.rows else row + 1,
        record_id=columns.ids[row] if columns.ids else "",
        first=first,
        second=second,
        model=model,
        text=cut_text(columns.texts[row], MAX_VALUE_CHARACTERS) if columns.texts else "",
    )


class _AgreementCalculator:
    """Computes the agreement of columns of one kind."""

    def __init__(self, kind: EvaluationKind, classes: Sequence[str], seed: int) -> None:
        self._kind, self._classes, self._seed = kind, classes, seed

    def compare(
        self,
        names: tuple[str, str],
        gold: Sequence[Any],
        values: Sequence[Any],
        groups: Sequence[str | None],
    ) -> PairwiseAgreement | None:
        """Agreement of two columns; None without rows."""
        if not gold:
            return None
        method, units = self._kind.agreement, build_resampling_units(groups, len(gold))
        sums = build_metric_sums(self._kind, self._classes, gold, values)
        estimate = estimate_proportion_metric if method.is_proportion else estimate_metric
        share = estimate(sums[method.metric], units, seed=self._seed)
        if method.kappa == "labels":
            return PairwiseAgreement(
                *names,
                len(gold),
                share,
                exact=estimate_proportion_metric(sums["exact_match"], units, seed=self._seed),
                labels=self._estimate_label_kappas(gold, values, units),
            )
        if method.kappa is None:
            return PairwiseAgreement(*names, len(gold), share)
        kappa = estimate_kappa(gold, values, units, seed=self._seed)
        note = "" if kappa else "kappa is not defined: both columns have one and the same value"
        return PairwiseAgreement(*names, len(gold), share, kappa=kappa, note=note)

    def compare_with_annotator(
        self,
        model: Sequence[Any],
        annotator: Sequence[Any],
        gold: Sequence[Any],
        groups: Sequence[str | None],
    ) -> tuple[Metric, float]:
        """Compare the model and one annotator as two systems, with the other annotator as gold."""
        method = self._kind.agreement
        systems = []
        for name, values in (("model", model), ("annotator", annotator)):
            sums = build_metric_sums(self._kind, self._classes, gold, values)
            right = (
                [_is_equal(value, truth) for value, truth in zip(values, gold, strict=True)]
                if method.is_proportion
                else None
            )
            systems.append(SystemMetrics(name, {method.metric: sums[method.metric]}, right))
        pair = compare_pair(systems[0], systems[1], groups, seed=self._seed)
        return pair.headline[1], pair.p

    def _estimate_label_kappas(
        self, first: Sequence[Any], second: Sequence[Any], units: ResamplingUnits
    ) -> dict[str, Metric | None]:
        """Kappa of whether each label applies, for labels in either column."""
        kappas = {}
        for name in self._classes:
            in_first, in_second = (
                [name in (value or ()) for value in column] for column in (first, second)
            )
            if any(in_first) or any(in_second):
                kappas[name] = estimate_kappa(in_first, in_second, units, seed=self._seed)
        return kappas


def _list_classes(
    kind: EvaluationKind, labels: Sequence[str], columns: Sequence[Sequence[Any]]
) -> tuple[str, ...]:
    """The labels, followed by other names that occur."""
    if kind.agreement.kappa is None:
        return tuple(labels)
    names = (name for column in columns for value in column for name in list_names(value))
    return tuple(dict.fromkeys((*labels, *names)))


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal; sets are compared without order."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return set(one) == set(other)
    return bool(one == other)
