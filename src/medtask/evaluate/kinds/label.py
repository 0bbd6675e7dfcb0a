"""Kind ``label``: one of the task's labels a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medtask.evaluate.blocks import Bar, Bars, Block, Heading, Matrix, MatrixLine, Table, Text
from medtask.evaluate.intervals import Counts, Estimate
from medtask.evaluate.kinds.kind import Judged, Sample
from medtask.evaluate.metrics import LabelQuality, Quality, grade_counts
from medtask.evaluate.plots import shade
from medtask.evaluate.words import count_rows, isolate, percent
from medtask.records import Answer, Option, Status, Value

LABELS = 40  # how many labels a table shows: with 2,000 labels the page must stay readable, and small
FEW_ROWS = 10  # gold rows of a label, with fewer of which its F1 is mostly luck
BOOTSTRAP = "a bootstrap of 1,000 resamples"


@dataclass(frozen=True, slots=True)
class LabelShape:
    """``rows`` by label, the most frequent first. ``labels`` are all that the task has."""

    rows: Mapping[str, int]
    labels: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return dict(self.rows)

    def tell(self, manifest: Mapping[str, object]) -> list[Block]:
        answered = sum(self.rows.values())
        return tell_names(self.rows, answered, self.labels) if answered else [Text("No row got a label.")]

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
    """``confusion`` counts rows by gold and answer, [classes, classes + 1], the last column for "no answer"."""

    quality: Quality
    classes: tuple[str, ...]
    confusion: Counts

    @property
    def accuracy(self) -> Estimate:
        return self.quality.accuracy

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        quality = self.quality
        return {"accuracy": quality.accuracy, "accuracy_answered": quality.accuracy_answered, "macro_f1": quality.macro_f1}

    @property
    def right(self) -> Estimate | None:
        return self.quality.accuracy_answered

    def to_json(self) -> dict[str, object]:
        cells = np.argwhere(self.confusion)
        return {
            "quality": asdict(self.quality),
            "classes": [*self.classes, None],
            # [gold, answer, rows]: the first two are places in "classes", whose last stands for "no answer"
            "confusion": [[truth, given, int(self.confusion[truth, given])] for truth, given in cells.tolist()],
        }

    def tell(self) -> list[str]:
        return tell_accuracy(self.quality, "a label")

    def caveats(self) -> list[str]:
        return tell_scarcity(self.quality.labels, len(self.classes))

    def explain(self) -> str:
        return (
            f"Intervals are 95 %: Wilson’s for accuracy, {BOOTSTRAP} for macro-F1, which is the mean of F1 over the labels that occur "
            "in gold. Differences are judged row by row (McNemar’s exact test, p below 0.05)."
        )

    def detail(self) -> list[Block]:
        return [*tell_confusion(self.confusion, self.classes), *tell_labels(self.quality.labels)]


class LabelGrader:
    """Rows by gold and answer; gold that is no class (no label, and not the abstention) is no truth."""

    def __init__(self, labels: Sequence[str], abstain: str | None, seed: int) -> None:
        self._classes = tuple(labels) if abstain is None else (*labels, abstain)
        self._index = {name: place for place, name in enumerate(self._classes)}
        self._abstain, self._seed = abstain, seed
        self._confusion = np.zeros((len(self._classes), len(self._classes) + 1), dtype=np.int64)

    def read(self, gold: Value, options: Sequence[Option]) -> str | None:
        return gold if isinstance(gold, str) and gold in self._index else None

    def settle(self, status: Status, value: Value | None) -> Value | None:
        return self._abstain if status is Status.ABSTAINED else value

    def is_right(self, given: Value | None, truth: Value) -> bool:
        return given == truth

    def add(self, given: Value | None, truth: Value, answer: Answer, group: str | None = None) -> Judged:
        column = self._index[given] if isinstance(given, str) else len(self._classes)
        self._confusion[self._index[str(truth)], column] += 1
        return Judged(self.is_right(given, truth), answer.confidence or 0.0)

    def finish(self, sample: Sample) -> GradedLabels | None:
        quality = grade_counts(self._confusion, self._classes, abstain=self._abstain, seed=self._seed)
        return GradedLabels(quality, self._classes, self._confusion) if quality else None


def rank_names(rows: Mapping[str, int]) -> dict[str, int]:
    """The most frequent name first, equal ones in alphabetical order."""
    return dict(sorted(rows.items(), key=lambda item: (-item[1], item[0])))


def tell_names(rows: Mapping[str, int], answered: int, names: Sequence[str]) -> list[Block]:
    """A bar for each label, by the share of the answered rows that have it; which of ``names`` none has."""
    peak = max(rows.values(), default=1)
    lines = [Bar(name, n / peak, (f"{n:,}", percent(n / answered))) for name, n in rows.items()]
    blocks: list[Block] = [Bars(("Label", "Rows", "Share"), tuple(lines[:LABELS]))]
    if len(lines) > LABELS:
        others = sum(list(rows.values())[LABELS:])
        blocks.append(Text(f"The {LABELS} most frequent labels; {len(lines) - LABELS:,} more share {others:,} rows.", "quiet"))
    unused = [name for name in names if not rows.get(name)]
    if unused:
        listed = f" ({', '.join(map(isolate, unused))})" if len(unused) <= LABELS else ""
        blocks.append(Text(f"Never given: {len(unused):,} of {len(names):,} labels{listed}.", "quiet"))
    return blocks


def tell_accuracy(quality: Quality, answer: str) -> list[str]:
    accuracy, answered = quality.accuracy, quality.accuracy_answered
    without = accuracy.n - (answered.n if answered else 0)
    right = round(accuracy.value * accuracy.n)
    sentences = [f"Of {count_rows(accuracy.n)} with gold, {right:,} have the right answer: accuracy {accuracy}."]
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
    scarce = f"{never:,} never and {few:,} in fewer than {FEW_ROWS} rows"
    return [f"Of {classes:,} possible answers, gold has {scarce}: macro-F1 says little of these."]


def tell_confusion(counts: Counts, classes: Sequence[str]) -> list[Block]:
    """The confusion matrix of the most frequent labels, in the task's order; the others share one column."""
    used = counts.sum(axis=1) + counts[:, :-1].sum(axis=0)
    ranked = np.argsort(-used, kind="stable")[: np.count_nonzero(used)]
    kept, others = np.sort(ranked[:LABELS]), ranked[LABELS:]
    lines = []
    for place, truth in enumerate(kept.tolist()):
        row = counts[truth]
        shown = [*row[kept].tolist(), *([int(row[others].sum())] if len(others) else []), int(row[-1])]
        total = max(1, sum(shown))
        tones = ["blue" if column == place else "orange" for column in range(len(shown) - 1)] + ["grey"]
        cells = tuple((rows, shade(rows / total, tone)) for rows, tone in zip(shown, tones, strict=True))
        lines.append(MatrixLine(classes[truth], cells))
    only = f"; the {LABELS} most frequent labels only" if len(others) else ""
    told = f"Rows: what gold says. Columns: what was answered, by the same numbers{only}."
    return [Heading("Gold against answers"), Text(told, "quiet small"), Matrix(tuple(lines), len(others))]


def tell_labels(labels: Sequence[LabelQuality]) -> list[Block]:
    """Precision, recall and F1 by label, those with most gold rows first."""
    ranked = sorted(labels, key=lambda one: -one.gold)
    lines = [
        (
            one.label,
            f"{one.gold:,}",
            f"{one.answered:,}",
            f"{one.precision:.3f}" if one.answered else "–",
            f"{one.recall:.3f}" if one.gold else "–",
            f"{one.f1:.3f}" if one.gold else "–",
        )
        for one in ranked[:LABELS]
    ]
    caption = f"The {LABELS} labels with most gold rows; report.json has all {len(ranked):,}." if len(ranked) > LABELS else ""
    figures = ("In gold", "Answered", "Precision", "Recall", "F1")
    return [Heading("Label by label"), Table("Quality by label", (("Label", "l"), *((title, "n") for title in figures)), lines, caption)]
