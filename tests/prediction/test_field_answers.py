from __future__ import annotations

import json

from medtask.prediction.field_answers import (
    build_field_branches,
    find_outcome,
    parse_object,
)
from medtask.tasks.field_values import format_json
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Fields, ScoredField, Task

SCHEMA = {
    "type": "object",
    "properties": {
        "side": {"enum": ["left", "right", None]},
        "side_quote": {"type": ["string", "null"], "quote": True},
        "tumour": {
            "type": ["object", "null"],
            "properties": {"seen": {"type": "boolean"}, "size": {"type": "number"}},
        },
    },
}
FORM = Fields(
    SCHEMA,
    scored=(
        ScoredField(("side",), ("left", "right", None)),
        ScoredField(("tumour", "seen"), (True, False)),
    ),
    quoted=(("side",),),
)


def test_each_field_is_scored_after_the_text_before_it() -> None:
    value = {"side": "left", "side_quote": 'the "left" flank', "tumour": {"seen": True, "size": 3}}
    (side, first), (seen, second) = build_field_branches(FORM, value)
    assert (first.prefix, first.candidates) == ('{"side":', ('"left"', '"right"', "null"))
    assert (second.prefix, second.candidates) == (
        '{"side":"left","side_quote":"the \\"left\\" flank","tumour":{"seen":',
        ("true", "false"),
    )
    for field, branch in ((side, first), (seen, second)):
        chosen = field.outcomes.index(find_outcome(field, value))
        assert format_json(value).startswith(branch.prefix + branch.candidates[chosen])


def test_fields_of_an_absent_object_are_not_asked_about() -> None:
    assert [
        field.path
        for field, _ in build_field_branches(
            FORM, {"side": None, "side_quote": None, "tumour": None}
        )
    ] == [("side",)]


def test_outcomes_are_named_by_field_and_value() -> None:
    assert FORM.scored[0].outcomes == ("side=left", "side=right", "side=null")
    assert FORM.scored[1].outcomes == ("tumour.seen=true", "tumour.seen=false")


def test_the_schema_of_the_answer_has_no_quotes() -> None:
    assert list(get_task_kind(Task("t", "", "", FORM)).answer_schema["properties"]) == [
        "side",
        "tumour",
    ]
    assert "side_quote" in json.dumps(FORM.schema)


def test_only_an_object_is_read() -> None:
    assert parse_object('{"a": 1}') == {"a": 1}
    assert [parse_object(text) for text in ("[1]", "{", "", "null")] == [None] * 4
