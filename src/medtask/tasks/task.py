"""What a task is once its file was read: every question in it settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Label:
    """One allowed answer. ``say`` is what the model would write for it: the name, or a short code."""

    name: str
    definition: str
    say: str


@dataclass(frozen=True, slots=True)
class Example:
    """A worked row that is shown to the model: the columns that the input template uses, and the right answer."""

    fields: Mapping[str, object]
    answer: str


@dataclass(frozen=True, slots=True)
class Review:
    """When a row goes to a person although it has an answer. Both bounds are probabilities in [0, 1]."""

    confidence_below: float = 0.5
    off_set_above: float = 0.9


@dataclass(frozen=True, slots=True)
class Task:
    """One question, asked of every row.

    ``labels`` are all allowed answers, in the file's order. ``abstain`` is an answer the model may also give; a row
    that gets it has no value. ``input`` is a Jinja template over the row's columns. ``id_column`` None: rows are
    numbered. ``fingerprint`` is the SHA-256 of everything here that can change an answer.
    """

    name: str
    kind: Literal["label"]
    instruction: str
    input: str
    labels: tuple[Label, ...]
    abstain: Label | None = None
    examples: tuple[Example, ...] = ()
    readout: Literal["name", "code"] = "name"
    review: Review = field(default_factory=Review)
    id_column: str | None = None
    gold_column: str | None = None
    data: Path | None = None
    model: str | None = None
    source: Path | None = None
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    def __hash__(self) -> int:
        # Examples hold mappings, which have no hash of their own.
        return hash((self.name, self.fingerprint))

    @property
    def candidates(self) -> tuple[Label, ...]:
        """The labels, and the abstention where there is one: what the model chooses from."""
        return (*self.labels, self.abstain) if self.abstain else self.labels
