"""Reads JSON files that an earlier process or another tool wrote."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Python's encoder and many functions are recursive: beyond about 300 levels they fail.
MAX_DEPTH = 100


class InvalidJsonFile(Exception):
    """A file that cannot be read or is not valid; the message is the reason, without the path.

    ``keys`` are the keys of the object with values that are not valid.
    """

    def __init__(self, reason: str, keys: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.keys = tuple(keys)


class UnreadableJsonFile(InvalidJsonFile):
    """A file that the operating system does not read; its content can be valid."""


def load_json(path: Path) -> Any:
    """The content of a JSON file, nested at most `MAX_DEPTH` levels deep.

    Raises:
        FileNotFoundError: There is no such file.
        InvalidJsonFile: The file cannot be read, or is not JSON.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe would never end
            raise UnreadableJsonFile("it is not a regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        raise UnreadableJsonFile(error.strerror or type(error).__name__) from None
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


def find_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file, or not a valid one."""
    try:
        return load_json_object(path)
    except (FileNotFoundError, InvalidJsonFile):
        return {}


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
