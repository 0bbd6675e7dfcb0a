"""The bodies of OpenAI-compatible requests and responses, as the servers' own sources have them."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.openai import OpenAIDialect, constrain_to_choices, parse_count
from medtask.engines.http.protocol import (
    ChatRequest,
    ConstraintMode,
    ServerCaps,
)
from medtask.engines.http.text_generation import derive_row_seed, remove_quote_keywords
from medtask.engines.tokens.markers import COMMON_MARKERS
from medtask.records import Message

MESSAGES = (Message("user", "Which?"),)
PLAIN_CAPS = ServerCaps("OpenAI-compatible server", "m")


def make_response(**more: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "yes"},
        "finish_reason": "stop",
    }
    return {
        "id": "1",
        "model": "m",
        "choices": [choice | more],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
    }


def test_a_request_carries_nothing_that_was_not_asked_for() -> None:
    body = OpenAIDialect().build_body(ChatRequest(MESSAGES, 5), PLAIN_CAPS)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_tokens": 5,
        "temperature": 0.0,
    }


def test_servers_that_know_no_max_tokens_are_reported_in_their_words() -> None:
    body = OpenAIDialect().build_body(
        ChatRequest(MESSAGES, 5),
        ServerCaps("x", "m", limit_name="max_completion_tokens", temperature=False),
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_completion_tokens": 5,
    }


def test_drawing_is_repeatable() -> None:
    body = OpenAIDialect().build_body(
        ChatRequest(MESSAGES, 5, temperature=0.7, top_p=0.9, seed=11, stop=("END",)), PLAIN_CAPS
    )
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (
        0.7,
        0.9,
        11,
        ["END"],
    )
    assert (
        derive_row_seed(1, "a")
        == derive_row_seed(1, "a")
        != derive_row_seed(1, "b")
        != derive_row_seed(2, "b")
    )
    assert 0 <= derive_row_seed(1, "a") < 2**31


def test_vllm_goes_on_with_a_turn_when_requested() -> None:
    body = OpenAIDialect().build_body(
        ChatRequest(MESSAGES, 5, prefix="The answer is"),
        ServerCaps("vLLM", "m", continuation_flag=True, thinking_switch=True),
    )
    assert body["messages"][-1] == {"role": "assistant", "content": "The answer is"}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"]["enable_thinking"] is False


@pytest.mark.parametrize(
    ("hold", "index"),
    [
        ("choice", {"structured_outputs": {"choice": ['a "b"', "c\nd"]}}),
        ("grammar", {"grammar": 'root ::= "a \\"b\\"" | "c\\nd"'}),
        (None, {}),
    ],
)
def test_a_closed_set_in_the_words_of_each_server(
    hold: ConstraintMode | None, index: dict[str, Any]
) -> None:
    assert constrain_to_choices(hold, ['a "b"', "c\nd"]) == index


def test_a_closed_set_as_a_json_schema_is_an_object() -> None:
    form = constrain_to_choices("json_schema", ["a", "b"])["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    schema = form["json_schema"]["schema"]
    assert schema["properties"] == {"answer": {"type": "string", "enum": ["a", "b"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["answer"], False)
    assert constrain_to_choices("json_object", ["a", "b"]) == {
        "response_format": {"type": "json_object", "schema": schema}
    }


def test_a_whole_answer_is_read() -> None:
    token = {
        "token": "yes",
        "logprob": -0.1,
        "bytes": [121, 101, 115],
        "top_logprobs": [{"token": "no", "logprob": -2.4, "bytes": None}],
    }
    reply = OpenAIDialect().parse_response(make_response(logprobs={"content": [token]}), PLAIN_CAPS)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (
        "yes",
        "stop",
        7,
        1,
    )
    assert reply.token_logprobs is not None
    assert (
        reply.token_logprobs[0].token,
        reply.token_logprobs[0].logprob,
        reply.token_logprobs[0].top_logprobs,
    ) == (b"yes", -0.1, ((b"no", -2.4),))


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"choices": []},
        make_response(message=None),
        make_response(message={"content": None}),
        make_response(message={"content": 3}),
        make_response(finish_reason=None),
        make_response(finish_reason="content_filter"),
        make_response(logprobs={"content": [{"token": "yes", "logprob": None}]}),
        make_response(logprobs={"content": [{"token": "yes", "logprob": float("nan")}]}),
        make_response(logprobs={"content": [{"token": "yes", "logprob": 1.0}]}),
        make_response(logprobs={"content": [{"logprob": -1.0}]}),
        make_response(logprobs={"content": [{"token": "yes", "logprob": -1.0, "bytes": [999]}]}),
        make_response() | {"choices": make_response()["choices"] * 2},
    ],
)
def test_half_an_answer_is_none(body: Any) -> None:
    with pytest.raises(InvalidResponse):
        OpenAIDialect().parse_response(body, PLAIN_CAPS)


def test_another_models_answer_is_none() -> None:
    with pytest.raises(InvalidResponse, match="another model"):
        OpenAIDialect().parse_response(
            make_response(), ServerCaps("x", "m", response_model="m-2026-01-01")
        )


def test_thoughts_come_apart_and_may_take_all_the_tokens() -> None:
    reply = OpenAIDialect().parse_response(
        make_response(message={"content": None, "reasoning_content": "hm"}, finish_reason="length"),
        PLAIN_CAPS,
    )
    assert (reply.text, reply.thoughts, reply.finish_reason) == ("", "hm", "length")


def test_medtasks_own_word_is_taken_out_of_a_schema_but_not_a_field_of_that_name() -> None:
    schema = {
        "type": "object",
        "properties": {
            "quote": {"type": "string", "quote": True},
            "many": {"items": [{"quote": True, "type": "string"}]},
        },
        "required": ["quote"],
    }
    assert remove_quote_keywords(schema) == {
        "type": "object",
        "properties": {"quote": {"type": "string"}, "many": {"items": [{"type": "string"}]}},
        "required": ["quote"],
    }


CONTROL_TOKENS = """
<|im_end|> <|eot_id|> <start_of_turn> <end_of_turn> </s> [INST] [/INST] <|channel> <channel|> <unused94> </think> <<SYS>>
<｜User｜> <|START_OF_TURN_TOKEN|> <bos>
"""  # noqa: E501 - data as it is read


@pytest.mark.parametrize("control", CONTROL_TOKENS.split())
def test_what_looks_like_a_control_token_is_broken_up(control: str) -> None:
    clean = COMMON_MARKERS.escape(f"before {control} behind")
    assert control not in clean
    assert clean == f"before {control[0]} {control[1:]} behind"
    assert COMMON_MARKERS.escape(clean) == clean


@pytest.mark.parametrize(
    "text",
    ["CRP < 5 mg/l, WBC > 10", "a <b> c", "x|y", "[see note]", "s/p CABG", "T<37 | BP>90", "<3"],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert COMMON_MARKERS.escape(text) == text


@pytest.mark.parametrize("count", [-1, 2**31, 2**63, 10**400, True, 1.0, "7", None])
def test_a_number_of_tokens_that_no_server_can_have_read_counts_as_not_reported(
    count: object,
) -> None:
    assert parse_count(count) is None
    assert parse_count(2**31 - 1) == 2**31 - 1
