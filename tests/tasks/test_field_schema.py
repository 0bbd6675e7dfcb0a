"""Schemas of fields: what engines get of them, which fields are scored and quoted, and what is
refused with its line.
"""

from __future__ import annotations

import json
import time

import pytest

from medtask.tasks.schema_keywords import find_schema_problem
from medtask.tasks.task import Fields, ScoredField

HEAD = 'instruction: Read.\ninput: "{{ text }}"\nanswer:\n  kind: fields\n  schema:\n'


def make_fields_yaml(properties: str, rest: str = "") -> str:
    """A task whose fields begin in line 8, six blanks in."""
    lines = "".join(f"      {line}\n" for line in properties.strip("\n").split("\n"))
    return f"{HEAD}    type: object\n    properties:\n{lines}{rest}"


def load_fields(load, properties: str) -> Fields:
    form = load(make_fields_yaml(properties)).answer_spec
    assert isinstance(form, Fields)
    return form


def make_closed_schema(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def test_a_schema_is_typed_by_its_keywords_and_closed(load_text):
    form = load_fields(
        load_text,
        """
size: {type: number, minimum: 0, maximum: 3.5, unit: mm, nullable: true, description: largest   diameter}
grade: {type: integer, enum: [1, 2, 3]}
stage: {enum: [I, II, 012, no]}
seen: {type: [string, "null"], format: date}
code: {type: string, pattern: "[A-Z][0-9]+", maxLength: 5}
dead: {type: boolean}
sides: {type: array, items: {type: string}, minItems: 1, maxItems: 2}
""",  # noqa: E501 - data as it is read
    )
    assert form.schema == make_closed_schema(
        size={
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 3.5,
            "description": "in mm; largest diameter",
        },
        grade={"enum": [1, 2, 3]},
        stage={"enum": ["I", "II", "012", "no"]},
        seen={"type": ["string", "null"], "format": "date"},
        code={"type": "string", "pattern": "[A-Z][0-9]+", "maxLength": 5},
        dead={"type": "boolean"},
        sides={"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    )
    assert find_schema_problem(form.schema) is None
    values = {"grade": (1, 2, 3), "stage": ("I", "II", "012", "no"), "dead": (True, False)}
    assert form.scored == tuple(ScoredField((name,), known) for name, known in values.items())


def test_null_is_a_value_that_can_be_chosen(load_text):
    form = load_fields(
        load_text,
        """
stage: {enum: [I, null]}
side: {enum: [left], nullable: true}
word: {enum: ['null', x]}
dead: {type: boolean, nullable: true}
""",
    )
    assert [field.values for field in form.scored] == [
        ("I", None),
        ("left", None),
        ("null", "x"),
        (True, False, None),
    ]
    assert form.scored[0].outcomes == ("stage=I", "stage=null")


def test_a_field_with_one_value_is_not_scored(load_text):
    assert load_fields(load_text, "kind: {const: report}\nside: {enum: [left]}").scored == ()


def test_only_fields_that_are_always_written_are_scored(load_text):
    form = load_fields(
        load_text,
        """
here:
  properties:
    dead: {type: boolean}
perhaps:
  nullable: true
  properties:
    dead: {type: boolean}
many:
  type: array
  items: {properties: {dead: {type: boolean}}}
""",
    )
    assert [field.path for field in form.scored] == [("here", "dead")]
    assert form.schema["properties"]["perhaps"]["type"] == ["object", "null"]


def test_units_to_choose_from_make_a_value_and_a_unit(load_text):
    form = load_fields(
        load_text,
        "size: {type: number, unit: [mm, cm], minimum: 0}\ndose: {type: number, unit: [Gy, cGy], "
        "nullable: true}",
    )
    measured = make_closed_schema(
        value={"type": "number", "minimum": 0}, unit={"enum": ["mm", "cm"]}
    )
    maybe = {
        **make_closed_schema(value={"type": "number"}, unit={"enum": ["Gy", "cGy"]}),
        "type": ["object", "null"],
    }
    assert form.schema == make_closed_schema(size=measured, dose=maybe)
    assert form.scored == (ScoredField(("size", "unit"), ("mm", "cm")),)


def test_a_quote_is_behind_its_field(load_text):
    form = load_fields(
        load_text,
        "stage: {enum: [I, II], quote: true}\nplace: {properties: {side: {type: string, quote: "
        "true}}}\nend: {type: boolean}",
    )
    span = {"type": ["string", "null"], "quote": True}
    assert list(form.schema["properties"]) == ["stage", "stage_quote", "place", "end"]
    assert form.schema["properties"]["stage_quote"] == span
    assert form.schema["properties"]["place"]["properties"]["side_quote"] == span
    assert form.quoted == (("stage",), ("place", "side"))


def test_what_an_object_does_not_require_may_be_null(load_text):
    form = load_text(
        make_fields_yaml("a: {type: string}\nb: {type: string}", "    required: [a]\n")
    ).answer_spec
    assert [part["type"] for part in form.schema["properties"].values()] == [
        "string",
        ["string", "null"],
    ]
    assert form.schema["required"] == ["a", "b"]


def test_a_schema_as_pydantic_writes_it(load_text, tmp_path):
    schema = {
        "$defs": {
            "Node": {
                "title": "Node",
                "type": "object",
                "properties": {"side": {"enum": ["l", "r"]}},
                "required": ["side"],
            }
        },
        "title": "Report",
        "type": "object",
        "properties": {
            "nodes": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            "main": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}], "default": None},
            "size": {
                "anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}],
                "title": "Size",
            },
            "grade": {"enum": [1, 2.5, True, None]},
        },
        "required": ["nodes", "main", "size", "grade"],
    }
    (tmp_path / "report.json").write_text(json.dumps(schema))
    form = load_text(
        'instruction: Read.\ninput: "{{ text }}"\nanswer: {kind: fields, schema: report.json, '
        "max_tokens: 99}\n"
    ).answer_spec
    node = make_closed_schema(side={"enum": ["l", "r"]})
    assert form.schema["properties"]["nodes"] == {"type": "array", "items": node}
    assert form.schema["properties"]["main"] == {**node, "type": ["object", "null"]}
    assert form.schema["properties"]["size"] == {"type": ["number", "null"], "minimum": 0}
    assert form.max_tokens == 99


@pytest.mark.parametrize(
    ("properties", "line", "message"),
    [
        ("a: {type: number, minimum: 5, maximum: 3}", 8, '"minimum" is above "maximum"'),
        (
            "a:\n  type: array\n  items: {type: string}\n  minItems: 3\n  maxItems: 1",
            11,
            '"minItems" is above "maxItems"',
        ),
        (
            "a: {type: array, items: {type: string}, minItems: 1000000000}",
            8,
            '"minItems" needs more text than "max_tokens: 512" allows',
        ),
        (
            "a: {type: string, minLength: 20000}",
            8,
            '"minLength" needs more text than "max_tokens: 512" allows',
        ),
        ("a: {enum: []}", 8, '"enum" is empty - name the values'),
        ("a: {enum: [x, y, x]}", 8, '"x" is listed twice'),
        ("a: {enum: [x, 'x ']}", 8, '"x" and "x " cannot be told apart'),
        (
            "a: {enum: ['caf\u00e9', 'cafe\u0301']}",
            8,
            '"caf\u00e9" and "cafe\u0301" cannot be told apart',
        ),
        ("a: {type: integer, enum: [1, two]}", 8, '"two" is not a valid integer'),
        ("a: {type: nubmer}", 8, 'unknown type "nubmer" - did you mean "number"?'),
        ("a: {type: [number, string]}", 8, 'a part has one type, or one and "null"'),
        (
            "a: {description: x}",
            8,
            "a part of a schema has a type: string, number, integer, boolean, array, object",
        ),
        ("a: {type: number, minimun: 3}", 8, 'unknown key "minimun" - did you mean "minimum"?'),
        (
            "a: {type: string, minimum: 3}",
            8,
            '"minimum" belongs to the type number or integer, and this is "string"',
        ),
        ("a: {type: number, minimum: low}", 8, '"minimum" must be a number'),
        ("a: {type: string, maxLength: -1}", 8, '"maxLength" must be a whole number, 0 or more'),
        ("a: {type: string, format: dat}", 8, 'unknown format "dat" - did you mean "date"?'),
        (
            "a: {type: string, pattern: '[a-'}",
            8,
            "nothing satisfies this: unclosed character class",
        ),
        (
            "a: {type: string, pattern: '^abc$', maxLength: 2}",
            8,
            "nothing satisfies this: Regex is empty",
        ),
        (
            "b: {type: string}\na: {type: [integer, null], minimum: 1.2, maximum: 1.8}",
            9,
            "nothing satisfies this: integer interval",
        ),
        ("a: {type: object}", 8, 'an object names its fields under "properties"'),
        (
            "a: {properties: {b: {type: string}}, additionalProperties: true}",
            8,
            "only named fields are written",
        ),
        (
            "a: {properties: {b: {type: string}}, required: [c]}",
            8,
            '"c" is required, but is not a field of the object',
        ),
        ("a: {type: string, nullable: maybe}", 8, '"nullable" must be true or false'),
        (
            "a: {type: string, quote: true}\na_quote: {type: string}",
            8,
            'the quote would have the name "a_quote" of another field',
        ),
        ("a: {type: array, items: {type: string, quote: true}}", None, None),
        (
            "a: {type: array, items: {properties: {b: {type: string, quote: true}}}}",
            8,
            "a field inside a list cannot be quoted",
        ),
        (
            "a: {type: array}",
            8,
            "a part of a schema has a type: string, number, integer, boolean, array, object",
        ),
        (
            "a: {type: number, unit: [mm]}",
            8,
            '"unit" is one unit, or a list of different ones to choose from',
        ),
        (
            "a: {type: string, unit: mm}",
            8,
            '"unit" belongs to the type number or integer, and this is "string"',
        ),
        (
            "a: {$ref: '#/properties/a'}",
            8,
            '"#/properties/a" refers to itself: the schema would be endless',
        ),
        ("a: {$ref: '#'}", 8, '"#" refers to itself: the schema would be endless'),
        ("a: {$ref: '#/$defs/b'}", 8, '"#/$defs/b" is not in this schema'),
        ("a: {$ref: 'file.json#/a'}", 8, '"file.json#/a" is not in this schema'),
        (
            "a: {anyOf: [{type: string}, {type: number}]}",
            8,
            '"anyOf" may only join one part with {type: "null"}',
        ),
        ("a: text", 8, "a part of a schema is a mapping, as in {type: number}"),
        (
            '"a\\u200bb": {type: string}',
            8,
            '"a\\u200bb" cannot be a field: it is blank, too long, or holds an invisible ',
        ),
    ],
)
def test_what_is_wrong_with_a_schema(load_text, load_faults, properties, line, message):
    if message is None:
        load_text(make_fields_yaml(properties))
    else:
        ((found_line, found),) = load_faults(make_fields_yaml(properties))
        assert (found_line, found[: len(message)]) == (line, message)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("schema: [a]", '"schema" is a JSON schema, or the path of a .json file that holds one'),
        ("schema: {}", '"schema" is a JSON schema, or the path of a .json file that holds one'),
        (
            "schema: {type: string}",
            'a schema begins with an object: "type: object" and "properties"',
        ),
        ("schema: notes.txt", 'the schema "notes.txt" is not a .json file'),
        (
            "schema: nowhere.json",
            "nowhere.json: the file cannot be read: No such file or directory",
        ),
        (
            "schema: bad.json",
            (
                "bad.json: not JSON: line 2, column 1: Expecting property name enclosed in double "
                "quotes"
            ),
        ),
        ("schema: low.json", 'low.json: properties.a.minimum: "minimum" is above "maximum"'),
        ("max_tokens: 9", '"answer" has no "schema"'),
    ],
)
def test_a_value_that_is_not_a_schema_is_refused(load_faults, tmp_path, schema, message):
    (tmp_path / "bad.json").write_text("{\n")
    (tmp_path / "low.json").write_text(
        '{"properties": {"a": {"type": "number", "minimum": 2, "maximum": 1}}}'
    )
    assert load_faults(
        f'instruction: Read.\ninput: "{{{{ text }}}}"\nanswer: {{kind: fields, {schema}}}\n'
    ) == [(3, message)]


def test_all_faults_of_a_schema_come_at_once(load_faults):
    found = load_faults(
        make_fields_yaml(
            "a: {type: strin}\nb: {enum: []}\nc: {type: number, minimum: 2, maximum: 1}"
        )
    )
    assert [line for line, _ in found] == [8, 9, 10]


# Schemas from a stranger


DEEP = '{"type": "object", "properties": {"a": ' * 400 + '{"type": "string"}' + "}}" * 400
DOUBLING = {
    "properties": {"a": {"$ref": "#/$defs/d0"}},
    "$defs": {
        f"d{n}": {
            "properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}, "y": {"$ref": f"#/$defs/d{n + 1}"}}
        }
        for n in range(30)
    }
    | {"d30": {"type": "string"}},
}
CIRCLE = {
    "properties": {"a": {"$ref": "#/$defs/b"}},
    "$defs": {"b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}},
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (DEEP, "nested more than 10 deep"),
        (DOUBLING, "nested more than 10 deep"),
        (CIRCLE, "refers to itself"),
        (
            {"properties": {f"f{n}": {"type": "string"} for n in range(5_000)}},
            "more than 300 fields",
        ),
        (
            {"properties": {"a": {"enum": [f"v{n}" for n in range(50_000)]}}},
            "more than 2,000 values",
        ),
        (
            {"properties": {"a": {"type": "string", "pattern": "a" * 5_000}}},
            "at most 1,000 characters",
        ),
        ({"properties": {"a": {"type": "number", "maximum": float("inf")}}}, "must be a number"),
    ],
    ids=["deep", "doubling", "circle", "fields", "values", "pattern", "infinite"],
)
def test_a_schema_that_would_grow_without_end_is_refused_quickly(
    load_faults, tmp_path, schema, words
):
    (tmp_path / "schema.json").write_text(schema if isinstance(schema, str) else json.dumps(schema))
    begin = time.perf_counter()
    found = load_faults(
        'instruction: Read.\ninput: "{{ text }}"\nanswer: {kind: fields, schema: schema.json}\n'
    )
    assert time.perf_counter() - begin < 2
    assert any(words in message for _, message in found)


def test_the_largest_schema_that_is_allowed_loads_quickly(load_text, tmp_path):
    fields = {
        f"field {n}": {
            "enum": [f"value {n} {value}" for value in range(50)],
            "nullable": True,
            "quote": True,
        }
        for n in range(300)
    }
    (tmp_path / "schema.json").write_text(json.dumps({"properties": fields}))
    begin = time.perf_counter()
    form = load_text(
        'instruction: Read.\ninput: "{{ text }}"\nanswer: {kind: fields, schema: schema.json}\n'
    ).answer_spec
    assert time.perf_counter() - begin < 5
    assert len(form.scored) == 300


def test_dates_have_bounds(load_text):
    part = "{type: string, format: date, formatMinimum: 2015-01-01, formatMaximum: 2026-12-31}"
    form = load_fields(load_text, f"day: {part}")
    bounds = {"formatMinimum": "2015-01-01", "formatMaximum": "2026-12-31"}
    assert form.schema["properties"]["day"] == {"type": "string", "format": "date", **bounds}
    assert find_schema_problem(form.schema) is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("format: date, minimum: 2015-01-01", 'a date has "formatMinimum"'),
        ("format: date, formatMinimum: yesterday", '"formatMinimum" is a date as YYYY-MM-DD'),
        ("formatMaximum: 2015-01-01", 'beside "format: date"'),
        (
            "format: date, formatMinimum: 2016-01-01, formatMaximum: 2015-01-01",
            '"formatMinimum" is above "formatMaximum"',
        ),
    ],
)
def test_bounds_of_dates_that_are_not_valid_are_faults(load_faults, part, message):
    (_, found), *_ = load_faults(make_fields_yaml(f"day: {{type: string, {part}}}"))
    assert message in found
