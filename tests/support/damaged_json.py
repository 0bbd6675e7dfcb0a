"""Damaged copies of JSON files: a part is missing, has another type, or is not JSON at all."""

from __future__ import annotations

import copy
import json
import random
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
_PLACEHOLDER = "placeholder of a token"
_TOKENS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1e-400", "-0.0"),
    *("[" * 90 + "]" * 90, "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "7" + "}" * 5000),
    *('"\\ud800"', '"\\u0000"', '"../../etc/passwd"', '"' + "x" * 100_000 + '"'),
)
_BYTES = (b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf", b'"', b"}", b",,", b"\xc3")
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


def damage_text(content: Any, source: random.Random) -> bytes:
    """A damaged JSON document, as bytes of a file."""
    place, value = source.choice(list_damages(content))
    kind = source.randrange(10)
    if kind < 6:
        return json.dumps(damage(content, place, value)).encode()
    if kind < 8:
        # Tokens that Python writes for no value, in the place of a part.
        text = json.dumps(damage(content, place, _PLACEHOLDER))
        return text.replace(json.dumps(_PLACEHOLDER), source.choice(_TOKENS)).encode()
    data = bytearray(json.dumps(content).encode())
    first = source.randrange(len(data))
    if kind == 8:
        data[first : first + source.randrange(4)] = source.choice(_BYTES)
    else:
        del data[first:]
    return bytes(data)
