"""What the grammar of a schema allows: any walk through it, however silly its choices, ends in JSON
that satisfies the schema.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.engines.decoding.constraints import (
    ConstraintFactory,
    GrammarConstraint,
    compute_allowed_tokens,
)
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import InputError
from support.tiny_models import make_tokenizer

TOKENIZER = HfTokenizer(make_tokenizer("chatml"))
VOCABULARY = (
    TOKENIZER.vocabulary_size + 12
)  # models often have more rows than their tokenizer has tokens
END = 2
SCHEMAS = ConstraintFactory(TOKENIZER, VOCABULARY, (END, 4))
NOTE = 'Tumour 34 mm, grade "G2".\nOestrogen receptor positive (90 %)\\path\tψ 🙂 مريض.'
QUOTE = {"type": "string", "quote": True}
MAYBE = {"type": ["string", "null"], "quote": True, "maxLength": 12}


def make_closed_schema(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def generate_constrained(constraint: GrammarConstraint, seed: int, max_tokens: int = 4000) -> str:
    """Write random allowed tokens, until none is allowed or the end is drawn; short texts are
    likelier than with fair dice.
    """
    chance = random.Random(seed)
    closing = set(TOKENIZER.encode(['"}],'])[0]) | {END}
    tokens: list[int] = []
    while not constraint.is_finished and len(tokens) < max_tokens:
        allowed = compute_allowed_tokens([constraint], VOCABULARY)[0].nonzero()[0].tolist()
        assert allowed
        likely = [token for token in allowed if token in closing]
        token = chance.choice(likely if likely and chance.random() < 0.3 else allowed)
        if token in (END, 4):
            break
        tokens.append(token)
        constraint.accept_token(token)
        assert constraint.error is None
    return str(TOKENIZER.decode(tokens))


def generate_json(schema: dict[str, Any], text: str = NOTE, seed: int = 0) -> Any:
    result = generate_constrained(SCHEMAS.compile_schema(schema, leading_space=False)(text), seed)
    value = json.loads(result)
    if not any(
        mark in result for mark in "eE.\\"
    ):  # numbers and escapes may be written in several ways
        assert result == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), st.integers(0, 10**6))
def test_a_quote_is_in_the_text_letter_by_letter(text: str, seed: int) -> None:
    value = generate_json(make_closed_schema(q=QUOTE, r=QUOTE), text, seed)
    assert value["q"]
    assert value["q"] in text
    assert value["r"] in text


@pytest.mark.parametrize("seed", range(25))
def test_quotes_work_wherever_a_schema_may_have_them(seed: int) -> None:
    finding = make_closed_schema(site={"enum": ["left", "right"]}, site_quote=MAYBE)
    schema = {
        **make_closed_schema(
            size=make_closed_schema(
                value={"type": "number", "minimum": 0, "maximum": 500}, unit={"enum": ["mm", "cm"]}
            ),
            grade={"enum": ["G1", "G2", None]},
            grade_quote={
                "anyOf": [
                    {**QUOTE, "maxLength": 30, "description": "as it stands"},
                    {"type": "null"},
                ]
            },
            seen={"type": "string", "format": "date"},
            done={"type": "boolean"},
            findings={
                "type": "array",
                "items": {"$ref": "#/$defs/finding"},
                "minItems": 1,
                "maxItems": 3,
            },
            words={
                "type": "array",
                "items": {**QUOTE, "minLength": 2, "maxLength": 5},
                "maxItems": 2,
            },
            again={"$ref": "#/$defs/quote"},
        ),
        "$defs": {"finding": finding, "quote": {**QUOTE, "maxLength": 20}},
    }
    value = generate_json(schema, seed=seed)
    assert list(value) == list(schema["properties"])
    assert 0 <= value["size"]["value"] <= 500
    assert value["grade"] in ("G1", "G2", None)
    assert value["grade_quote"] is None or (
        value["grade_quote"] in NOTE and 1 <= len(value["grade_quote"]) <= 30
    )
    assert 1 <= len(value["findings"]) <= 3
    for one in value["findings"]:
        assert one["site"] in ("left", "right")
        assert one["site_quote"] is None or (
            one["site_quote"] in NOTE and len(one["site_quote"]) <= 12
        )
    assert len(value["words"]) <= 2
    assert all(word in NOTE and 2 <= len(word) <= 5 for word in value["words"])
    assert value["again"] in NOTE


@pytest.mark.parametrize("required", [[], ["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]])
def test_keys_that_are_not_required_may_be_left_out(required: list[str]) -> None:
    schema = {
        **make_closed_schema(a=MAYBE, b={"type": "boolean"}, c={"enum": [1, 2]}),
        "required": required,
    }
    seen = {tuple(generate_json(schema, seed=seed)) for seed in range(60)}
    allowed = {keys for keys in seen if set(required) <= set(keys) and list(keys) == sorted(keys)}
    assert seen == allowed
    assert len(seen) == 2 ** (3 - len(required))


@pytest.mark.parametrize("seed", range(10))
def test_schemas_without_quotes_are_kept_too(seed: int) -> None:
    schema = make_closed_schema(
        a={"type": "integer", "minimum": 3, "maximum": 12},
        b={"type": "string", "maxLength": 9},
        quote={"type": "null"},
    )
    value = generate_json(schema, seed=seed)
    assert 3 <= value["a"] <= 12
    assert len(value["b"]) <= 9
    value["b"].encode()  # no half of a surrogate pair
    assert value["quote"] is None


def test_a_bare_number_ends_with_the_models_own_end() -> None:
    constraint = SCHEMAS.compile_schema({"type": "integer"}, leading_space=False)("")
    constraint.accept_token(TOKENIZER.encode(["7"])[0][0])
    allowed = compute_allowed_tokens([constraint], VOCABULARY)[0]
    assert not constraint.is_finished
    assert allowed[END]
    assert allowed[4]


def test_a_space_is_allowed_before_the_json_if_the_prompt_needs_one() -> None:
    space, brace = (TOKENIZER.encode([text])[0][0] for text in (" ", "{"))
    for expected in (True, False):
        constraint = SCHEMAS.compile_schema(make_closed_schema(q=QUOTE), leading_space=expected)(
            NOTE
        )
        allowed = compute_allowed_tokens([constraint], VOCABULARY)[0]
        assert bool(allowed[space]) == expected
        assert allowed[brace]


def test_from_an_empty_text_nothing_can_be_quoted() -> None:
    assert generate_json(make_closed_schema(q=QUOTE), "") == {"q": ""}


def test_rows_keep_to_their_own_texts() -> None:
    make = SCHEMAS.compile_schema(make_closed_schema(q=QUOTE), leading_space=False)
    one, other = make("aaaa"), make("bbbb")
    begin = TOKENIZER.encode(['{"q":"'])[0]
    for token in begin:
        one.accept_token(token)
        other.accept_token(token)
    allowed = compute_allowed_tokens([one, other], VOCABULARY)
    a, b = (TOKENIZER.encode([text])[0][0] for text in "ab")
    assert allowed[:, [a, b]].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objct"}, "Invalid type"),
        ({"enum": []}, "empty"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "string", "format": "phase of the moon"}, "format"),
        ({"$ref": "#/$defs/nowhere", "quote": True}, "nowhere"),
        ({"allOf": [QUOTE]}, "allOf"),
        ({**make_closed_schema(q=QUOTE), "minProperties": 1}, "minProperties"),
        ({**QUOTE, "pattern": "a+"}, "pattern"),
        ({"type": "number", "quote": True}, "the type number"),
        ({"quote": True}, "no type"),
        ({"type": "array", "items": QUOTE, "quote": True}, "quote"),
        ({"type": "array", "items": QUOTE, "minItems": 3, "maxItems": 2}, "at least 3"),
        ({**make_closed_schema(q=QUOTE), "required": ["r"]}, "requires r"),
        (
            {**make_closed_schema(q=QUOTE), "additionalProperties": {"type": "string"}},
            "additionalProperties",
        ),
        ({**QUOTE, "minLength": 4, "maxLength": 3}, "cannot be used"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SCHEMAS.compile_schema(schema, leading_space=False)(NOTE)
    assert "Tumour" not in str(caught.value)


def test_a_long_text_is_ready_in_a_second() -> None:
    text = " ".join(
        f"{number} mm in the {'left' if number % 3 else 'right'} lung" for number in range(900)
    )[:20_000]
    assert len(text) == 20_000
    schema = make_closed_schema(q={**QUOTE, "maxLength": 200}, r=QUOTE)
    start = time.process_time()
    value = generate_json(schema, text)
    assert value["q"] in text
    assert time.process_time() - start < 10


def test_a_text_too_complex_fails_its_row_without_a_word_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schemas = ConstraintFactory(TOKENIZER, VOCABULARY, (END,))
    from llguidance import LLParserLimits

    monkeypatch.setattr(
        schemas, "_limits", LLParserLimits(initial_lexer_fuel=5000, verbose_errors=False)
    )
    fault = schemas.compile_schema(make_closed_schema(q=QUOTE), leading_space=False)(
        "secret " * 500
    ).error
    assert fault is not None
    assert "secret" not in fault
