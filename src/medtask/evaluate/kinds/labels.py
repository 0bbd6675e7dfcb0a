"""Kind ``labels``: any of the task's labels a row, or none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from medtask.evaluate.blocks import Block, Heading, Table, Text
from medtask.evaluate.intervals import Estimate
from medtask.evaluate.kinds.figures import describe_intervals, tell_figures, warn_of_groups
from medtask.evaluate.kinds.kind import RowGrade, Sample
from medtask.evaluate.kinds.label import LABELS, rank_names, tell_labels, tell_names, tell_scarcity
from medtask.evaluate.sets import SetCounts, SetQuality
from medtask.evaluate.words import count_rows
from medtask.records import Answer, Option, Status, Value


@dataclass(frozen=True, slots=True)
class LabelsShape:
    """``rows`` by label, the most frequent first; ``sizes``: rows by how many labels they have."""

    rows: Mapping[str, int]
    sizes: Mapping[int, int]
    labels: tuple[str, ...]

    @property
    def answered(self) -> int:
        return sum(self.sizes.values())

    @property
    def mean(self) -> float:
        """Labels a row, of the rows with an answer."""
        return sum(self.rows.values()) / max(1, self.answered)

    def to_json(self) -> dict[str, object]:
        sizes = {str(size): rows for size, rows in self.sizes.items()}
        return {
            "labels": dict(self.rows),
            "rows_by_number_of_labels": sizes,
            "mean_number_of_labels": self.mean if self.answered else None,
        }

    def tell(self, manifest: Mapping[str, object]) -> list[Block]:
        if not self.answered:
            return [Text("No row got an answer.")]
        said = self.say()
        return [
            *tell_names(self.rows, self.answered, self.labels),
            Text(f"{said}."),
            *_tell_thresholds(manifest),
        ]

    def say(self) -> str:
        none = self.sizes.get(0, 0)
        return (
            (
                f"{self.mean:.2f} labels a row in the mean; {count_rows(none)} "
                f"{'have' if none != 1 else 'has'} none"
            )
            if self.answered
            else ""
        )


class LabelsShaper:
    """Counts rows by label and by number of labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._rows: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        if isinstance(answer.value, tuple):
            self._rows.update(answer.value)
            self._sizes[len(answer.value)] += 1

    def finish(self) -> LabelsShape:
        return LabelsShape(rank_names(self._rows), dict(sorted(self._sizes.items())), self._labels)


@dataclass(frozen=True, slots=True)
class GradedLabelSets:
    quality: SetQuality
    classes: int

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        return list_set_figures(self.quality)

    @property
    def headlines(self) -> tuple[str, ...]:
        return ("micro_f1", "macro_f1", "exact_match", "jaccard")

    @property
    def right(self) -> Estimate | None:
        return self.quality.exact_answered

    def to_json(self) -> dict[str, object]:
        return {"quality": asdict(self.quality)}

    def tell(self) -> list[str]:
        micro = self.quality.micro_f1
        return [
            *tell_sets(self.quality),
            *([f"All decisions together: micro-F1 {micro}."] if micro else []),
        ]

    def caveats(self) -> list[str]:
        return [
            *tell_scarcity(self.quality.labels, self.classes),
            *warn_of_groups(self.quality.groups),
        ]

    def explain(self) -> str:
        return (
            f"{explain_sets(self.quality)} Differences in micro-F1 are judged by approximate "
            "randomisation (p below 0.05)."
        )

    def detail(self) -> list[Block]:
        return [*tell_figures(self.figures), *tell_labels(self.quality.labels)]


class LabelsGrader:
    """Gold with a name that is no label is no truth: whoever wrote it may have meant one of
    ours.
    """

    def __init__(self, labels: Sequence[str], seed: int) -> None:
        self._labels, self._seed = tuple(labels), seed
        self._index = {name: place for place, name in enumerate(self._labels)}
        self._counts = SetCounts(self._labels)

    def read(self, gold: Value, options: Sequence[Option]) -> tuple[str, ...] | None:
        if not isinstance(gold, tuple) or any(name not in self._index for name in gold):
            return None
        return tuple(sorted(dict.fromkeys(gold), key=self._index.__getitem__))

    def settle(self, status: Status, value: Value | None) -> Value | None:
        return value

    def is_right(self, given: Value | None, truth: Value) -> bool:
        return given is not None and set(given) == set(truth)

    def add(
        self,
        given: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        self._counts.add(tuple(truth), None if given is None else tuple(given), group)
        return RowGrade(self.is_right(given, truth), answer.confidence or 0.0)

    def finish(self, sample: Sample) -> GradedLabelSets | None:
        quality = self._counts.grade(sample.gold, sample.answers, sample.groups, seed=self._seed)
        return GradedLabelSets(quality, len(self._labels)) if quality else None


def list_set_figures(quality: SetQuality) -> dict[str, Estimate | None]:
    """All of them by measure; Hamming loss only where it is known."""
    figures: dict[str, Estimate | None] = {
        "micro_f1": quality.micro_f1,
        "macro_f1": quality.macro_f1,
        "sample_f1": quality.sample_f1,
        "exact_match": quality.exact_match,
        "exact_match_answered": quality.exact_answered,
        "jaccard": quality.jaccard,
    }
    return figures | ({"hamming_loss": quality.hamming_loss} if quality.hamming_loss else {})


def explain_sets(quality: SetQuality) -> str:
    """How list_set_figures were made."""
    return (
        f"{describe_intervals('exact match, precision and recall', 'the others', quality.groups)} "
        "Micro-F1 counts every pair of row and "
        "label, macro-F1 is the mean over the labels that occur in gold, F1 by row the mean over "
        "rows. Jaccard: what gold and answer "
        "share, of all that either has. Hamming loss, of which less is better: the share of "
        "labels, given or not, that are wrong in a "
        "row; all of them where there is no answer."
    )


def tell_sets(quality: SetQuality) -> list[str]:
    """How many answers are exactly gold's, and how many names there are on both sides."""
    exact = quality.exact_match
    right = round(exact.value * exact.n)
    sentences = [
        f"Of {count_rows(exact.n)} with gold, {right:,} have exactly the right set: {exact}."
    ]
    without = exact.n - (quality.exact_answered.n if quality.exact_answered else 0)
    if without:
        sentences.append(
            f"{count_rows(without)} without an answer count as wrong, and as finding nothing."
        )
    if quality.answered_mean is not None:
        sentences.append(
            f"Gold has {quality.gold_mean:.2f} a row in the mean, the answers "
            f"{quality.answered_mean:.2f}."
        )
    return sentences


def _tell_thresholds(manifest: Mapping[str, object]) -> list[Block]:
    """From which probability on a label applied, where the manifest tells."""
    thresholds, fitted = manifest.get("thresholds"), manifest.get("thresholds_fitted")
    if not isinstance(thresholds, Mapping) or not thresholds:
        return []
    lines = [
        (str(name), f"{share:.3f}" if isinstance(share, int | float) else str(share))
        for name, share in thresholds.items()
    ]
    caption = f"The first {LABELS} of {len(lines):,} labels." if len(lines) > LABELS else ""
    sentence = fitted if isinstance(fitted, str) else ""
    told = f"A label applies from this probability on. {sentence}".strip()
    return [
        Heading("Thresholds"),
        Text(told, "quiet small"),
        Table("Thresholds", (("Label", "l"), ("Threshold", "n")), lines[:LABELS], caption),
    ]
