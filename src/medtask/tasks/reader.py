"""`TaskReader`: reads the parts of one task file and collects their faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from medtask.display import quote
from medtask.errors import TaskFault
from medtask.tasks.config import ConfigModel, list_keys
from medtask.tasks.document import Document, KeyPath
from medtask.tasks.parse_events import NullScalar
from medtask.tasks.task_paths import resolve_task_path

ConfigT = TypeVar("ConfigT", bound=ConfigModel)


@dataclass(slots=True)
class TaskReader:
    """Reads one task file and collects its faults.

    Attributes:
        document: The file, with known keys only.
        faults: The faults found so far.
        answers_known: Whether the answer section has no faults, so that answers named elsewhere in
            the file can be checked.
        root: The folder that named files must be in; None for any folder.
    """

    document: Document
    faults: list[TaskFault] = field(default_factory=list)
    answers_known: bool = True
    root: Path | None = None

    def resolve_path(self, name: str) -> Path:
        """The file that a value names. Raises InputError if it is outside `root`."""
        return resolve_task_path(self.folder, name, self.root)

    @property
    def folder(self) -> Path:
        """The folder of the file; paths in the file are relative to it."""
        return Path(self.document.source).parent

    def add_fault(self, message: str, *path: str | int, text_line: int = 1) -> None:
        """Add a fault, with the line of the value at ``path``."""
        self.faults.append(self.document.make_fault(message, *path, text_line=text_line))

    def format_warning(self, message: str, *path: str | int) -> str:
        """``task.yaml:7: message``, with the line of the value at ``path``."""
        file_name, line = Path(self.document.source).name, self.document.find_line(*path)
        return f"{file_name}:{line}: {message}"

    def is_missing(self, *path: str | int) -> bool:
        """Whether the value at ``path`` is missing or null."""
        return is_null(self.document.get_value(*path))

    def get_text(self, key: str) -> str:
        """The stripped text under a top-level key; "" if missing."""
        value = self.document.data.get(key)
        return value.strip() if isinstance(value, str) else ""

    def read_config(self, path: KeyPath, config_type: type[ConfigT]) -> ConfigT | None:
        """Validate the mapping at ``path``; None, with faults, if a value is not valid."""
        try:
            return config_type.model_validate(self.document.get_value(*path))
        except ValidationError as error:
            for fault in error.errors():
                message = _explain_value(
                    config_type, fault, (*path, *fault["loc"]), fault.get("ctx", {})
                )
                self.add_fault(message, *path, *fault["loc"])
            return None


def is_null(value: object) -> bool:
    """Whether a value of a task file is missing or null."""
    return value is None or isinstance(value, NullScalar)


def _explain_value(
    config_type: type[ConfigModel], fault: Any, path: KeyPath, context: Mapping[str, Any]
) -> str:
    key, value = quote(path[-1]), fault["input"]
    match fault["type"]:
        case "missing":
            return (
                f"{_describe_path(path[:-1])} has no {key}"
                if len(path) > 1
                else f"{key} is missing"
            )
        case "literal_error":
            return f"{key} is {quote(value)} - it can be {context['expected'].replace(chr(39), '')}"
        case "model_type":
            return f"{key} must be a mapping with the keys {', '.join(list_keys(config_type))}"
        case "string_type" if isinstance(value, dict | list):
            return f'{key} must be a text - put " around it'
        case "string_type" | "string_too_short":
            return f"{key} is blank"
    return f"{key} must be {config_type.model_fields[str(path[-1])].description}"


def _describe_path(path: KeyPath) -> str:
    return f"pass {path[-1] + 1}" if isinstance(path[-1], int) else quote(path[-1])
