"""The keys of a task file and their types; those of ``answer:`` are in `kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from medtask.tasks.parse_events import NullScalar

MAX_TOKEN_COUNT = 1_000_000

NullAsNone = BeforeValidator(lambda value: None if isinstance(value, NullScalar) else value)
RequiredText = Annotated[str, Field(min_length=1), NullAsNone]
OptionalText = Annotated[Annotated[str, Field(min_length=1)] | None, NullAsNone]

# Descriptions complete the error message '"key" must be ...'.
FRACTION = Field(ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
COUNT = Field(ge=1, le=MAX_TOKEN_COUNT, description=f"a whole number from 1 to {MAX_TOKEN_COUNT:,}")
BOOLEAN = Field(description="true or false")


class ConfigModel(BaseModel):
    """A mapping of a task file."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class ReviewConfig(ConfigModel):
    confidence_below: Annotated[float, FRACTION] = 0.5
    off_set_above: Annotated[float, FRACTION] = 0.9


class ReasoningConfig(ConfigModel):
    budget: Annotated[int, COUNT]
    deadline_s: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="a number of seconds above 0"),
        NullAsNone,
    ] = None


class GateConfig(ConfigModel):
    min_words: Annotated[
        int, Field(ge=0, le=MAX_TOKEN_COUNT, description="a whole number of words")
    ] = 0
    novelty: Annotated[float | None, FRACTION, NullAsNone] = None
    too_long: Literal["error", "head_tail", "chunk"] = "error"
    combine: Literal["mean", "max", "vote"] = "mean"


class ExamplesConfig(ConfigModel):
    file: RequiredText
    select: Literal["first", "nearest"] = "first"
    k: Annotated[int, Field(ge=1, le=200, description="a whole number from 1 to 200")] = 8
    by: Literal["tfidf", "minilm"] = "tfidf"
    encoding: OptionalText = None


class BaselinesConfig(ConfigModel):
    keywords: Any = None


class CascadeConfig(ConfigModel):
    alpha: Annotated[
        float, Field(gt=0, lt=1, description="a number between 0 and 1, such as 0.02")
    ] = 0.02


class PassConditionConfig(ConfigModel):
    confidence_below: Annotated[float | None, FRACTION, NullAsNone] = None
    status: Any = None
    answer_in: Any = None


class PassConfig(ConfigModel):
    name: RequiredText
    when: Any
    instruction: OptionalText = None
    labels: Any = None
    model: OptionalText = None
    reasoning: Any = None
    examples: Any = None


class TaskConfig(ConfigModel):
    name: OptionalText = None
    instruction: RequiredText
    input: RequiredText
    id: OptionalText = None
    gold: OptionalText = None
    group: OptionalText = None
    data: OptionalText = None
    model: OptionalText = None
    answer: Any
    examples: Any = None
    reasoning: Any = None
    gate: Any = None
    baselines: Any = None
    cascade: Any = None
    phi: Annotated[bool | None, BOOLEAN] = None
    passes: Any = None
    review: Any = None
    tuning_rows: OptionalText = None


SECTION_CONFIGS: Mapping[str, type[ConfigModel]] = {
    "examples": ExamplesConfig,
    "reasoning": ReasoningConfig,
    "gate": GateConfig,
    "review": ReviewConfig,
    "baselines": BaselinesConfig,
    "cascade": CascadeConfig,
    "when": PassConditionConfig,
}
"""The sections that a task file, or one of its passes, can have."""


def list_keys(config_type: type[ConfigModel]) -> list[str]:
    """The keys of a section as written in a file."""
    return [field.alias or name for name, field in config_type.model_fields.items()]
