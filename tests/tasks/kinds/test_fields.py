"""Kind `fields`: gold."""

from __future__ import annotations

from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import Fields
from support.task_texts import FIELDS_SCHEMA, make_task

FIELDS = make_task(Fields(FIELDS_SCHEMA))


def test_fields_are_typed_by_their_schema_and_in_its_order():
    cell = "{'size': '3.5', 'side': 'left', 'dose': '12 Gy', 'nodes': [{'side': 'right'}]}"
    value = {
        "side": "left",
        "size": 3.5,
        "dose": {"value": 12, "unit": "Gy"},
        "nodes": [{"side": "right"}],
    }
    gold = read_gold(FIELDS, {}, cell)
    assert gold == value
    assert list(gold) == ["side", "size", "dose", "nodes"]
    assert find_invalid_gold(FIELDS, {}, gold) == ()
    assert read_gold(FIELDS, {}, {"size": None}) == {"size": None}


def test_a_value_of_a_closed_set_is_found_as_a_reader_would():
    assert read_gold(FIELDS, {}, '{"side": "LEFT"}') == {"side": "left"}
    assert read_gold(FIELDS, {}, '{"side": "left\\u200b"}') == {"side": "left"}


def test_fields_that_do_not_fit_are_kept_and_reported():
    gold = read_gold(
        FIELDS, {}, '{"side": "both", "size": "large", "dose": 12, "nodes": [{"side": "l"}, 3]}'
    )
    assert gold == {"side": "both", "size": "large", "dose": 12, "nodes": [{"side": "l"}, 3]}
    assert find_invalid_gold(FIELDS, {}, gold) == (
        "side",
        "size",
        "dose",
        "nodes[0].side",
        "nodes[1]",
    )
    assert find_invalid_gold(FIELDS, {}, read_gold(FIELDS, {}, {"sise": 3, "size": 3})) == ("sise",)
    assert read_gold(FIELDS, {}, "[1, 2]") == "[1, 2]"
    assert find_invalid_gold(FIELDS, {}, "[1, 2]") == ("[1, 2]",)
