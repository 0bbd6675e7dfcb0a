"""The files in which a model's folder stores its weights: those that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medtask.display import format_path, quote, shorten
from medtask.errors import InputError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
_REFETCH = "fetch the model again, or convert it: save_pretrained writes safetensors"


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or those that its index names; empty if it has none.

    Raises:
        InputError: The index is damaged, or names pickled weights or files outside the folder,
            which would be loaded without being hashed.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        return []
    try:
        content = json.loads(index.read_bytes())
        names = set(content["weight_map"].values()) if isinstance(content, Mapping) else {None}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        names = {None}
    foreign = [name for name in names if not _is_weight_file(name)]
    if foreign or not names:
        named = f" ({quote(shorten(str(foreign[0]), 80))})" if foreign and foreign[0] else ""
        raise InputError(
            f"{format_path(index)} does not name safetensors files of its folder{named}",
            fix=_REFETCH,
        )
    return sorted(folder / str(name) for name in names)


def _is_weight_file(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and "/" not in name
        and "\\" not in name
        and not name.startswith(".")
    )
