"""A value that its quote contradicts is a reason for review; what cannot be compared is not."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.prediction.field_checks import check_fields
from medtask.tasks.task import Fields


def check(part: dict[str, Any], value: object, quote: str | None) -> list[str]:
    spec = Fields({"type": "object", "properties": {"size": part}}, quoted=(("size",),))
    return check_fields(spec, {"size": value}, {} if quote is None else {"size": quote})


NUMBER = {"type": ["number", "null"]}
MM = {**NUMBER, "description": "in mm; the largest diameter"}
PAIR = {
    "type": "object",
    "properties": {"value": {"type": "number"}, "unit": {"enum": ["mm", "cm"]}},
}
DATE = {"type": ["string", "null"], "format": "date"}


@pytest.mark.parametrize(
    ("part", "value", "quote"),
    [
        (NUMBER, 18, "tumour of 18 mm"),
        (NUMBER, 1.8, "1,8 cm"),
        (NUMBER, 1500, "1,500 ml"),
        (NUMBER, 1500, "1.500 ml"),
        (NUMBER, 12345, "12 345".replace(" ", "\u00a0")),
        (NUMBER, 68, "68-year-old"),
        (NUMBER, 3, "3/12 lymph nodes"),
        (NUMBER, 2, "two nodes"),
        (NUMBER, 3, "drei Lymphknoten"),
        (NUMBER, 0, "no tumour seen"),
        (NUMBER, 0, "ingen metastaser"),
        (NUMBER, -2, "T-score -2"),
        (MM, 18, "1.8 cm"),
        (MM, 20, "2 x 3 cm"),
        (MM, 18, "18"),
        (PAIR, {"value": 1.8, "unit": "cm"}, "18 mm"),
        (PAIR, {"value": 18, "unit": "mm"}, "18 mm"),
        (DATE, "2019-01-31", "31.01.2019"),
        (DATE, "2019-01-31", "31.1.19"),
        (DATE, "2019-01-31", "2019-01-31"),
        (DATE, "2019-01-31", "01/31/2019"),
        (DATE, "2019-01-31", "20190131"),
        (DATE, "2019-05-03", "3. mai 2019"),
        (DATE, "2019-12-03", "December 3rd, 2019"),
        (DATE, "2019-03-03", "3. M\u00e4rz 2019"),
        ({"type": "string"}, "left", "on the other side"),
        ({"enum": ["I", "II"]}, "I", "stage one"),
        ({"type": "boolean"}, False, "18"),
        (NUMBER, None, None),
    ],
)
def test_what_agrees_with_its_quote_is_not_reviewed(
    part: dict[str, Any], value: object, quote: str | None
) -> None:
    assert check(part, value, quote) == []


@pytest.mark.parametrize(
    ("part", "value", "quote"),
    [
        (NUMBER, 1, "18"),
        (NUMBER, 1, "no tumour seen"),
        (NUMBER, 5, "a large tumour"),
        (NUMBER, 15, "1,5"),
        (MM, 18, "18 cm"),
        (MM, 18, "18 %"),
        (PAIR, {"value": 18, "unit": "cm"}, "18 mm"),
        (DATE, "1234-12-31", "in December"),
        (DATE, "2019-01-01", "since 2019"),
        (DATE, "2019-02-31", "31.02.2019"),
        (DATE, "2019-01-31", "31.02.2019"),
    ],
)
def test_what_its_quote_contradicts_is_reviewed(
    part: dict[str, Any], value: object, quote: str
) -> None:
    assert check(part, value, quote) == ["size does not agree with its quote"]


def test_values_outside_the_bounds_of_the_schema_are_reviewed() -> None:
    schema = {
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "nodes": {"items": {"properties": {"mm": {"exclusiveMinimum": 0}}}},
        }
    }
    spec = Fields(schema)
    assert check_fields(spec, {"age": 40, "nodes": [{"mm": 3}]}, {}) == []
    assert check_fields(spec, {"age": 140, "nodes": [{"mm": 3}, {"mm": 0}]}, {}) == [
        "age is above its maximum 120",
        "nodes[1].mm is not above 0",
    ]


def test_a_large_bound_is_written_with_all_of_its_digits() -> None:
    spec = Fields({"properties": {"cells": {"type": "integer", "maximum": 1_234_567}}})
    reasons = check_fields(spec, {"cells": 2_000_000}, {})
    assert reasons == ["cells is above its maximum 1234567"]


def test_dates_outside_the_bounds_of_the_schema_are_reviewed() -> None:
    part = {"format": "date", "formatMinimum": "2015-01-01", "formatMaximum": "2026-12-31"}
    spec = Fields({"properties": {"operated": part}})
    assert check_fields(spec, {"operated": "2019-01-31"}, {}) == []
    assert check_fields(spec, {"operated": "1234-12-31"}, {}) == ["operated is before 2015-01-01"]
    assert check_fields(spec, {"operated": "2062-01-01"}, {}) == ["operated is after 2026-12-31"]


def test_a_value_without_its_quote_is_reviewed_and_no_value_is_not() -> None:
    assert check(NUMBER, 18, None) == ["no quote for size"]
    assert check({"type": "boolean"}, False, None) == ["no quote for size"]
    for nothing in (None, "", []):
        assert check(NUMBER, nothing, None) == []


def test_a_quote_that_is_not_in_the_record_is_one_reason() -> None:
    spec = Fields({"properties": {"size": NUMBER}}, quoted=(("size",),))
    reasons = check_fields(spec, {"size": 18}, {}, ["size"])
    assert reasons == ["the quote of size is not in the record"]
