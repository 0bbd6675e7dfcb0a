"""The result of a training: a model folder, and its metrics on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.statistics.intervals import Metric, metrics_to_json
from medtask.training.training_manifest import read_training_manifest

CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class TaskTrainingResult:
    """Metrics of a model on one of its tasks, on the validation rows.

    Attributes:
        task: The name of the task.
        headline_metric: The name of the most important metric.
        metrics: All metrics by name; None if undefined.
        baselines: The headline metric of simpler methods trained on the same rows, by name.
        calibration: A sentence on the calibration; "" without one.
        thresholds: The probability from which each of several labels applies; empty for 0.5.
        rows: Counts of the rows that were read, used and left out, by reason.
    """

    task: str
    headline_metric: str
    metrics: Mapping[str, Metric | None]
    baselines: Mapping[str, Metric]
    calibration: str
    thresholds: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> Metric | None:
        """The headline metric."""
        return self.metrics.get(self.headline_metric)

    def describe_better_baselines(self) -> str:
        """A sentence on the baselines with a higher score; "" if there is none."""
        return describe_better_baselines(self.headline_metric, self.score, self.baselines)


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The figures of a cross-validation: every row answered by a model that has not seen it.

    Attributes:
        run: The run folder with the answers.
        folds: The number of folds.
        headline_metric: The name of the most important metric, "" without metrics.
        metrics: All metrics by name; None if undefined.
    """

    run: Path
    folds: int
    headline_metric: str
    metrics: Mapping[str, Metric | None]

    @property
    def score(self) -> Metric | None:
        """The headline metric."""
        return self.metrics.get(self.headline_metric)

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "run": str(self.run),
            "folds": self.folds,
            "measure": self.headline_metric,
            "metrics": metrics_to_json(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model folder as `medtask.train` writes it.

    Attributes:
        path: The folder, which can be passed to `medtask.load_model`.
        method: The training method.
        bases: The models that training started from.
        state: "interrupted" after a signal: the folder then has the best state so far, and the
            same call resumes.
        task_results: One result per task.
        validation_loss: The lowest validation loss, in nats per row.
        base_score: The score of the untrained base in the same validations, if measured.
        seconds: The duration of training, over all sessions.
        exit_code: 0, or 130 or 143 after a signal.
        notes: Notes for the user.
        out_of_fold: The figures of a cross-validation; None without one.
    """

    path: Path
    state: Literal["finished", "interrupted"]
    task_results: tuple[TaskTrainingResult, ...] = ()
    method: str = ""
    bases: tuple[str, ...] = ()
    validation_loss: float | None = None
    base_score: float | None = None
    seconds: float = 0.0
    exit_code: int = 0
    notes: tuple[str, ...] = ()
    out_of_fold: OutOfFold | None = None

    @property
    def base(self) -> str:
        """The base, or the bases of a hybrid, comma-separated."""
        return ", ".join(self.bases)

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """The metrics of the first task."""
        return self.task_results[0].metrics if self.task_results else {}

    @property
    def score(self) -> Metric | None:
        """The headline metric of the first task."""
        return self.task_results[0].score if self.task_results else None

    @property
    def report(self) -> Path:
        """The model card."""
        return self.path / CARD_FILE

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without texts of rows."""
        return {
            "folder": str(self.path),
            "state": self.state,
            "tasks": [
                {
                    "task": result.task,
                    "measure": result.headline_metric,
                    "metrics": metrics_to_json(result.metrics),
                    "rivals": metrics_to_json(result.baselines),
                    "calibration": result.calibration,
                    "thresholds": dict(result.thresholds),
                    "rows": dict(result.rows),
                }
                for result in self.task_results
            ],
            "validation_loss": self.validation_loss,
            "untrained": self.base_score,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "out_of_fold": self.out_of_fold.to_json() if self.out_of_fold else None,
            "exit_code": self.exit_code,
        }


def describe_better_baselines(
    headline_metric: str, score: Metric | None, baselines: Mapping[str, Metric]
) -> str:
    """A sentence on the baselines with a higher score; "" if there is none."""
    better = {name: one for name, one in baselines.items() if score and one.value > score.value}
    if score is None or not better:
        return ""
    listed = ", ".join(f"{name} has {one.value:.3f}" for name, one in better.items())
    return (
        f"this model is not better than a simple method: its {get_metric_title(headline_metric)} "
        f"is {score.value:.3f} on the validation rows, {listed}"
    )


def read_trained_model(folder: Path, exit_code: int = 0) -> TrainedModel:
    """Read the result of a training that has ended from its folder."""
    facts = read_training_manifest(folder)
    assert facts is not None, "a training that has ended has a manifest"
    results = []
    for one in facts["measured"]:
        headline = one["measure"]
        metrics = _parse_metrics(one["figures"])
        baselines = {
            name: Metric(**baseline[headline])
            for name, baseline in one["rivals"].items()
            if headline in baseline
        }
        results.append(
            TaskTrainingResult(
                one["task"],
                headline,
                metrics,
                baselines,
                one["calibration"],
                one.get("thresholds", {}),
                one.get("rows", {}),
            )
        )
    return TrainedModel(
        folder,
        facts["state"],
        tuple(results),
        method=facts["recipe"]["method"],
        bases=tuple(facts["recipe"]["bases"]),
        validation_loss=facts["validation_loss"],
        base_score=facts["untrained"],
        seconds=facts["seconds"],
        exit_code=exit_code if facts["state"] == "interrupted" else 0,
        notes=tuple(facts["notes"]),
        out_of_fold=_parse_out_of_fold(facts["out_of_fold"]) if "out_of_fold" in facts else None,
    )


def _parse_out_of_fold(content: Mapping[str, Any]) -> OutOfFold:
    return OutOfFold(
        Path(content["run"]),
        content["folds"],
        content["measure"],
        _parse_metrics(content["metrics"]),
    )


def _parse_metrics(content: Mapping[str, Any]) -> dict[str, Metric | None]:
    return {name: Metric(**value) if value else None for name, value in content.items()}
