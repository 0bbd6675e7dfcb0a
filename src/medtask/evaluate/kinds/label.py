"""Kind ``label``: one of the task's labels a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medtask.evaluate.blocks import (
    Align,
    Bar,
    Bars,
    Block,
    Heading,
    Matrix,
    MatrixLine,
    Table,
    Text,
)
from medtask.evaluate.intervals import Counts, Estimate, Units
from medtask.evaluate.kinds.figures import describe_intervals, tell_figures, warn_of_groups
from medtask.evaluate.kinds.kind import RowGrade, Sample
from medtask.evaluate.metrics import NOT_IN_TOPS, TOPS, LabelQuality, Quality, grade_cells
from medtask.evaluate.plots import shade
from medtask.evaluate.tally import Tally
from medtask.evaluate.words import capital, count_rows, isolate, percent
from medtask.records import Answer, Option, Status, Value, settle_value

LABELS = (
    40  # how many labels a table shows: with 2,000 labels the page must stay readable, and small
)
FEW_ROWS = 10  # gold rows of a label, with fewer of which its F1 is mostly luck


@dataclass(frozen=True, slots=True)
class LabelShape:
    """``rows`` by label, the most frequent first. ``labels`` are all that the task has."""

    rows: Mapping[str, int]
    labels: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return dict(self.rows)

    def tell(self, manifest: Mapping[str, object]) -> list[Block]:
        answered = sum(self.rows.values())
        return (
            tell_names(self.rows, answered, self.labels)
            if answered
            else [Text("No row got a label.")]
        )

    def say(self) -> None:
        return None


class LabelShaper:
    """Counts rows by label."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._rows: Counter[str] = Counter()

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if isinstance(answer.value, str):
            self._rows[answer.value] += 1

    def finish(self) -> LabelShape:
        return LabelShape(rank_names(self._rows), self._labels)


@dataclass(frozen=True, slots=True, eq=False)
class GradedLabels:
    """``confusion`` counts rows by gold and answer, [classes, classes + 1], the last column for "no
    answer".
    """

    quality: Quality
    classes: tuple[str, ...]
    confusion: Counts

    @property
    def accuracy(self) -> Estimate:
        return self.quality.accuracy

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        return list_figures(self.quality)

    @property
    def headlines(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1")

    @property
    def right(self) -> Estimate | None:
        return self.quality.accuracy_answered

    def to_json(self) -> dict[str, object]:
        cells = np.argwhere(self.confusion)
        return {
            "quality": asdict(self.quality),
            "classes": [*self.classes, None],
            # [gold, answer, rows]: the first two are places in "classes", whose last stands for "no
            # answer"
            "confusion": [
                [truth, given, int(self.confusion[truth, given])] for truth, given in cells.tolist()
            ],
        }

    def tell(self) -> list[str]:
        return tell_accuracy(self.quality, "a label")

    def caveats(self) -> list[str]:
        return [
            *tell_scarcity(self.quality.labels, len(self.classes)),
            *warn_of_groups(self.quality.groups),
        ]

    def explain(self) -> str:
        return (
            f"{explain_figures(self.quality)} Differences are judged row by row (McNemar’s "
            "exact test, p below 0.05)."
        )

    def detail(self) -> list[Block]:
        return [
            *tell_figures(self.figures),
            *tell_confusion(self.confusion, self.classes),
            *tell_labels(self.quality.labels),
        ]


class LabelGrader:
    """Rows by gold and answer; gold that is no class (no label, and not the abstention) is no
    truth.
    """

    def __init__(self, labels: Sequence[str], abstain: str | None, seed: int) -> None:
        self._classes = tuple(labels) if abstain is None else (*labels, abstain)
        self._index = {name: place for place, name in enumerate(self._classes)}
        self._abstain, self._seed = abstain, seed
        self._tally = Tally()  # of gold, answer, and which of TOPS gold is among
        # With k labels or fewer, the top k say nothing.
        self._tops = tuple(size for size in TOPS if size < len(labels))
        self._scored = False

    def read(self, gold: Value, options: Sequence[Option]) -> str | None:
        return gold if isinstance(gold, str) and gold in self._index else None

    def settle(self, status: Status, value: Value | None) -> Value | None:
        return settle_value(status, value, self._abstain)

    def is_right(self, given: Value | None, truth: Value) -> bool:
        return given == truth

    def add(
        self,
        given: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        column = self._index[given] if isinstance(given, str) else len(self._classes)
        top = (
            place_in_tops(str(truth), answer.probabilities, self._index)
            if self._tops
            else NOT_IN_TOPS
        )
        self._scored |= bool(answer.probabilities)
        self._tally.add((self._index[str(truth)], column, top), group)
        return RowGrade(self.is_right(given, truth), answer.confidence or 0.0)

    def finish(self, sample: Sample) -> GradedLabels | None:
        cells, units = self._tally.finish()
        tops = self._tops if self._scored else ()
        quality = grade_cells(
            cells, units, self._classes, abstain=self._abstain, tops=tops, seed=self._seed
        )
        return (
            GradedLabels(quality, self._classes, count_cells(cells, units, len(self._classes)))
            if quality
            else None
        )


def place_in_tops(truth: str, shares: Mapping[str, float] | None, order: Mapping[str, int]) -> int:
    """The place in TOPS of the first that has the truth among its likeliest outcomes; NOT_IN_TOPS
    where none has, and of a row without probabilities. Between equally likely ones the earlier in
    ``order`` is ahead, as it is when one is chosen.
    """
    share = shares.get(truth) if shares else None
    if shares is None or share is None or share != share:  # NaN is likelier than nothing
        return NOT_IN_TOPS
    ahead = sum(map(share.__lt__, shares.values()))
    if ahead < TOPS[-1]:
        last = len(order)
        ahead += sum(
            other == share and order.get(name, last) < order.get(truth, last)
            for name, other in shares.items()
        )
    return next((place for place, size in enumerate(TOPS) if ahead < size), NOT_IN_TOPS)


def count_cells(cells: Counts, units: Units, classes: int) -> Counts:
    """Rows by gold and answer, [classes, classes + 1], of cells that begin with both."""
    counts = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), units.count_rows())
    return counts


def list_figures(quality: Quality) -> dict[str, Estimate | None]:
    """All of them by measure; the tops only where they were asked."""
    figures: dict[str, Estimate | None] = {
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


def explain_figures(quality: Quality) -> str:
    """How list_figures were made."""
    shares = "accuracy, precision, recall and what is in the top k"
    top = (
        (
            " Gold is in the top k where it is among the k likeliest; a row without "
            "probabilities is "
            "not."
        )
        if quality.top_3 or quality.top_5
        else ""
    )
    return (
        f"{describe_intervals(shares, 'the others', quality.groups)} Macro-F1 is the mean of F1 "
        "over the labels that occur in gold, "
        "weighted F1 the same by how often they do, balanced accuracy the mean of their recall. "
        "Cohen’s kappa and Matthews "
        "correlation are 0 where answers agree with gold as often as chance would, 1 where "
        "always; no answer counts as one of its "
        f"own.{top}"
    )


def rank_names(rows: Mapping[str, int]) -> dict[str, int]:
    """The most frequent name first, equal ones in alphabetical order."""
    return dict(sorted(rows.items(), key=lambda item: (-item[1], item[0])))


def tell_names(rows: Mapping[str, int], answered: int, names: Sequence[str]) -> list[Block]:
    """A bar for each label, by the share of the answered rows that have it; which of ``names`` none
    has.
    """
    peak = max(rows.values(), default=1)
    lines = [Bar(name, n / peak, (f"{n:,}", percent(n / answered))) for name, n in rows.items()]
    blocks: list[Block] = [Bars(("Label", "Rows", "Share"), tuple(lines[:LABELS]))]
    if len(lines) > LABELS:
        others = sum(list(rows.values())[LABELS:])
        blocks.append(
            Text(
                f"The {LABELS} most frequent labels; {len(lines) - LABELS:,} more share "
                f"{others:,} rows.",
                "quiet",
            )
        )
    unused = [name for name in names if not rows.get(name)]
    if unused:
        listed = f" ({', '.join(map(isolate, unused))})" if len(unused) <= LABELS else ""
        blocks.append(
            Text(f"Never given: {len(unused):,} of {len(names):,} labels{listed}.", "quiet")
        )
    return blocks


def tell_accuracy(quality: Quality, answer: str) -> list[str]:
    accuracy, answered = quality.accuracy, quality.accuracy_answered
    without = accuracy.n - (answered.n if answered else 0)
    right = round(accuracy.value * accuracy.n)
    sentences = [
        (
            f"Of {count_rows(accuracy.n)} with gold, {right:,} have the right answer: accuracy "
            f"{accuracy}."
        )
    ]
    if without:
        agreed = right - (round(answered.value * answered.n) if answered else 0)
        but = f", but for {agreed:,} where gold abstains too" if agreed else ""
        sentences.append(f"{count_rows(without)} without {answer} count as wrong{but}.")
    if without and answered:
        sentences.append(f"Among the {answered.n:,} that got {answer}, accuracy is {answered}.")
    return sentences


def tell_scarcity(labels: Sequence[LabelQuality], classes: int) -> list[str]:
    never = classes - sum(one.gold > 0 for one in labels)
    few = sum(0 < one.gold < FEW_ROWS for one in labels)
    if not never and not few:
        return []
    scarce = [f"{never:,} never"] * bool(never) + [f"{few:,} in fewer than {FEW_ROWS} rows"] * bool(
        few
    )
    those = "it" if never + few == 1 else "these"
    return [
        (
            f"Of {classes:,} possible answers, gold has {' and '.join(scarce)}: macro-F1 says "
            "little "
            f"of {those}."
        )
    ]


def tell_confusion(counts: Counts, classes: Sequence[str]) -> list[Block]:
    """The confusion matrix of the most frequent labels, in the task's order; the others share one
    column.
    """
    used = counts.sum(axis=1) + counts[:, :-1].sum(axis=0)
    ranked = np.argsort(-used, kind="stable")[: np.count_nonzero(used)]
    kept, others = np.sort(ranked[:LABELS]), ranked[LABELS:]
    lines = []
    for place, truth in enumerate(kept.tolist()):
        row = counts[truth]
        shown = [
            *row[kept].tolist(),
            *([int(row[others].sum())] if len(others) else []),
            int(row[-1]),
        ]
        total = max(1, sum(shown))
        tones = ["blue" if column == place else "orange" for column in range(len(shown) - 1)] + [
            "grey"
        ]
        cells = tuple(
            (rows, shade(rows / total, tone)) for rows, tone in zip(shown, tones, strict=True)
        )
        lines.append(MatrixLine(classes[truth], cells))
    only = f"; the {LABELS} most frequent labels only" if len(others) else ""
    told = f"Rows: what gold says. Columns: what was answered, by the same numbers{only}."
    return [
        Heading("Gold against answers"),
        Text(told, "quiet small"),
        Matrix(tuple(lines), len(others)),
    ]


def tell_labels(labels: Sequence[LabelQuality], name: str = "label") -> list[Block]:
    """Precision, recall and F1 by label (or what else they are: ``name``), those with most gold
    rows first.
    """
    ranked = sorted(labels, key=lambda one: -one.gold)
    lines = [
        (
            one.label,
            f"{one.gold:,}",
            f"{one.answered:,}",
            *(
                (f"{figure.value:.3f}", figure.interval) if figure else "–"
                for figure in (one.precision, one.recall, one.f1)
            ),
        )
        for one in ranked[:LABELS]
    ]
    caption = (
        f"The {LABELS} {name}s with most gold rows; report.json has all {len(ranked):,}."
        if len(ranked) > LABELS
        else ""
    )
    figures = ("In gold", "Answered", "Precision", "Recall", "F1")
    head: list[tuple[str, Align]] = [(capital(name), "l"), *((title, "n") for title in figures)]
    bars = tuple(
        Bar(one.label, one.f1.value, (f"{one.f1.value:.3f}", one.f1.interval))
        for one in ranked[:LABELS]
        if one.f1
    )
    return [
        Heading(f"{capital(name)} by {name}"),
        *([Bars((capital(name), "F1", "95 %"), bars)] if bars else []),
        Table(f"Quality by {name}", tuple(head), lines, caption),
    ]
