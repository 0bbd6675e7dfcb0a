"""How baselines compare with the model, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from medtask.display import capitalise_first
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.presentation.formatting import format_p_value
from medtask.evaluation.statistics.significance import Baseline


def describe_baseline_comparison(baseline: Baseline) -> str | None:
    """One sentence on the comparison of a baseline with the model; None if not compared."""
    if baseline.comparison is None or baseline.headline is None:
        return None
    comparison, (metric, reached) = baseline.comparison, baseline.headline
    title = "" if metric == "accuracy" else f"{get_metric_title(metric)} "
    numbers = (
        f"{title}{reached.value:.3f} against {comparison.model:.3f} on {reached.n:,} rows, "
        f"{format_p_value(comparison.p)}"
    )
    name = f"{capitalise_first(baseline.name)} ({baseline.method})"
    if comparison.verdict == "no clear difference":
        return f"{name} shows no clear difference from the model here: {numbers}."
    caveat = (
        " It learned from gold, which a model that is only prompted does not see."
        if baseline.role == "learned"
        else ""
    )
    return f"{name} is {comparison.verdict} than the model here: {numbers}.{caveat}"


def list_baseline_warnings(baselines: Sequence[Baseline], has_labels: bool = True) -> list[str]:
    """A warning and its remedy for each baseline that the model should beat and does not."""
    sentences = [
        sentence
        for baseline in baselines
        if baseline.comparison
        and (
            baseline.comparison.verdict == "better"
            or (baseline.role == "floor" and baseline.comparison.verdict != "worse")
        )
        and (sentence := describe_baseline_comparison(baseline))
    ]
    trained = "on these labels" if has_labels else "for this question"
    advice = f"Use a stronger model, or one trained {trained}, before relying on the answers."
    return [*sentences, advice] if sentences else []
