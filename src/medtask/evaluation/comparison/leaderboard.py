"""A leaderboard of systems of any family: quality, speed, memory, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from medtask.evaluation.baselines.context import BaselineSettings
from medtask.evaluation.baselines.untrained import LabelDefinitions
from medtask.evaluation.comparison.aligned_rows import ComparisonRows, System
from medtask.evaluation.comparison.baselines import (
    DEFAULT_SETTINGS,
    run_baselines_with_answers,
)
from medtask.evaluation.comparison.paired import (
    PairedComparison,
    SystemMetrics,
    compare_pairs,
)
from medtask.evaluation.kinds.metrics import build_metric_sums
from medtask.evaluation.kinds.protocols import (
    MAX_SAMPLE_CHARACTERS,
    SAMPLE_SIZE,
    GoldSample,
    GradedRow,
    KindEvaluation,
    PartMetric,
    get_evaluation_kind,
)
from medtask.evaluation.presentation.report_rows import cut_text
from medtask.evaluation.statistics.intervals import Metric

_FAMILY_BY_BASELINE = {
    "TF-IDF": "TF-IDF",
    "nearest question": "TF-IDF",
    "MiniLM": "encoder",
    "keyword search": "keywords",
}


@dataclass(frozen=True, slots=True)
class LeaderboardEntry:
    """One system; None for values that were not measured.

    Attributes:
        name: The system's name.
        title: The model, or the method of a baseline.
        family: See `SystemFacts`; "floor" for trivial baselines.
        baseline: Whether it is a baseline, computed on up to 2,000 of the rows.
        figures: Metrics by name, the headline first.
        p: p-value of the difference from the best system, corrected by Holm's method; None for the
            best system and if the two were not compared.
        unanswered: Compared rows without an answer.
        rows_per_s: Rows answered per second.
        memory_bytes: Peak memory.
        accelerator_bytes: Peak memory of the accelerator.
        cost_per_1000: Cost of 1,000 rows.
        parts: Rows with gold, and F1 by label or the share of right values by field.
        note: Why there are no metrics.
        sampled_from: See `Baseline`.
    """

    name: str
    title: str
    family: str
    baseline: bool
    figures: Mapping[str, Metric | None]
    p: float | None = None
    unanswered: int | None = None
    rows_per_s: float | None = None
    memory_bytes: int | None = None
    accelerator_bytes: int | None = None
    cost_per_1000: float | None = None
    parts: Mapping[str, PartMetric] = field(default_factory=dict)
    note: str = ""
    sampled_from: int | None = None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Systems ranked by their headline metric.

    Attributes:
        metric: The headline metric.
        entries: The systems, best first; those without metrics last.
        pairs: Comparisons of the named systems, the better one first.
        baseline_pairs: Comparisons of each named system with each baseline. P-values are corrected
            within `pairs` and within `baseline_pairs`.
        price_per_hour: Price of the machine.
    """

    metric: str
    entries: tuple[LeaderboardEntry, ...]
    pairs: tuple[PairedComparison, ...]
    baseline_pairs: tuple[PairedComparison, ...]
    price_per_hour: float | None

    @property
    def best(self) -> LeaderboardEntry:
        return self.entries[0]

    def headline(self, entry: LeaderboardEntry) -> Metric | None:
        """The headline metric of one system."""
        return entry.figures.get(self.metric)

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text."""
        return {
            "measure": self.metric,
            "price_per_hour": self.price_per_hour,
            "systems": [asdict(line) for line in self.entries],
            "pairs": [pair.to_json() for pair in self.pairs],
            "baseline_pairs": [pair.to_json() for pair in self.baseline_pairs],
        }


def rank_systems(
    comparison: ComparisonRows,
    definitions: LabelDefinitions = (),
    *,
    keywords: Mapping[str, Sequence[str]] = MappingProxyType({}),
    baselines: BaselineSettings | None = DEFAULT_SETTINGS,
    price_per_hour: float | None = None,
) -> Leaderboard:
    """Ranks the systems together with simple methods on the same rows.

    Args:
        comparison: The rows and the systems' answers.
        definitions: Every allowed answer with its definition, for the baselines.
        keywords: Keywords of labels, for a baseline.
        baselines: How baselines are computed; None for no baselines.
        price_per_hour: Price of the machine, in any currency; a cost is computed if the speed is
            known.
    """
    lines = [
        _build_system_entry(comparison, system, price_per_hour) for system in comparison.systems
    ]
    entries = {
        system.name: compute_system_metrics(comparison, system) for system in comparison.systems
    }
    metric = next(iter(entries[comparison.systems[0].name].metric_sums))
    lines.sort(key=lambda line: _get_sort_key(line, metric))
    named = [entries[line.name] for line in lines]
    pairs = compare_pairs(
        [(first, second) for place, first in enumerate(named) for second in named[place + 1 :]],
        comparison.groups,
    )
    baseline_entries: list[tuple[LeaderboardEntry, SystemMetrics | None]] = []
    if baselines is not None:
        best = next(system for system in comparison.systems if system.name == lines[0].name)
        baseline_entries = _run_baselines(comparison, best, definitions, keywords, baselines)
    against = [(system, other) for system in named for _, other in baseline_entries if other]
    baseline_pairs = compare_pairs(
        [_order_pair(one, other, metric) for one, other in against], comparison.groups
    )
    ranked = sorted(
        [*lines, *(line for line, _ in baseline_entries)],
        key=lambda line: _get_sort_key(line, metric),
    )
    return Leaderboard(
        metric,
        tuple(_set_p_value(line, ranked[0], (*pairs, *baseline_pairs)) for line in ranked),
        pairs,
        baseline_pairs,
        price_per_hour,
    )


def _evaluate_system(comparison: ComparisonRows, system: System) -> KindEvaluation:
    """Evaluates one system's answers like those of a run."""
    grader = get_evaluation_kind(comparison.kind).create_grader(
        comparison.labels, comparison.abstain, 0
    )
    columns = (system.values, comparison.gold, system.answers, comparison.groups)
    for row in zip(*columns, strict=True):
        grader.add(GradedRow(*row))
    quality = grader.finish(_take_sample(comparison, system.values))
    assert quality is not None
    return quality


def compute_system_metrics(comparison: ComparisonRows, system: System) -> SystemMetrics:
    """One system's metrics for a paired comparison."""
    return _compute_metrics(comparison, system.name, system.values, system.right)


def _build_system_entry(
    comparison: ComparisonRows, system: System, price: float | None
) -> LeaderboardEntry:
    quality = _evaluate_system(comparison, system)
    facts = system.facts
    speed = facts.rows_per_s
    return LeaderboardEntry(
        name=system.name,
        title=facts.title,
        family=facts.family,
        baseline=False,
        figures=quality.metrics,
        unanswered=sum(given is None for given in system.values),
        rows_per_s=speed,
        memory_bytes=facts.memory_bytes,
        accelerator_bytes=facts.accelerator_bytes,
        cost_per_1000=price * 1000 / 3600 / speed if price is not None and speed else None,
        parts=quality.part_metrics,
    )


def _compute_metrics(
    comparison: ComparisonRows,
    name: str,
    values: Sequence[Any],
    right: Sequence[bool | None] | None = None,
) -> SystemMetrics:
    """Compute metrics; ``values`` are the answers to the first rows of the comparison."""
    gold = comparison.gold[: len(values)]
    if right is None:
        grader = get_evaluation_kind(comparison.kind).create_grader(
            comparison.labels, comparison.abstain, 0
        )
        right = [grader.is_right(value, truth) for value, truth in zip(values, gold, strict=True)]
    known = (
        None if any(verdict is None for verdict in right) else [bool(verdict) for verdict in right]
    )
    return SystemMetrics(
        name, build_metric_sums(comparison.kind, comparison.classes, gold, values), known
    )


def _run_baselines(
    comparison: ComparisonRows,
    best: System,
    definitions: LabelDefinitions,
    keywords: Mapping[str, Sequence[str]],
    settings: BaselineSettings,
) -> list[tuple[LeaderboardEntry, SystemMetrics | None]]:
    if not any(comparison.texts) and get_evaluation_kind(comparison.kind).baselines.need_texts:
        note = "the rows have no texts"
        return [(LeaderboardEntry("simple methods", "", "–", True, {}, note=note), None)]
    taken = {system.name for system in comparison.systems}
    found = []
    for baseline, answers in run_baselines_with_answers(
        comparison.kind,
        _take_sample(comparison, best.values),
        definitions,
        keywords=keywords,
        settings=settings,
        systems={system.name: system.values for system in comparison.systems},
    ):
        name = f"{baseline.name} here" if baseline.name in taken else baseline.name
        family = _FAMILY_BY_BASELINE.get(baseline.name, "floor")
        entry = LeaderboardEntry(
            name,
            baseline.method,
            family,
            True,
            baseline.metrics,
            note=baseline.note,
            sampled_from=baseline.sampled_from,
        )
        found.append(
            (entry, None if answers is None else _compute_metrics(comparison, name, answers))
        )
    return found


def _take_sample(comparison: ComparisonRows, values: Sequence[Any]) -> GoldSample:
    """The first rows of the comparison, which are in random order."""
    return GoldSample(
        tuple(cut_text(text, MAX_SAMPLE_CHARACTERS) for text in comparison.texts[:SAMPLE_SIZE]),
        comparison.gold[:SAMPLE_SIZE],
        tuple(values[:SAMPLE_SIZE]),
        comparison.options[:SAMPLE_SIZE],
        comparison.groups[:SAMPLE_SIZE],
    )


def _get_sort_key(entry: LeaderboardEntry, metric: str) -> tuple[float, str]:
    headline = entry.figures.get(metric)
    return (-headline.value if headline else 2.0), entry.name


def _order_pair(
    first: SystemMetrics, second: SystemMetrics, metric: str
) -> tuple[SystemMetrics, SystemMetrics]:
    rows = min(first.n_rows, second.n_rows)
    ahead = [
        entry.metric_sums[metric].take_first(rows).compute_value() for entry in (first, second)
    ]
    return (first, second) if ahead[0] >= ahead[1] else (second, first)


def _set_p_value(
    entry: LeaderboardEntry, best: LeaderboardEntry, pairs: Sequence[PairedComparison]
) -> LeaderboardEntry:
    p = next(
        (pair.p_holm for pair in pairs if {pair.first, pair.second} == {entry.name, best.name}),
        None,
    )
    return replace(entry, p=p) if entry is not best else entry
