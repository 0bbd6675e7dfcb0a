"""One leaderboard over all kinds of systems, from TF-IDF to fine-tuned models: how good, how fast,
how big, at what cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medtask.display import format_bytes, format_row_count, shorten
from medtask.evaluation.baselines.untrained import LabelDefinitions
from medtask.evaluation.comparison.aligned_rows import ComparisonRows, System
from medtask.evaluation.comparison.baselines import run_baselines_with_answers
from medtask.evaluation.comparison.paired import (
    PairedComparison,
    SystemMetrics,
    compare_pairs,
    describe_pair,
)
from medtask.evaluation.kinds.metrics import build_metric_sums, get_metric_title
from medtask.evaluation.kinds.protocols import (
    SAMPLE_SIZE,
    GoldSample,
    KindEvaluation,
)
from medtask.evaluation.kinds.registry import get_evaluation_kind
from medtask.evaluation.presentation.formatting import find_manifest_value, format_p_value
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import ALPHA, Baseline

# By the model's family; manifests without one name the engine, in the same words but for "fake".
_FAMILY_NAMES = {"linear": "TF-IDF", "encoder": "encoder", "none": "no model", "fake": "no model"}
_FAMILY_BY_BASELINE = {"TF-IDF": "TF-IDF", "nearest question": "TF-IDF", "MiniLM": "encoder"}
OTHER_TOOL = "another tool"
PartMetric = tuple[int, Metric | None]  # rows with gold, and the figure
MAX_NAME_LENGTH = 36  # characters of a name on a terminal


@dataclass(frozen=True, slots=True)
class LeaderboardEntry:
    """One system. ``figures``: by measure, the headline first. ``p``: of its difference from the
    best, corrected (Holm); None for the best itself, and where the two were not compared.

    ``baseline``: computed here, on up to 2,000 of the rows. ``unanswered``: compared rows without
    an answer. ``parts``: rows in gold and F1 by label, or how often a field is right. What was not
    measured is None. ``note``: why there are no figures.
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


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """``entries``: the best first, by ``metric``; those without figures last. ``pairs``: of the
    systems that were named, the better one first; ``baseline_pairs``: each of these with each
    baseline. Either family is corrected by itself.
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
        return entry.figures.get(self.metric)

    def to_json(self) -> dict[str, object]:
        """Without record text."""
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
    baselines: bool = True,
    price_per_hour: float | None = None,
    seed: int = 0,
) -> Leaderboard:
    """Every system of a contest, beside simple methods on the same rows unless ``baselines`` is
    False.

    ``definitions``: every allowed answer and what it means, for the baselines. ``price_per_hour``:
    of the machine, in whatever currency; a cost is told only where it is given and the speed is
    known.
    """
    lines = [
        _build_system_entry(comparison, entrant, price_per_hour, seed)
        for entrant in comparison.systems
    ]
    entries = {
        entrant.name: compute_system_metrics(comparison, entrant) for entrant in comparison.systems
    }
    metric = next(iter(entries[comparison.systems[0].name].metric_sums))
    lines.sort(key=lambda line: _get_sort_key(line, metric))
    named = [entries[line.name] for line in lines]
    pairs = compare_pairs(
        [(first, second) for place, first in enumerate(named) for second in named[place + 1 :]],
        comparison.groups,
        seed=seed,
    )
    baseline_entries: list[tuple[LeaderboardEntry, SystemMetrics | None]] = []
    if baselines:
        best = next(entrant for entrant in comparison.systems if entrant.name == lines[0].name)
        baseline_entries = _run_baselines(comparison, best, definitions, seed)
    against = [(system, other) for system in named for _, other in baseline_entries if other]
    baseline_pairs = compare_pairs(
        [_order_pair(one, other, metric) for one, other in against], comparison.groups, seed=seed
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


def infer_system_family(manifest: Mapping[str, object]) -> str:
    """What kind of system a run's manifest tells of: TF-IDF, encoder, prompted, few-shot or
    fine-tuned.

    An adapter makes a model fine-tuned, whatever else it is shown; worked examples in the prompt
    make it few-shot. A model that was fine-tuned and merged elsewhere looks like any other, and
    counts as prompted.
    """
    engine = find_manifest_value(manifest, "model", "name")
    family = find_manifest_value(manifest, "model", "family") or engine
    identity = find_manifest_value(manifest, "identity")
    if not isinstance(engine, str) or not isinstance(identity, Mapping):
        return OTHER_TOOL
    if family in _FAMILY_NAMES:
        return _FAMILY_NAMES[family]
    if any(identity.get(f"model.{mark}") for mark in ("adapter", "contract")):
        return "fine-tuned"
    shown = str(identity.get("task.examples") or "0 ")
    return "few-shot" if identity.get("task.pool") or not shown.startswith("0 ") else "prompted"


def format_leaderboard(leaderboard: Leaderboard) -> list[str]:
    """The leaderboard as lines of a terminal, then what is to be told about every pair of named
    systems.
    """
    head = (
        "",
        "family",
        get_metric_title(leaderboard.metric),
        "",
        "rows/s",
        "memory",
        "per 1,000 rows",
        "against the best",
    )
    rows = [head]
    for line in leaderboard.entries:
        reached = leaderboard.headline(line)
        value, interval = (
            (str(reached).split(" ", 1))
            if reached
            else ("–", line.note and f"not measured: {line.note}")
        )
        cells = format_costs(line)
        versus = (
            "best"
            if line is leaderboard.best
            else "–"
            if line.p is None
            else format_p_value(line.p)
        )
        name = f"{shorten(line.name, MAX_NAME_LENGTH)}{' (baseline)' if line.baseline else ''}"
        model = "" if line.baseline else shorten(get_model_name(line), 24)
        rows.append(
            (
                name,
                f"{line.family}, {model}" if model else line.family,
                value,
                interval,
                *cells,
                versus,
            )
        )
    kept = [
        place
        for place in range(len(head))
        if place < 3 or any(row[place] not in ("", "–") for row in rows[1:])
    ]
    widths = {place: max(len(row[place]) for row in rows) for place in kept}
    padded = [
        [f"{row[place]:{'>' if place in (4, 5, 6) else '<'}{widths[place]}}" for place in kept]
        for row in rows
    ]
    return [
        *("  ".join(row).rstrip() for row in padded),
        "",
        *(describe_pair(pair) for pair in leaderboard.pairs),
    ]


def get_model_name(entry: LeaderboardEntry) -> str:
    """The model of a run, without how it was loaded; nothing for a table of another tool."""
    return "" if entry.family == OTHER_TOOL else entry.title.partition(",")[0].partition(" (")[0]


def format_costs(entry: LeaderboardEntry) -> tuple[str, str, str]:
    """Rows/s, peak memory and cost per 1,000 rows in words; a dash for what was not measured."""
    speed = "–" if entry.rows_per_s is None else f"{entry.rows_per_s:,.1f}"
    parts = [format_bytes(entry.memory_bytes)] if entry.memory_bytes else []
    parts += [f"{format_bytes(entry.accelerator_bytes)} GPU"] if entry.accelerator_bytes else []
    cost = (
        "–"
        if entry.cost_per_1000 is None
        else f"{entry.cost_per_1000:.2f}"
        if entry.cost_per_1000 >= 1
        else f"{entry.cost_per_1000:.2g}"
    )
    return speed, " + ".join(parts) or "–", cost


def evaluate_system(comparison: ComparisonRows, system: System, seed: int = 0) -> KindEvaluation:
    """What one system's answers are worth on the contest's rows, by the same figures as any
    run's.
    """
    grader = get_evaluation_kind(comparison.kind).create_grader(
        comparison.labels, comparison.abstain, seed
    )
    for given, truth, answer, group in zip(
        system.values, comparison.gold, system.answers, comparison.groups, strict=True
    ):
        grader.add(given, truth, answer, group)
    quality = grader.finish(_take_sample(comparison, system.values))
    assert quality is not None
    return quality


def compute_system_metrics(comparison: ComparisonRows, system: System) -> SystemMetrics:
    """One system as a side of a pair."""
    return _compute_metrics(comparison, system.name, system.values, system.right)


def _build_system_entry(
    comparison: ComparisonRows, system: System, price: float | None, seed: int
) -> LeaderboardEntry:
    quality = evaluate_system(comparison, system, seed)
    manifest = system.manifest
    speed = _read_rows_per_s(manifest)
    memory, accelerator = (
        find_manifest_value(manifest, "timing", f"peak_{what}_bytes")
        for what in ("memory", "accelerator")
    )
    return LeaderboardEntry(
        name=system.name,
        title=str(find_manifest_value(manifest, "model", "title") or "a table of answers"),
        family=infer_system_family(manifest),
        baseline=False,
        figures=quality.metrics,
        unanswered=sum(given is None for given in system.values),
        rows_per_s=speed,
        memory_bytes=memory if isinstance(memory, int) else None,
        accelerator_bytes=accelerator if isinstance(accelerator, int) else None,
        cost_per_1000=price * 1000 / 3600 / speed if price is not None and speed else None,
        parts=_list_part_metrics(quality),
    )


def _read_rows_per_s(manifest: Mapping[str, object]) -> float | None:
    """Rows a second of answering; of a run that does not tell, of the whole run, with its
    loading.
    """
    given = find_manifest_value(manifest, "timing", "rows_per_s")
    if isinstance(given, int | float) and given > 0:
        return float(given)
    rows, seconds = (
        find_manifest_value(manifest, "settings", "rows"),
        find_manifest_value(manifest, "timing", "seconds"),
    )
    return (
        rows / seconds
        if isinstance(rows, int) and rows and isinstance(seconds, int | float) and seconds > 0
        else None
    )


def _list_part_metrics(quality: Any) -> dict[str, PartMetric]:
    """Rows in gold and F1 by label that gold has, or how often a field is right; nothing for kinds
    without parts.
    """
    inner = getattr(quality, "quality", None)
    labels = {one.label: (one.gold, one.f1) for one in getattr(inner, "labels", ()) if one.gold}
    return labels or {one.field: (one.rows, one.agreement) for one in getattr(inner, "fields", ())}


def _compute_metrics(
    comparison: ComparisonRows,
    name: str,
    values: Sequence[Any],
    right: Sequence[bool | None] | None = None,
) -> SystemMetrics:
    """``values``: answers to the contest's first rows."""
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
    comparison: ComparisonRows, best: System, definitions: LabelDefinitions, seed: int
) -> list[tuple[LeaderboardEntry, SystemMetrics | None]]:
    if not any(comparison.texts) and get_evaluation_kind(comparison.kind).baselines.need_texts:
        note = "the texts of the rows are not known"
        return [(LeaderboardEntry("simple methods", "", "–", True, {}, note=note), None)]
    taken = {entrant.name for entrant in comparison.systems}
    found = []
    for baseline, answers in run_baselines_with_answers(
        comparison.kind, _take_sample(comparison, best.values), definitions, seed=seed
    ):
        name = f"{baseline.name} here" if baseline.name in taken else baseline.name
        found.append(
            (
                _build_baseline_entry(baseline, name),
                None if answers is None else _compute_metrics(comparison, name, answers),
            )
        )
    return found


def _build_baseline_entry(baseline: Baseline, name: str) -> LeaderboardEntry:
    return LeaderboardEntry(
        name,
        baseline.method,
        _FAMILY_BY_BASELINE.get(baseline.name, "floor"),
        True,
        baseline.metrics,
        note=baseline.note,
    )


def _take_sample(comparison: ComparisonRows, values: Sequence[Any]) -> GoldSample:
    """The contest's first rows, which are random ones."""
    return GoldSample(
        comparison.texts[:SAMPLE_SIZE],
        comparison.gold[:SAMPLE_SIZE],
        tuple(values[:SAMPLE_SIZE]),
        comparison.options[:SAMPLE_SIZE],
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


def describe_leaderboard(leaderboard: Leaderboard, rows: int) -> str:
    """One sentence on who leads, and whether anybody is as good as far as these rows tell."""
    reached = leaderboard.headline(leaderboard.best)
    if reached is None:
        return "Nothing could be measured."
    sentence = (
        f"{shorten(leaderboard.best.name)} has the highest {get_metric_title(leaderboard.metric)}, "
        f"{reached} on "
        f"{format_row_count(rows)}"
    )
    near = [
        shorten(line.name)
        for line in leaderboard.entries[1:]
        if line.p is not None and line.p >= ALPHA
    ]
    return f"{sentence}; not clearly worse: {', '.join(near)}." if near else f"{sentence}."
