"""What a model card tells, as plain values: whoever trains a model fills them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medtask.engines.trained import Kind, Phi
from medtask.evaluate.intervals import Estimate
from medtask.train.journal import Point
from medtask.train.lesson import list_labels
from medtask.train.material import Material, find_phi


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
    ``leaks``: what the leak report found, a sentence each. ``figures``: by measure (words.MEASURES)
    on the validation rows; ``baselines``: the same of simple methods on the same rows.
    ``calibration``: what it did, in a sentence; "" where there is none.
    """

    name: str
    kind: Kind
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
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    calibration: str = ""
    fingerprint: str = ""
    phi: Phi = "unknown"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """All that a model card tells. ``name``: the model's; ``folder``: as commands should name it.

    ``bases``: as the user named them; ``base_models``: their ids on the Hub, where they have one.
    ``license``: the Hub's id of the base's licence; "" where it is not known. ``languages``: ISO
    639 codes; none where nobody has said. ``datasets``: ids on the Hub. ``recipe``: every choice,
    by name. ``points``: of the journal; ``measure``: what their score is; ``picture``: its file's
    name, "" for none. ``seconds``: of training, all sessions. ``stopped``: ended by a signal, with
    the best state until then. ``demonstration``: to be looked at, not for real work.
    """

    name: str
    folder: str
    method: str
    tasks: tuple[CardTask, ...]
    bases: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    license: str = ""
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    measure: str = "accuracy"
    picture: str = ""
    seconds: float = 0.0
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: tuple[str, ...] = ()
    stopped: bool = False
    demonstration: bool = False

    @property
    def phi(self) -> Phi:
        """Whether any of the tables holds patients' data."""
        said = {task.phi for task in self.tasks}
        return "yes" if "yes" in said else "no" if said == {"no"} else "unknown"


def read_material(
    material: Material,
    figures: Mapping[str, Estimate | None],
    baselines: Mapping[str, Mapping[str, Estimate | None]],
    calibration: str = "",
) -> CardTask:
    """What there is to tell of a task from what was learnt from it. Figures that are None were
    undefined, and are left out.
    """
    task, cleaning = material.task, material.cleaning
    learnt = Counter(
        name for lesson in material.train for name in list_labels(task, lesson.record.gold)
    )
    return CardTask(
        name=task.name,
        kind=task.kind,
        instruction=task.instruction,
        table=Path(material.source).name or "a table in memory",
        sha256=material.sha256,
        rows=cleaning.rows if cleaning else len(material.train) + len(material.validation),
        train_rows=len(material.train),
        validation_rows=len(material.validation),
        labels=tuple(
            CardLabel(label.name, label.definition, learnt[label.name]) for label in task.labels
        ),
        abstain=task.abstention or "",
        dropped={why.value: count for why, count in cleaning.counts.items()} if cleaning else {},
        split=_tell_split(material),
        leaks=tuple(material.leaks.tell()) if material.leaks else (),
        figures=_known(figures),
        baselines={name: _known(one) for name, one in baselines.items()},
        calibration=calibration,
        fingerprint=task.fingerprint,
        phi=find_phi(task),
    )


def _known(figures: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {measure: figure for measure, figure in figures.items() if figure is not None}


def _tell_split(material: Material) -> str:
    divided = material.divided
    if divided is None:
        return ""
    if divided.given:
        return (
            "rows to validate by come from a table of their own, "
            f"{Path(material.validation_source).name}, {material.validation_sha256}"
        )
    told = (
        f"about {divided.share:.0%} of the rows were kept for validation, drawn by seed "
        f"{divided.seed}"
    ).replace("%", " %")
    parted = (
        "; some near duplicates had to be parted"
        if divided.joined is None
        else ", near duplicates too"
    )
    return f"{told}; equal texts and groups stay on one side{parted}"
