"""The content of a model card, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.model_metadata import combine_phi
from medtask.evaluation.statistics.intervals import Metric
from medtask.kinds import KindName
from medtask.training.methods import Method
from medtask.training.training_data import TrainingData, determine_phi
from medtask.training.training_example import count_labels
from medtask.training.training_log import TrainingPoint


@dataclass(frozen=True, slots=True)
class CardLabel:
    """A label, its number of training rows (None if labels are not counted) and its threshold.

    ``threshold`` is the probability from which one of several labels applies; None for 0.5.
    """

    name: str
    definition: str = ""
    rows: int | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class CardTask:
    """A task that a model was trained for, its rows, and the metrics on validation rows.

    Attributes:
        table: The name of the table, without its path.
        rows: The rows of the table.
        dropped: Rows that were left out, by reason.
        split: How validation rows were chosen, in a sentence.
        leaks: Sentences about leakage.
        metrics: Metrics on the validation rows, by name.
        baselines: The same metrics of simpler methods, by name.
        calibration: A sentence on the calibration; "" without one.
        injected_rows: Training rows that were also read with a planted instruction.
    """

    name: str
    kind: KindName
    instruction: str
    table: str
    sha256: str
    rows: int
    train_rows: int
    validation_rows: int
    labels: tuple[CardLabel, ...] = ()
    abstain: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    split: str = ""
    leaks: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    calibration: str = ""
    fingerprint: str = ""
    phi: PhiStatus = "unknown"
    injected_rows: int = 0


@dataclass(frozen=True, slots=True)
class CardContent:
    """The content of a model card.

    Attributes:
        name: The name of the model.
        folder: The model folder, as used in commands.
        bases: The bases as the user named them.
        base_models: Their ids on the Hub, if any.
        base_phi: Whether one of them learnt from patients' texts.
        license: The Hub's id of the base's licence; "" if unknown.
        recipe: All settings by name.
        points: The points of the training log.
        score_name: Name of the points' score.
        loss_plot: The file name of the plot; "" without one.
        library: The library that loads the model, as named on the Hub; "" for the method's.
        seconds: The duration of training, over all sessions.
        interrupted: Whether a signal ended training.
        demonstration: Whether the model is not for real work.
    """

    name: str
    folder: str
    method: Method
    tasks: tuple[CardTask, ...]
    bases: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    base_phi: PhiStatus = "no"
    license: str = ""
    recipe: Mapping[str, object] = field(default_factory=dict)
    points: tuple[TrainingPoint, ...] = ()
    score_name: str = "accuracy"
    loss_plot: str = ""
    library: str = ""
    seconds: float = 0.0
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    demonstration: bool = False

    @property
    def phi(self) -> PhiStatus:
        """Whether any table contains patients' data, or a base learnt from them."""
        return combine_phi([*(task.phi for task in self.tasks), self.base_phi])


def build_card_task(
    data: TrainingData,
    metrics: Mapping[str, Metric | None],
    baselines: Mapping[str, Mapping[str, Metric | None]],
    calibration: str = "",
    thresholds: Mapping[str, float] = MappingProxyType({}),
) -> CardTask:
    """The card's content about one task. Undefined metrics (None) are left out."""
    task, cleaning = data.task, data.cleaning
    label_counts = count_labels(task, data.train)
    return CardTask(
        name=task.name,
        kind=task.kind,
        instruction=task.instruction,
        table=Path(data.source).name or "a table in memory",
        sha256=data.sha256,
        rows=cleaning.rows if cleaning else len(data.train) + len(data.validation),
        train_rows=len(data.train),
        validation_rows=len(data.validation),
        labels=tuple(
            CardLabel(
                label.name, label.definition, label_counts[label.name], thresholds.get(label.name)
            )
            for label in task.labels
        ),
        abstain=task.abstain_name or "",
        dropped={why.value: count for why, count in cleaning.dropped_counts.items()}
        if cleaning
        else {},
        split=_describe_split(data),
        leaks=tuple(data.leakage.describe()) if data.leakage else (),
        metrics=_drop_undefined(metrics),
        baselines={name: _drop_undefined(one) for name, one in baselines.items()},
        calibration=calibration,
        fingerprint=task.fingerprint,
        phi=determine_phi(task),
        injected_rows=len(data.injected),
    )


def _drop_undefined(metrics: Mapping[str, Metric | None]) -> dict[str, Metric]:
    return {measure: figure for measure, figure in metrics.items() if figure is not None}


def _describe_split(data: TrainingData) -> str:
    divided = data.split
    if divided is None:
        return ""
    if divided.has_own_table:
        return (
            "validation rows come from a separate table, "
            f"{Path(data.validation_source).name}, {data.validation_sha256}"
            f"{divided.describe_chosen()}"
        )
    description = (
        f"about {divided.share:.0%} of the rows were set aside for validation, drawn by seed "
        f"{divided.seed}"
    ).replace("%", " %")
    parted = (
        "; some near duplicates had to be split"
        if divided.near_duplicate_rows is None
        else ", and so do near duplicates"
    )
    return f"{description}; equal texts and groups stay together{parted}{divided.describe_chosen()}"
