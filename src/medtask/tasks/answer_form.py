"""`AnswerForm`: what a person fills in to answer one row, and the check of what was filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medtask.display import format_list, quote
from medtask.errors import InputError
from medtask.near_duplicates import normalize_words
from medtask.records import Value
from medtask.tasks.field_values import coerce_value
from medtask.tasks.text_cleaning import clean_text

MAX_ANSWER_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class AnswerChoice:
    """One allowed answer: its value, the text shown for it, and its definition."""

    value: str
    title: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The input of one row's answer.

    Attributes:
        input: "one" or "several" of ``choices``, a "text", or an "object" of ``schema``.
        choices: The allowed answers, in the task's order.
        at_least_one: Whether "several" needs at least one choice.
        at_most: The maximum number of choices for "several"; None for no limit.
        schema: The JSON schema of an "object".
    """

    input: Literal["one", "several", "text", "object"]
    choices: tuple[AnswerChoice, ...] = ()
    at_least_one: bool = False
    at_most: int | None = None
    schema: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def parse(self, value: object) -> Value:
        """A filled-in JSON value as an answer.

        Raises:
            InputError: The value is not a valid answer. The message contains no record text.
        """
        if self.input == "one":
            return self._parse_choice(value)
        if self.input == "several":
            return self._parse_choices(value)
        return self._parse_text(value) if self.input == "text" else self._parse_object(value)

    def normalize(self, value: Value) -> object:
        """A parsed answer in a form in which answers that say the same are equal."""
        return normalize_words(value) if self.input == "text" and isinstance(value, str) else value

    def _parse_choice(self, value: object) -> str:
        names = [choice.value for choice in self.choices]
        if not isinstance(value, str) or value not in names:
            raise InputError(
                "the answer is not one of the allowed answers",
                fix=f"choose one of {format_list(list(map(quote, names[:20])))}",
            )
        return value

    def _parse_choices(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise InputError("the answer is not a list", fix="send a list of allowed answers")
        chosen = [self._parse_choice(item) for item in value]
        found = tuple(choice.value for choice in self.choices if choice.value in chosen)
        if self.at_least_one and not found:
            raise InputError("no answer is chosen", fix="choose at least one")
        if self.at_most is not None and len(found) > self.at_most:
            raise InputError(
                f"{len(found)} answers are chosen", fix=f"choose at most {self.at_most}"
            )
        return found

    def _parse_text(self, value: object) -> str:
        text = clean_text(value) if isinstance(value, str) else ""
        if not text:
            raise InputError("the answer has no text", fix='write an answer, or "cannot tell"')
        if len(text) > MAX_ANSWER_CHARACTERS:
            raise InputError(
                f"the answer has {len(text):,} characters",
                fix=f"write at most {MAX_ANSWER_CHARACTERS:,}",
            )
        return text

    def _parse_object(self, value: object) -> Mapping[str, object]:
        assert self.schema is not None
        if not isinstance(value, Mapping):
            raise InputError("the answer is not an object", fix="send an object of fields")
        problems: dict[str, str] = {}
        coerced = coerce_value(self.schema, _add_missing_fields(self.schema, value), problems)
        if problems:
            listed = "; ".join(f"{name} {problem}" for name, problem in problems.items())
            raise InputError(f"fields are not valid: {listed}", fix="correct these fields")
        return dict(coerced)


def _add_missing_fields(schema: Mapping[str, Any], value: Mapping[str, object]) -> dict[str, Any]:
    """The object with null for the fields that it does not have."""
    full = dict(value)
    for name, part in schema["properties"].items():
        inner = full.setdefault(name, None)
        if isinstance(inner, Mapping) and "properties" in part:
            full[name] = _add_missing_fields(part, inner)
    return full
