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
        has_options: Whether each row brings its own options.
        free_text: Whether the answer is a text of the model's own words.
        gold_noun: What a gold value must be, after "not".
        activity: What a run does with rows, for a progress display.
        description: What a model trained for the kind does, after "It".
        pipeline_tag: The Hugging Face Hub's name of the kind.
    """

    name: KindName
    generated: bool = False
    exclusive: bool = False
    has_labels: bool = False
    has_options: bool = False
    free_text: bool = False
    gold_noun: str = "a label of the task"
    activity: str = "Answering"
    description: str = ""
    pipeline_tag: str = "text-generation"


KINDS: Mapping[str, KindSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            KindSpec(
                "label",
                exclusive=True,
                has_labels=True,
                activity="Labelling",
                description="gives each row one of its labels",
                pipeline_tag="text-classification",
            ),
            KindSpec(
                "labels",
                has_labels=True,
                activity="Labelling",
                description="gives each row any of its labels",
                pipeline_tag="text-classification",
            ),
            KindSpec(
                "choice",
                exclusive=True,
                has_options=True,
                gold_noun="an option of its row",
                description="picks among the options that each row brings",
                pipeline_tag="multiple-choice",
            ),
            KindSpec(
                "answer", generated=True, free_text=True, description="writes an answer to each row"
            ),
            KindSpec(
                "fields",
                generated=True,
                gold_noun="an object of the schema",
                activity="Reading the fields of",
                description="fills in the fields of a schema for each row",
            ),
        )
    }
)
