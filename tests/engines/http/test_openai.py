"""The bodies of OpenAI-compatible requests and responses, as the servers' own sources have them."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.engines.http.client import Malformed
from medtask.engines.http.openai import OpenAI, hold_to_choices
from medtask.engines.http.server import Hold, Traits, Wish, defuse
from medtask.engines.http.write import drop_quotes, seed_row
from medtask.records import Message

ASKED = (Message("user", "Which?"),)
PLAIN = Traits("OpenAI-compatible server", "m")


def answer(**more: Any) -> dict[str, Any]:
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
    body = OpenAI().write(Wish(ASKED, 5), PLAIN)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_tokens": 5,
        "temperature": 0.0,
    }


def test_servers_that_know_no_max_tokens_are_told_in_their_words() -> None:
    body = OpenAI().write(
        Wish(ASKED, 5), Traits("x", "m", limit_name="max_completion_tokens", temperature=False)
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_completion_tokens": 5,
    }


def test_drawing_is_repeatable() -> None:
    body = OpenAI().write(Wish(ASKED, 5, temperature=0.7, top_p=0.9, seed=11, stop=("END",)), PLAIN)
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (
        0.7,
        0.9,
        11,
        ["END"],
    )
    assert seed_row(1, "a") == seed_row(1, "a") != seed_row(1, "b") != seed_row(2, "b")
    assert 0 <= seed_row(1, "a") < 2**31


def test_vllm_goes_on_with_a_turn_when_it_is_told_so() -> None:
    body = OpenAI().write(Wish(ASKED, 5, lead="The answer is"), Traits("vLLM", "m"))
    assert body["messages"][-1] == {"role": "assistant", "content": "The answer is"}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"]["enable_thinking"] is False


@pytest.mark.parametrize(
    ("hold", "place"),
    [
        ("choice", {"structured_outputs": {"choice": ['a "b"', "c\nd"]}}),
        ("grammar", {"grammar": 'root ::= "a \\"b\\"" | "c\\nd"'}),
        (None, {}),
    ],
)
def test_a_closed_set_in_the_words_of_each_server(hold: Hold | None, place: dict[str, Any]) -> None:
    assert hold_to_choices(hold, ['a "b"', "c\nd"]) == place


def test_a_closed_set_as_a_json_schema_is_an_object() -> None:
    form = hold_to_choices("json_schema", ["a", "b"])["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    schema = form["json_schema"]["schema"]
    assert schema["properties"] == {"answer": {"type": "string", "enum": ["a", "b"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["answer"], False)
    assert hold_to_choices("json_object", ["a", "b"]) == {
        "response_format": {"type": "json_object", "schema": schema}
    }


def test_a_whole_answer_is_read() -> None:
    token = {
        "token": "yes",
        "logprob": -0.1,
        "bytes": [121, 101, 115],
        "top_logprobs": [{"token": "no", "logprob": -2.4, "bytes": None}],
    }
    reply = OpenAI().read(answer(logprobs={"content": [token]}), PLAIN)
    assert (reply.text, reply.ended, reply.prompt_tokens, reply.written_tokens) == (
        "yes",
        "stop",
        7,
        1,
    )
    assert reply.steps is not None
    assert (reply.steps[0].data, reply.steps[0].logprob, reply.steps[0].top) == (
        b"yes",
        -0.1,
        ((b"no", -2.4),),
    )


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"choices": []},
        answer(message=None),
        answer(message={"content": None}),
        answer(message={"content": 3}),
        answer(finish_reason=None),
        answer(finish_reason="content_filter"),
        answer(logprobs={"content": [{"token": "yes", "logprob": None}]}),
        answer(logprobs={"content": [{"token": "yes", "logprob": float("nan")}]}),
        answer(logprobs={"content": [{"token": "yes", "logprob": 1.0}]}),
        answer(logprobs={"content": [{"logprob": -1.0}]}),
        answer(logprobs={"content": [{"token": "yes", "logprob": -1.0, "bytes": [999]}]}),
        answer() | {"choices": answer()["choices"] * 2},
    ],
)
def test_half_an_answer_is_none(body: Any) -> None:
    with pytest.raises(Malformed):
        OpenAI().read(body, PLAIN)


def test_another_models_answer_is_none() -> None:
    with pytest.raises(Malformed, match="another model"):
        OpenAI().read(answer(), Traits("x", "m", answers_as="m-2026-01-01"))


def test_thoughts_come_apart_and_may_take_all_the_tokens() -> None:
    reply = OpenAI().read(
        answer(message={"content": None, "reasoning_content": "hm"}, finish_reason="length"), PLAIN
    )
    assert (reply.text, reply.thoughts, reply.ended) == ("", "hm", "length")


def test_medtasks_own_word_is_taken_out_of_a_schema_but_not_a_field_of_that_name() -> None:
    schema = {
        "type": "object",
        "properties": {
            "quote": {"type": "string", "quote": True},
            "many": {"items": [{"quote": True, "type": "string"}]},
        },
        "required": ["quote"],
    }
    assert drop_quotes(schema) == {
        "type": "object",
        "properties": {"quote": {"type": "string"}, "many": {"items": [{"type": "string"}]}},
        "required": ["quote"],
    }


CONTROLS = """
<|im_end|> <|eot_id|> <start_of_turn> <end_of_turn> </s> [INST] [/INST] <|channel> <channel|> <unused94> </think> <<SYS>>
<｜User｜> <|START_OF_TURN_TOKEN|> <bos>
"""  # noqa: E501 - data as it is read


@pytest.mark.parametrize("control", CONTROLS.split())
def test_what_looks_like_a_control_token_is_broken_up(control: str) -> None:
    clean = defuse(f"before {control} behind")
    assert control not in clean
    assert clean == f"before {control[0]} {control[1:]} behind"
    assert defuse(clean) == clean


@pytest.mark.parametrize(
    "text",
    ["CRP < 5 mg/l, WBC > 10", "a <b> c", "x|y", "[see note]", "s/p CABG", "T<37 | BP>90", "<3"],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert defuse(text) == text
