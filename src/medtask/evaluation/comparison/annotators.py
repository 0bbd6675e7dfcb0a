"""How well two readers agree who gave gold for the same rows: as far as that goes, gold can tell
how good a model is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medtask.display import capitalise_first, format_row_count, shorten
from medtask.evaluation.comparison.paired import SystemMetrics, compare_pair, format_difference
from medtask.evaluation.kinds.choice import parse_letters
from medtask.evaluation.presentation.blocks import (
    ColumnStyle,
    Heading,
    Paragraph,
    ReportBlock,
    ReportPlot,
    ReportTable,
    TableCell,
)
from medtask.evaluation.presentation.plots import draw_intervals
from medtask.evaluation.presentation.report_rows import cut_text
from medtask.evaluation.report.formatting import format_value
from medtask.evaluation.statistics.intervals import Metric, ResamplingUnits
from medtask.evaluation.statistics.kappa import estimate_kappa
from medtask.evaluation.statistics.metric_sums import (
    MetricSums,
    build_metric_sums,
    estimate_metric,
    estimate_proportion_metric,
)
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.significance import ALPHA, format_p_value
from medtask.kinds import KindName

MAX_DISAGREEMENTS = 100  # disagreements that a report lists
MAX_LABELS_SHOWN = 40  # labels whose kappa a report lists
NO_ANSWER = "no answer"
_METRIC_BY_KIND = {
    "label": "accuracy",
    "labels": "jaccard",
    "choice": "accuracy",
    "answer": "token_f1",
    "fields": "fields_right",
}
_METRIC_TEXT_BY_KIND = {
    "label": "agreement",
    "labels": "mean Jaccard",
    "choice": "agreement",
    "answer": "token F1",
    "fields": "fields that agree",
}


@dataclass(frozen=True, slots=True)
class PairwiseAgreement:
    """How far two columns say the same, on ``rows`` rows.

    ``share``: the share of rows, or the mean likeness of kinds that are more or less alike (see
    _MEASURES). ``exact``: of sets, those that are equal. ``kappa``: Cohen's (1960), which takes off
    the agreement that chance alone would give; None, with the reason in ``note``, where one of the
    two, or both, always say the same, so that chance explains all. ``labels``: kappa of each label,
    of kind ``labels``.
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
    """One row on which two readers differ; values in words. ``text`` is cut short."""

    row: int
    record_id: str
    first: str
    second: str
    model: str
    text: str


@dataclass(frozen=True, slots=True)
class AnnotatorAgreement:
    """Two readers against each other (the ceiling) and the model against each, and against both
    where they agree.

    ``model_differences``: by how much the model agrees less with a reader than the other reader
    does (below 0: less), with its p, by the name of the reader who stands for gold.
    ``single_annotated``: rows that only one reader has read. ``disagreements``: up to 100, in the
    order of the rows, of ``n_disagreements``.
    """

    names: tuple[str, str]
    kind: KindName
    inter_annotator: PairwiseAgreement
    model_agreements: tuple[PairwiseAgreement, PairwiseAgreement]
    consensus: PairwiseAgreement | None
    model_differences: Mapping[str, tuple[Metric, float]]
    single_annotated: int
    n_groups: int | None
    n_disagreements: int
    disagreements: tuple[AnnotatorDisagreement, ...]

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text, and without what was said: answers may be text."""
        return {
            "readers": list(self.names),
            "rows": self.inter_annotator.rows,
            "lone": self.single_annotated,
            "groups": self.n_groups,
            "ceiling": asdict(self.inter_annotator),
            "model": [asdict(one) for one in self.model_agreements],
            "consensus": asdict(self.consensus) if self.consensus else None,
            "model_minus_other_reader": {
                name: {**asdict(gap), "p": p} for name, (gap, p) in self.model_differences.items()
            },
            "disagreements": {
                "rows": self.n_disagreements,
                "first": [{"row": one.row, "id": one.record_id} for one in self.disagreements],
            },
        }

    def format_lines(self) -> list[str]:
        """The ceiling in sentences, for a terminal."""
        first, second = self.names
        what = _METRIC_TEXT_BY_KIND[self.kind]
        each = " and ".join(
            f"with {one.other} in {_format_estimate(one.share)}" for one in self.model_agreements
        )
        summary = (
            f"{first} and {second} agree in {_format_estimate(self.inter_annotator.share)} "
            f"({what}, n = "
            f"{self.inter_annotator.rows:,}); the model agrees {each}."
        )
        sentences = [summary, _describe_kappa(self.inter_annotator)]
        sentences += [
            _describe_difference(name, second if name == first else first, gap, p)
            for name, (gap, p) in self.model_differences.items()
        ]
        if self.consensus:
            both = f"Where both agree ({format_row_count(self.consensus.rows)})"
            sentences.append(
                f"{both}, the model agrees with them in {_format_estimate(self.consensus.share)}."
            )
        if self.single_annotated:
            sentences.append(
                f"{format_row_count(self.single_annotated)} that only one of them has read "
                f"{'are' if self.single_annotated != 1 else 'is'} left out."
            )
        return sentences

    def build_blocks(self) -> list[ReportBlock]:
        """What a report shows."""
        what, compared = (
            _METRIC_TEXT_BY_KIND[self.kind],
            [
                self.inter_annotator,
                *self.model_agreements,
                *([self.consensus] if self.consensus else []),
            ],
        )
        head: list[tuple[str, ColumnStyle]] = [("Who", "l"), (capitalise_first(what), "n")]
        head += [("Equal sets", "n")] if self.kind == "labels" else []
        head += [("Kappa", "n"), ("Rows", "n")]
        drawn = [
            (f"{shorten(one.one, 40)} and {shorten(one.other, 40)}", one.share) for one in compared
        ]
        caption = (
            f"{capitalise_first(what)} with 95 % intervals: the readers with each other first, "
            "which is what a person reaches."
        )
        blocks: list[ReportBlock] = [
            Paragraph(" ".join(self.format_lines())),
            ReportPlot(
                caption, draw_intervals(drawn, f"{capitalise_first(what)} of readers and model")
            ),
            ReportTable(
                "Readers and model", tuple(head), [_build_cells(one, self.kind) for one in compared]
            ),
        ]
        if self.inter_annotator.labels:
            blocks += _build_label_blocks(self.inter_annotator)
        if self.disagreements:
            blocks += _build_disagreement_blocks(self)
        return blocks


def compare_annotators(
    first: Sequence[Any],
    second: Sequence[Any],
    model: Sequence[Any],
    *,
    names: tuple[str, str] = ("A", "B"),
    kind: KindName = "label",
    labels: Sequence[str] = (),
    ids: Sequence[str] = (),
    rows: Sequence[int] = (),
    texts: Sequence[str] = (),
    groups: Sequence[str | None] = (),
    seed: int = 0,
) -> AnnotatorAgreement | None:
    """Two readers' columns and the model's answers, row by row; None where no row was read by both.

    A reader's value is None where there is none, and has to be a truth of the kind; the model's is
    None where it gave no answer, which agrees with nobody. ``labels``: all that can be said, an
    abstention among them; what occurs besides is added. ``ids``, ``rows`` and ``texts`` are for the
    list of disagreements. Rows of one of the ``groups`` are drawn together.
    """
    read = [
        place
        for place, (one, other) in enumerate(zip(first, second, strict=True))
        if one is not None and other is not None
    ]
    if not read:
        return None
    single_annotated = sum(
        (one is None) != (other is None) for one, other in zip(first, second, strict=True)
    )
    one, other, model_values = (
        [column[place] for place in read] for column in (first, second, model)
    )
    shared = [groups[place] for place in read] if groups else []
    if kind == "choice" and any(
        isinstance(value, tuple) for value in (*one, *other, *model_values)
    ):
        kind, (one, other, model_values) = (
            "labels",
            ([parse_letters(value) for value in column] for column in (one, other, model_values)),
        )
    classes = _list_classes(kind, labels, (one, other, model_values))
    differing = [
        place
        for place, (left, right) in enumerate(zip(one, other, strict=True))
        if not _is_equal(left, right)
    ]
    agreed = sorted(set(range(len(read))) - set(differing))
    calculate = _AgreementCalculator(kind, classes, seed)
    both, answers = ([column[place] for place in agreed] for column in (one, model_values))
    consensus = calculate(
        ("the model", "both readers"),
        both,
        answers,
        [shared[place] for place in agreed] if shared else [],
    )

    def describe(place: int) -> AnnotatorDisagreement:
        at, text = read[place], cut_text(texts[read[place]], 300) if texts else ""
        left, right, answer = (
            _format_value(column[place]) for column in (one, other, model_values)
        )
        return AnnotatorDisagreement(
            rows[at] if rows else at + 1, ids[at] if ids else "", left, right, answer, text
        )

    inter_annotator = calculate(names, one, other, shared)
    against = [
        calculate(("the model", name), truth, model_values, shared)
        for name, truth in zip(names, (one, other), strict=True)
    ]
    assert inter_annotator is not None and against[0] is not None and against[1] is not None
    return AnnotatorAgreement(
        names=names,
        kind=kind,
        inter_annotator=inter_annotator,
        model_agreements=(against[0], against[1]),
        consensus=consensus,
        model_differences={
            names[0]: calculate.compare_with_annotator(model_values, other, one, shared),
            names[1]: calculate.compare_with_annotator(model_values, one, other, shared),
        },
        single_annotated=single_annotated,
        n_groups=build_resampling_units(shared, len(read)).n_groups,
        n_disagreements=len(differing),
        disagreements=tuple(describe(place) for place in differing[:MAX_DISAGREEMENTS]),
    )


class _AgreementCalculator:
    """How columns of one kind are held against each other."""

    def __init__(self, kind: KindName, classes: Sequence[str], seed: int) -> None:
        self._kind, self._classes, self._seed = kind, classes, seed

    def __call__(
        self,
        names: tuple[str, str],
        truth: Sequence[Any],
        predicted: Sequence[Any],
        groups: Sequence[str | None],
    ) -> PairwiseAgreement | None:
        if not truth:
            return None
        units, metric_sums = (
            build_resampling_units(groups, len(truth)),
            self._build_metric_sums(truth, predicted),
        )
        share = metric_sums[_METRIC_BY_KIND[self._kind]]
        if self._kind == "labels":
            exact, kappas = (
                estimate_proportion_metric(metric_sums["exact_match"], units, seed=self._seed),
                self._estimate_label_kappas(truth, predicted, units),
            )
            return PairwiseAgreement(
                *names,
                len(truth),
                estimate_metric(share, units, seed=self._seed),
                exact,
                labels=kappas,
            )
        if self._kind not in ("label", "choice"):
            return PairwiseAgreement(
                *names, len(truth), estimate_metric(share, units, seed=self._seed)
            )
        kappa = estimate_kappa(truth, predicted, units, seed=self._seed)
        note = (
            ""
            if kappa
            else "kappa is not defined: both always say the same one thing, as chance would have it"
        )
        return PairwiseAgreement(
            *names,
            len(truth),
            estimate_proportion_metric(share, units, seed=self._seed),
            kappa=kappa,
            note=note,
        )

    def compare_with_annotator(
        self,
        model: Sequence[Any],
        annotator: Sequence[Any],
        gold: Sequence[Any],
        groups: Sequence[str | None],
    ) -> tuple[Metric, float]:
        """The model and a reader as two systems, with the other reader as gold: the difference and
        its p.
        """
        entries = []
        for name, given in (("model", model), ("reader", annotator)):
            weighed = self._build_metric_sums(gold, given)
            measure = _METRIC_BY_KIND[self._kind]
            right = (
                [_is_equal(value, truth) for value, truth in zip(given, gold, strict=True)]
                if measure == "accuracy"
                else None
            )
            entries.append(SystemMetrics(name, {measure: weighed[measure]}, right))
        pair = compare_pair(entries[0], entries[1], groups, seed=self._seed)
        return pair.headline[1], pair.p

    def _build_metric_sums(
        self, truth: Sequence[Any], predicted: Sequence[Any]
    ) -> dict[str, MetricSums]:
        return build_metric_sums(self._kind, self._classes, truth, predicted)

    def _estimate_label_kappas(
        self, first: Sequence[Any], second: Sequence[Any], units: ResamplingUnits
    ) -> dict[str, Metric | None]:
        """By label that either has, each a question of its own: does it apply?"""
        found = {}
        for name in self._classes:
            here, there = (
                [name in (value or ()) for value in column] for column in (first, second)
            )
            if any(here) or any(there):
                found[name] = estimate_kappa(here, there, units, seed=self._seed)
        return found


def _list_classes(
    kind: KindName, labels: Sequence[str], columns: Sequence[Sequence[Any]]
) -> tuple[str, ...]:
    if kind not in ("label", "labels"):
        return tuple(labels)
    values = (value for column in columns for value in column if value is not None)
    names = (name for value in values for name in ((value,) if isinstance(value, str) else value))
    return tuple(dict.fromkeys((*labels, *names)))


def _is_equal(one: Any, other: Any) -> bool:
    """Sets are equal in any order."""
    return (
        set(one) == set(other)
        if isinstance(one, tuple) and isinstance(other, tuple)
        else bool(one == other)
    )


def _format_value(value: Any) -> str:
    return NO_ANSWER if value is None else cut_text(format_value(value), 300)


def _format_estimate(value: Metric) -> str:
    interval = (
        f" ({value.low:.2f}-{value.high:.2f})"
        if value.low is not None and value.high is not None
        else ""
    )
    return f"{value.value:.2f}{interval}"


def _describe_kappa(agreement: PairwiseAgreement) -> str:
    if agreement.kappa:
        return f"Their kappa, which takes chance off, is {_format_estimate(agreement.kappa)}."
    if agreement.labels:
        known = [kappa.value for kappa in agreement.labels.values() if kappa]
        exact = (
            f"Their sets are equal in {_format_estimate(agreement.exact)}"
            if agreement.exact
            else ""
        )
        return (
            f"{exact}; kappa by label is {min(known):.2f} to {max(known):.2f}."
            if known
            else f"{exact}."
        )
    return (
        f"{capitalise_first(agreement.note)}."
        if agreement.note
        else "There is no kappa for this kind of answer."
    )


def _describe_difference(annotator: str, other: str, difference: Metric, p: float) -> str:
    result = f"by {format_difference(difference)}, {format_p_value(p)}"
    if p >= ALPHA:
        return (
            f"Held against {annotator}, the model and {other} show no clear difference ({result})."
        )
    return (
        f"Held against {annotator}, the model is {'better' if difference.value > 0 else 'worse'} "
        "than "
        f"{other}, {result}."
    )


def _build_cells(agreement: PairwiseAgreement, kind: KindName) -> list[TableCell]:
    cells: list[TableCell] = [
        f"{agreement.one} and {agreement.other}",
        (f"{agreement.share.value:.3f}", agreement.share.interval_text),
    ]
    if kind == "labels":
        cells.append(
            (f"{agreement.exact.value:.3f}", agreement.exact.interval_text)
            if agreement.exact
            else "–"
        )
    cells.append(
        (f"{agreement.kappa.value:.3f}", agreement.kappa.interval_text) if agreement.kappa else "–"
    )
    return [*cells, f"{agreement.rows:,}"]


def _build_label_blocks(agreement: PairwiseAgreement) -> list[ReportBlock]:
    lines: list[list[TableCell]] = [
        [name, (f"{kappa.value:.3f}", kappa.interval_text) if kappa else "–"]
        for name, kappa in list(agreement.labels.items())[:MAX_LABELS_SHOWN]
    ]
    caption = (
        f"The first {MAX_LABELS_SHOWN} of {len(agreement.labels):,} labels."
        if len(agreement.labels) > MAX_LABELS_SHOWN
        else ""
    )
    return [
        Heading("Kappa of the readers, label by label"),
        ReportTable("Kappa by label", (("Label", "l"), ("Kappa", "n")), lines, caption),
    ]


def _build_disagreement_blocks(agreement: AnnotatorAgreement) -> list[ReportBlock]:
    who: list[tuple[str, ColumnStyle]] = [
        (shorten(name, 30), "l") for name in (*agreement.names, "The model")
    ]
    head: tuple[tuple[str, ColumnStyle], ...] = (("Row", "v"), *who, ("Text", "w"))
    lines: list[list[TableCell]] = [
        [f"{one.row:,} {one.record_id}".strip(), one.first, one.second, one.model, one.text]
        for one in agreement.disagreements
    ]
    more = (
        f"; the first {MAX_DISAGREEMENTS}" if agreement.n_disagreements > MAX_DISAGREEMENTS else ""
    )
    return [
        Heading("Where the readers differ"),
        Paragraph(
            f"{format_row_count(agreement.n_disagreements)}{more}. A third reader should settle "
            "these before "
            "they count as gold.",
            "quiet",
        ),
        ReportTable("Disagreements", head, lines),
    ]
