"""Kind ``answer``: free text, optionally in tagged sections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from medtask.display import format_count, quote
from medtask.records import Option, Value
from medtask.tables.cell_values import read_present_cell
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.config import COUNT, ConfigModel, OptionalText
from medtask.tasks.fence import Fence
from medtask.tasks.key_reference import NAMES, KeyDescription
from medtask.tasks.kinds.base import RowExtras, TaskKind
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.task import FreeText
from medtask.tasks.text_cleaning import clean_text, is_blank

DEFAULT_SECTIONS = ("analysis", "answer")  # of "sections: true"
MAX_SECTIONS = 8
MAX_STOP_STRINGS = 16

_SECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


class FreeTextConfig(ConfigModel):
    kind: Any
    max_tokens: Annotated[int, COUNT] = 256
    stop: Any = None
    sections: Any = None
    context: OptionalText = None
    temperature: Annotated[
        float, Field(ge=0, le=5, allow_inf_nan=False, description="a number from 0 to 5")
    ] = 0.0
    top_p: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="a number above 0, up to 1")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63, description="a whole number, 0 or more")] = 0


_KEYS: Mapping[str, KeyDescription] = {
    "max_tokens": KeyDescription("The maximum number of tokens.", "max_tokens: 256"),
    "stop": KeyDescription("Texts that end the answer.", 'stop: ["\\n\\n"]', NAMES),
    "sections": KeyDescription(
        "Parts that are written in this order; the last one is the answer. `true` stands for "
        "analysis and answer.",
        "sections: [analysis, answer]",
        {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]},
    ),
    "context": KeyDescription("A column that is shown before the question.", "context: letter"),
    "temperature": KeyDescription(
        "0 always writes the likeliest token; a higher number samples.", "temperature: 0.7"
    ),
    "top_p": KeyDescription("The share of likely tokens that sampling uses.", "top_p: 0.9"),
    "seed": KeyDescription("The seed of sampling.", "seed: 1"),
}


class AnswerKind(TaskKind[FreeText]):
    """Free text without branches: the model writes section by section."""

    config_type = FreeTextConfig
    spec_type = FreeText
    key_descriptions = _KEYS
    columns_key = "context"
    columns_use = "context names"

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: FreeTextConfig, label_names: Sequence[str]
    ) -> FreeText:
        return FreeText(
            config.max_tokens,
            _read_stop_strings(reader, config.stop),
            _read_sections(reader, config.sections),
            config.context,
            config.temperature,
            config.top_p,
            config.seed,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.spec.context is None else (self.spec.context,)

    def read_extras(self, fields: Mapping[str, object]) -> RowExtras | str:
        column = self.spec.context
        if column is None:
            return RowExtras()
        if column not in fields:
            return f"the row has no column {quote(column)}, which should hold the context"
        value = fields[column]
        return RowExtras("" if is_blank(value) else clean_text(str(value)))

    def read_context(self, fields: Mapping[str, object]) -> str:
        return (read_present_cell(fields.get(self.spec.context)) or "") if self.spec.context else ""

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """The text; also that in a list of one text, or in an annotation tool's object."""
        values = None if isinstance(cell, str) else read_annotations(cell)
        return str(values[0]).strip() if values is not None and len(values) == 1 else text

    def write_choices(self) -> list[str]:
        if not self.spec.sections:
            return []
        parts = [
            f"your {section} between {format_open_tag(section)} and {format_close_tag(section)}"
            for section in self.spec.sections
        ]
        return [f"Write {', then '.join(parts)}."]

    @property
    def fenced_part(self) -> str:
        """The context: the text itself is the question, which the model should follow."""
        return "context" if self.spec.context is not None else ""

    def enclose(self, fence: Fence, text: str, extras: RowExtras) -> tuple[str, RowExtras]:
        context = fence.enclose(extras.context) if extras.context else ""
        return text, replace(extras, context=context)

    def write_question(self, text: str, extras: RowExtras) -> str:
        return f"Context: {extras.context}\n\nQuestion: {text}" if extras.context else text

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        text = str(answer)
        if not self.spec.sections or format_open_tag(self.spec.sections[-1]) in text:
            return text
        last = self.spec.sections[-1]
        return f"{format_open_tag(last)}{text}{format_close_tag(last)}"

    def find_confidence_problem(self) -> str | None:
        return "free text has no confidence"

    @property
    def has_sections(self) -> bool:
        return bool(self.spec.sections)

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        return AnswerForm("text")

    def describe_answers(self) -> str:
        sections = self.spec.sections
        limit = f"at most {format_count(self.spec.max_tokens, 'token')}"
        return f"{limit}, sections {', '.join(sections)}" if sections else limit


def format_open_tag(section: str) -> str:
    """The tag before a section's text."""
    return f"<{section}>"


def format_close_tag(section: str) -> str:
    """The tag after a section's text."""
    return f"</{section}>"


def _read_stop_strings(reader: TaskReader, raw: object) -> tuple[str, ...]:
    if is_null(raw):
        return ()
    stops = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(stop, str) and stop for stop in stops) or len(stops) > MAX_STOP_STRINGS:
        message = f'"stop" is a text, or a list of up to {MAX_STOP_STRINGS} texts'
        reader.add_fault(message, "answer", "stop")
        return ()
    return tuple(map(str, stops))


def _read_sections(reader: TaskReader, raw: object) -> tuple[str, ...]:
    if is_null(raw) or (isinstance(raw, str) and raw.casefold() in ("false", "no", "off")):
        return ()
    if isinstance(raw, str) and raw.casefold() in ("true", "yes", "on"):
        return DEFAULT_SECTIONS
    names = raw if isinstance(raw, list) else []
    if not 0 < len(names) <= MAX_SECTIONS or len(set(map(str, names))) < len(names):
        message = (
            f'"sections" is true, or a list of up to {MAX_SECTIONS} different names, the last of '
            "which is the answer"
        )
        reader.add_fault(message, "answer", "sections")
        return ()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not _SECTION_NAME.fullmatch(name):
            message = (
                f"the section {quote(name)} cannot be a tag - use small letters, digits, - "
                "and _, as in <analysis>"
            )
            reader.add_fault(message, "answer", "sections", index)
    return tuple(map(str, names))
