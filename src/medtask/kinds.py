"""The five kinds of question, one `KindSpec` each.

Everything else about a kind stands in one module per layer: `tasks/kinds/`, `prediction/kinds/` and
`evaluation/kinds/`. Code outside these packages reads the fields below and never compares names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

KindName = Literal["label", "labels", "choice", "answer", "fields"]


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What code of every layer may know about a kind of question.

    Attributes:
        name: The kind, as task files and manifests write it.
        generated: Whether the model writes text; otherwise candidates are scored.
        exclusive: Whether exactly one outcome applies, so that the probabilities sum to 1.
            Of kind ``choice`` with ``several`` they do not: see `Task.several`.
        has_labels: Whether the task lists the allowed answers.
        gold_noun: What a gold value must be, after "no".
        activity: What a run does with rows, as a progress display says it.
    """

    name: KindName
    generated: bool
    exclusive: bool
    has_labels: bool
    gold_noun: str
    activity: str


KINDS: Mapping[str, KindSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            KindSpec("label", False, True, True, "label of the task", "Labelling"),
            KindSpec("labels", False, False, True, "label of the task", "Labelling"),
            KindSpec("choice", False, True, False, "option of its row", "Answering"),
            KindSpec("answer", True, False, False, "label of the task", "Answering"),
            KindSpec("fields", True, False, False, "value of the schema", "Reading the fields of"),
        )
    }
)
