"""Splits rows into training and validation rows that share no text and no group.

Every label is in both parts if possible. scikit-learn's StratifiedGroupKFold supports one label per
row and shares of 1/k, and takes minutes for 100,000 groups. This module uses the greedy idea of
iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label
data", 2011) on clusters of rows that must stay together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_row_count, quote
from medtask.errors import InputError
from medtask.near_duplicates import IndexArray, cluster_near_duplicates, merge_clusters
from medtask.runs.gold_table import SELECTION_COLUMN, find_chosen_rows
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import normalize_record_group
from medtask.training.leakage import QuestionIndex
from medtask.training.training_example import TrainingExample, list_labels, shuffle_by_hash

RowLabels = Sequence[tuple[str, ...]]
# With fewer validation rows that were not chosen by their answers, others are validated on too.
_MIN_UNCHOSEN_ROWS = 10


@dataclass(frozen=True, slots=True)
class SplitReport:
    """How rows were split.

    Attributes:
        has_own_table: Whether the validation rows are from a separate table.
        share: The share of validation rows.
        seed: The seed that chose them.
        near_duplicate_rows: Rows kept together with their near duplicates; None if near
            duplicates had to be split.
        chosen_rows: Rows with gold because of their answers, such as doubtful ones.
        validates_chosen: Whether validation rows are among them, because there are too few others.
    """

    has_own_table: bool
    share: float
    seed: int
    near_duplicate_rows: int | None = 0
    chosen_rows: int = 0
    validates_chosen: bool = False

    def describe(self) -> str:
        """A phrase on how the validation rows were chosen."""
        if self.has_own_table:
            return "the validation rows come from a separate table" + self.describe_chosen()
        near_duplicates = (
            f"; {self.near_duplicate_rows:,} rows stay together with their near duplicates"
            if self.near_duplicate_rows
            else ""
        )
        return (
            f"{self.share:.3g} of the rows are set aside, stratified by label, with seed "
            f"{self.seed}; groups and equal texts stay together{near_duplicates}"
            f"{self.describe_chosen()}"
        )

    def describe_chosen(self) -> str:
        """What is done with rows that were chosen by their answers, to add to a phrase."""
        if not self.chosen_rows:
            return ""
        rows = f"{format_row_count(self.chosen_rows)} chosen by their answers"
        if self.validates_chosen:
            return f"; {rows} may be among them, because too few others are left"
        return f"; without {rows}" + ("" if self.has_own_table else ", which are for training only")

    def list_notes(self) -> Iterator[str]:
        """Notes for the user before training."""
        if self.near_duplicate_rows is None:
            yield (
                "too many rows are near duplicates of one another to keep them together: "
                "validation metrics will be too good"
            )
        rows = f"{format_row_count(self.chosen_rows)} with gold because of the answer"
        rows += f" ({SELECTION_COLUMN} is review or audit)"
        if self.validates_chosen:
            yield (
                f"{rows}, and too few others to validate on: metrics are those of such rows, "
                "which do not represent the table (--validation names a table of random rows)"
            )
        elif self.chosen_rows:
            use = "left out of the validation" if self.has_own_table else "used for training only"
            yield f"{rows}: {use}, because such rows do not represent the table"

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.has_own_table,
            "share": None if self.has_own_table else self.share,
            "seed": self.seed,
            "joined": self.near_duplicate_rows,
            "chosen": self.chosen_rows,
        }


@dataclass(slots=True)
class _RowCluster:
    rows: list[int] = field(default_factory=list)
    label_counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows)


def merge_equal_rows(clusters: IndexArray, keys: Iterable[Hashable]) -> IndexArray:
    """Merge clusters with rows of the same key. Rows with the key None are not merged."""
    seen: dict[Hashable, int] = {}
    pairs = [
        (seen.setdefault(key, index), index) for index, key in enumerate(keys) if key is not None
    ]
    first, second = (
        (np.array(ends, dtype=np.int64) for ends in zip(*pairs, strict=True))
        if pairs
        else (np.zeros(0, np.int64),) * 2
    )
    return merge_clusters(clusters, first, second)


def select_validation_rows(
    keys: Sequence[bytes],
    clusters: IndexArray,
    labels: RowLabels,
    share: float,
    seed: int,
    training_only: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_] | None:
    """Choose validation rows: a mask [rows], or None if no split is possible.

    The share is applied to each label and rounded (for a tenth: one row of six, none of five), as
    far as clusters allow, up to half of its rows. If labels are too rare for that, rows of the
    rarest labels are chosen first until the share of all rows is reached.

    Args:
        keys: Identify rows independently of their order.
        clusters: [rows]; rows with the same number stay together.
        labels: The labels of each row.
        share: The share of validation rows.
        seed: Seed of the order in which clusters are drawn.
        training_only: [rows]; rows that are not chosen, nor others of their clusters.
    """
    draw = _StratifiedSampler(keys, clusters, labels, share, seed)
    if training_only is not None:
        draw.exclude(training_only)
    draw.fill_label_targets()
    draw.fill_row_target()
    if not draw.selected_rows:
        draw.take_smallest_cluster()
    mask = np.zeros(len(keys), dtype=bool)
    mask[draw.selected_rows] = True
    return mask if draw.selected_rows else None


class _StratifiedSampler:
    """Greedy selection of clusters in random order; a selected cluster stays selected."""

    def __init__(
        self,
        keys: Sequence[bytes],
        clusters: IndexArray,
        labels: RowLabels,
        share: float,
        seed: int,
    ) -> None:
        self.remaining = dict(enumerate(_gather_clusters(keys, clusters, labels, seed)))
        self.label_counts = Counter(name for names in labels for name in names)
        self.label_targets = {name: share * count for name, count in self.label_counts.items()}
        self.row_target = max(1.0, share * len(keys))
        self.selected_labels: Counter[str] = Counter()
        self.selected_rows: list[int] = []

    def exclude(self, rows: NDArray[np.bool_]) -> None:
        """Never select the clusters of these rows."""
        self.remaining = {
            number: cluster
            for number, cluster in self.remaining.items()
            if not rows[cluster.rows].any()
        }

    def fill_label_targets(self) -> None:
        """Select clusters by label, the rarest first, while counts get closer to the targets."""
        by_label: dict[str, list[int]] = defaultdict(list)
        for number, cluster in self.remaining.items():
            for name in cluster.label_counts:
                by_label[name].append(number)
        for name in sorted(by_label, key=lambda name: (self.label_counts[name], name)):
            for number in by_label[name]:
                if 2 * (self.label_targets[name] - self.selected_labels[name]) <= 1:
                    break
                if (
                    number in self.remaining
                    and self._compute_gain(self.remaining[number]) > 0
                    and self._can_take(self.remaining[number])
                ):
                    self._take_cluster(number)

    def fill_row_target(self) -> None:
        """Select the clusters with the largest gain until the share of all rows is reached."""
        if 2 * (self.row_target - len(self.selected_rows)) <= 1:
            return
        gains = {number: self._compute_gain(cluster) for number, cluster in self.remaining.items()}
        for number in sorted(gains, key=lambda number: -gains[number]):
            cluster = self.remaining[number]
            if 2 * (self.row_target - len(self.selected_rows)) > len(
                cluster.rows
            ) and self._can_take(cluster):
                self._take_cluster(number)

    def take_smallest_cluster(self) -> None:
        """Select the smallest allowed cluster, even if it exceeds the share."""
        fitting = [number for number, cluster in self.remaining.items() if self._can_take(cluster)]
        if fitting:
            self._take_cluster(min(fitting, key=lambda number: len(self.remaining[number].rows)))

    def _compute_gain(self, cluster: _RowCluster) -> float:
        """The relative decrease of the squared distances of label counts from their targets."""
        needs = (
            (count, self.label_targets[name] - self.selected_labels[name], self.label_targets[name])
            for name, count in cluster.label_counts.items()
        )
        return sum(count * (2 * need - count) / target for count, need, target in needs)

    def _can_take(self, cluster: _RowCluster) -> bool:
        return all(
            2 * (self.selected_labels[name] + count) <= self.label_counts[name]
            for name, count in cluster.label_counts.items()
        )

    def _take_cluster(self, number: int) -> None:
        cluster = self.remaining.pop(number)
        self.selected_rows += cluster.rows
        self.selected_labels.update(cluster.label_counts)


def split_questions(
    task: Task, question_index: QuestionIndex, share: float, seed: int
) -> tuple[NDArray[np.bool_], SplitReport]:
    """Choose validation questions: a mask [questions], and how they were chosen.

    Groups and equal questions are never split. Near duplicates are not split either, unless less
    than half the share could be reached. Rows that were chosen by their answers are not validated
    on, unless too few others could be: they are harder than the rows of a run.

    Raises:
        InputError: No split is possible.
    """
    examples, keys = question_index.examples, question_index.keys
    labels = [list_labels(task, example.gold) for example in examples]
    bound, near_duplicates, joined = _cluster_questions(question_index)
    chosen = np.zeros(len(examples), dtype=bool)
    chosen[[row - 1 for row in find_chosen_rows(one.record.fields for one in examples)]] = True
    half = share * len(keys) / 2
    least = min(half, _MIN_UNCHOSEN_ROWS)
    attempts: list[tuple[IndexArray, NDArray[np.bool_] | None, float]]
    attempts = [(joined, None, half), (bound, None, 0)]
    if chosen.any():
        attempts = [(joined, chosen, least), (bound, chosen, least), *attempts]
    for clusters, training_only, least_rows in attempts:
        mask = select_validation_rows(keys, clusters, labels, share, seed, training_only)
        if mask is not None and mask.sum() >= least_rows:
            near = _count_near_duplicates(near_duplicates) if clusters is joined else None
            is_biased = training_only is None and bool(mask[chosen].any())
            return mask, SplitReport(False, share, seed, near, int(chosen.sum()), is_biased)
    raise InputError(
        f"the {len(keys):,} training rows cannot be split: {_explain_failed_split(task, examples)}",
        fix="give the validation rows in a separate table: --validation TABLE",
    )


def split_folds(
    task: Task, question_index: QuestionIndex, folds: int, seed: int
) -> tuple[NDArray[np.int64], bool]:
    """Assign questions to folds, numbered from 0 [questions].

    Groups and equal questions are never split, and labels are spread evenly as far as that allows.

    Returns:
        The folds, and whether near duplicates are in one fold: not if most rows are near duplicates
        of one another.

    Raises:
        InputError: There are too few rows that may be apart.
    """
    keys = question_index.keys
    # Rows without gold are answered too.
    labels = [list_labels(task, example.record.gold) for example in question_index.examples]
    bound, _, together = _cluster_questions(question_index)
    joined = _gather_clusters(keys, together, labels, seed)
    keeps_near_duplicates = len(joined) >= folds and 2 * max(map(len, joined)) <= len(keys)
    clusters = joined if keeps_near_duplicates else _gather_clusters(keys, bound, labels, seed)
    if len(clusters) < folds:
        raise InputError(
            f"the {len(keys):,} rows cannot be divided into {folds} folds: they are only "
            f"{len(clusters):,} groups of rows with one group or one text",
            fix="lower --folds",
        )
    label_counts = Counter(name for names in labels for name in names)
    found = np.zeros(len(keys), dtype=np.int64)
    filled = [_RowCluster() for _ in range(folds)]

    def rate(fold: int, cluster: _RowCluster) -> tuple[float, int]:
        """How much of the cluster's labels and how many rows a fold has."""
        present = (
            count * filled[fold].label_counts[name] / label_counts[name]
            for name, count in cluster.label_counts.items()
        )
        return sum(present), len(filled[fold])

    # Rare labels first, because later clusters can still even out the numbers of rows.
    for cluster in sorted(
        clusters, key=lambda one: (min(label_counts[name] for name in one.label_counts), -len(one))
    ):
        best = min(range(folds), key=lambda fold: rate(fold, cluster))
        found[cluster.rows] = best
        filled[best].rows += cluster.rows
        filled[best].label_counts.update(cluster.label_counts)
    return found, keeps_near_duplicates


def _gather_clusters(
    keys: Sequence[bytes], clusters: IndexArray, labels: RowLabels, seed: int
) -> list[_RowCluster]:
    """The clusters in a random order that does not depend on the order of rows."""
    members: dict[int, _RowCluster] = defaultdict(_RowCluster)
    numbers = clusters.tolist()
    for index in shuffle_by_hash(keys, seed):
        cluster = members[numbers[index]]
        cluster.rows.append(index)
        cluster.label_counts.update(labels[index])
    return list(members.values())


def _cluster_questions(question_index: QuestionIndex) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Clusters of equal questions and of rows of one group, clusters of near duplicates, and both
    merged.
    """
    keys = question_index.keys
    groups = [normalize_record_group(example.record) for example in question_index.examples]
    bound = merge_equal_rows(merge_equal_rows(np.arange(len(keys)), keys), groups)
    near_duplicates = cluster_near_duplicates(question_index.sketches)
    return bound, near_duplicates, merge_equal_rows(bound, near_duplicates.tolist())


def _count_near_duplicates(clusters: IndexArray) -> int:
    """The number of rows that are near duplicates of others."""
    _, sizes = np.unique(clusters, return_counts=True)
    return int(sizes[sizes > 1].sum())


def _explain_failed_split(task: Task, examples: Sequence[TrainingExample]) -> str:
    groups = {normalize_record_group(example.record) for example in examples}
    if task.group_column and len(groups) < len(examples):
        return (
            f"they belong to {len(groups):,} group{'s' * (len(groups) != 1)} of the column "
            f"{quote(task.group_column)}, too few to divide"
        )
    return "no label has enough rows"
