"""Checks the content of JSON files against pydantic models."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medtask.display import format_name
from medtask.json_files import InvalidJsonFile, load_json


class JsonContent(BaseModel):
    """The parts of a file's content that are checked; other parts are kept as they are.

    A number is not read from a text, nor a text from a number.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


Content = TypeVar("Content", bound=BaseModel)


def load_checked(path: Path, schema: type[Content]) -> Content:
    """The content of a file, checked against a pydantic model; raises as `load_json`."""
    return check_content(load_json(path), schema)


def check_content(content: object, schema: type[Content]) -> Content:
    """The content, checked against a pydantic model.

    Raises:
        InvalidJsonFile: The content is not valid. The message names the first part that is not.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        # Without the value: it can be a text of a record.
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        place, reason = faults[0]["loc"], format_name(faults[0]["msg"], 200)
        if place:
            reason = f"{format_name('.'.join(map(str, place)))}: {reason}"
        keys = sorted({str(fault["loc"][0]) for fault in faults if fault["loc"]})
        raise InvalidJsonFile(reason, keys) from None
    except RecursionError:
        raise InvalidJsonFile("it is nested too deeply") from None
