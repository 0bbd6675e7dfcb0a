"""Damaged copies of JSON files: a part is missing, is null, or has another type."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

WRONG_VALUES: tuple[Any, ...] = (
    None,
    7,
    -3,
    2**63,
    "text",
    "",
    [],
    [7],
    {},
    {"text": 7},
    True,
    1.5,
)
REMOVED = object()
_MAX_ITEMS = 2  # of each list: the others are alike


def list_places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each part of a JSON document, from the outside to the inside."""
    yield place
    if isinstance(content, dict):
        for key, part in content.items():
            yield from list_places(part, (*place, key))
    elif isinstance(content, list):
        for index, part in enumerate(content[:_MAX_ITEMS]):
            yield from list_places(part, (*place, index))


def damage(content: Any, place: Sequence[Any], value: Any) -> Any:
    """A copy with another value at one place, or without that part (`REMOVED`)."""
    if not place:
        return [] if value is REMOVED else value
    damaged = copy.deepcopy(content)
    parent = damaged
    for key in place[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return damaged


def list_damages(content: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Every place of a document with every wrong value."""
    return [(place, value) for place in list_places(content) for value in (REMOVED, *WRONG_VALUES)]
