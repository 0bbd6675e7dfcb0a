"""The names in a value, for every kind of question."""

from __future__ import annotations

import pytest

from medtask.records import Value, list_names


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("curative", ("curative",)),
        (("A", "C"), ("A", "C")),
        ((), ()),
        (None, ()),
        ({"stage": "II"}, ()),
    ],
)
def test_the_names_in_a_value(value: Value | None, names: tuple[str, ...]) -> None:
    assert list_names(value) == names
