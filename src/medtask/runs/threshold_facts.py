"""What a manifest says about the thresholds of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medtask.runs.outputs import OutputSource
from medtask.tasks.kinds import get_task_kind

if TYPE_CHECKING:
    from medtask.evaluation.calibration.thresholds import FittedThresholds


def describe_thresholds(fitted: FittedThresholds) -> dict[str, Any]:
    """The manifest's entries about fitted thresholds."""
    sentence = (
        f"Fitted on the gold of {fitted.rows:,} rows. A row with gold was decided by "
        "thresholds fitted on the other four fifths."
    )
    if fitted.unfitted_labels:
        sentence += f" Too few gold rows, so 0.5 was kept: {', '.join(fitted.unfitted_labels)}."
    return {"thresholds": dict(fitted.overall), "thresholds_fitted": sentence}


def describe_default_thresholds(source: OutputSource) -> dict[str, Any]:
    """The manifest's entries about the thresholds of the model; empty if it has none."""
    fitted = source.calibration.get_thresholds() if source.calibration else {}
    named = get_task_kind(source.task).thresholds
    if not fitted.keys() - named:
        return {}
    sentence = "Fitted when the model was trained, except for labels with a threshold in the task."
    return {"thresholds": {**fitted, **named}, "thresholds_fitted": sentence}
