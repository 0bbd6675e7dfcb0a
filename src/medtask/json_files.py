"""Reads JSON files that an earlier process or another tool wrote, and checks their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medtask.display import format_name

# Python's encoder and many functions are recursive: beyond about 300 levels they fail.
MAX_DEPTH = 100


class InvalidJsonFile(Exception):
    """A file that cannot be read or is not valid; the message is the reason, without the path."""


class JsonContent(BaseModel):
    """The parts of a file's content that are checked; other parts are kept as they are.

    A number is not read from a text, nor a text from a number.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


Content = TypeVar("Content", bound=BaseModel)


def load_json(path: Path) -> Any:
    """The content of a JSON file, nested at most `MAX_DEPTH` levels deep.

    Raises:
        FileNotFoundError: There is no such file.
        InvalidJsonFile: The file cannot be read, or is not JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        raise InvalidJsonFile(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise InvalidJsonFile("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidJsonFile(f"line {error.lineno} is not JSON") from None
    except ValueError:
        raise InvalidJsonFile("a number has too many digits") from None
    except RecursionError:
        raise InvalidJsonFile("it is nested too deeply") from None
    _check_depth(content)
    return content


def load_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises as `load_json`."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise InvalidJsonFile("it is not a JSON object")
    return content


def load_checked(path: Path, schema: type[Content]) -> Content:
    """The content of a file, checked against a pydantic model; raises as `load_json`."""
    return check_content(load_json_object(path), schema)


def check_content(content: object, schema: type[Content]) -> Content:
    """The content, checked against a pydantic model.

    Raises:
        InvalidJsonFile: The content is not valid. The message names the first part that is not.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        # Without the value: it can be a text of a record.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = format_name(".".join(map(str, first["loc"])))
        raise InvalidJsonFile(f"{place}: {format_name(first['msg'], 200)}") from None
    except RecursionError:
        raise InvalidJsonFile("it is nested too deeply") from None


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [part for part in level if isinstance(part, (dict, list))]
        if not level:
            return
        level = [
            part
            for parent in level
            for part in (parent.values() if isinstance(parent, dict) else parent)
        ]
    raise InvalidJsonFile("it is nested too deeply")
