"""What a model card tells, as plain values: whoever trains a model fills them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medtask.engines.model_metadata import PhiStatus
from medtask.evaluation.statistics.intervals import Metric
from medtask.kinds import KindName
from medtask.training.methods import Method
from medtask.training.training_data import TrainingData, determine_phi
from medtask.training.training_example import list_labels
from medtask.training.training_log import TrainingPoint


@dataclass(frozen=True, slots=True)
class CardLabel:
    """``rows``: those it was learnt from; None where labels are not counted."""

    name: str
    definition: str = ""
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class CardTask:
    """One of the tasks that a model was trained for, its rows, and how good the model is on those
    that it was stopped by.

    ``table``: the name of its table, no path; ``rows``: in the table; ``dropped``: rows by the
    reason for which they were left out. ``split``: how validation rows were found, in a sentence;
    ``leaks``: what the leak report found, a sentence each. ``metrics``: by measure (words.MEASURES)
    on the validation rows; ``baselines``: the same of simple methods on the same rows.
    ``calibration``: what it did, in a sentence; "" where there is none.
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


@dataclass(frozen=True, slots=True)
class CardContent:
    """All that a model card tells. ``name``: the model's; ``folder``: as commands should name it.

    ``bases``: as the user named them; ``base_models``: their ids on the Hub, where they have one.
    ``license``: the Hub's id of the base's licence; "" where it is not known. ``languages``: ISO
    639 codes; none where nobody has said. ``datasets``: ids on the Hub. ``recipe``: every choice,
    by name. ``points``: of the journal; ``score_name``: what their score is; ``loss_plot``: its
    file's name, "" for none. ``seconds``: of training, all sessions. ``interrupted``: ended by a
    signal, with the best state until then. ``demonstration``: to be looked at, not for real work.
    """

    name: str
    folder: str
    method: Method
    tasks: tuple[CardTask, ...]
    bases: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    license: str = ""
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)
    points: tuple[TrainingPoint, ...] = ()
    score_name: str = "accuracy"
    loss_plot: str = ""
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
        """Whether any of the tables holds patients' data."""
        task_values = {task.phi for task in self.tasks}
        return "yes" if "yes" in task_values else "no" if task_values == {"no"} else "unknown"


def build_card_task(
    data: TrainingData,
    metrics: Mapping[str, Metric | None],
    baselines: Mapping[str, Mapping[str, Metric | None]],
    calibration: str = "",
) -> CardTask:
    """What there is to tell of a task from what was learnt from it. Figures that are None were
    undefined, and are left out.
    """
    task, cleaning = data.task, data.cleaning
    label_counts = Counter(
        name for example in data.train for name in list_labels(task, example.record.gold)
    )
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
            CardLabel(label.name, label.definition, label_counts[label.name])
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
    )


def _drop_undefined(metrics: Mapping[str, Metric | None]) -> dict[str, Metric]:
    return {measure: figure for measure, figure in metrics.items() if figure is not None}


def _describe_split(data: TrainingData) -> str:
    divided = data.split
    if divided is None:
        return ""
    if divided.has_own_table:
        return (
            "rows to validate by come from a table of their own, "
            f"{Path(data.validation_source).name}, {data.validation_sha256}"
        )
    description = (
        f"about {divided.share:.0%} of the rows were kept for validation, drawn by seed "
        f"{divided.seed}"
    ).replace("%", " %")
    parted = (
        "; some near duplicates had to be parted"
        if divided.near_duplicate_rows is None
        else ", near duplicates too"
    )
    return f"{description}; equal texts and groups stay on one side{parted}"
