"""Scores and texts over the wire, from every dialect of the fault server: rows R13 to R16 of the
reliability plan.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import pytest

from medtask.engines.http.engine import HttpEngine
from medtask.engines.http.load import load_http
from medtask.errors import EngineError, ModelNotFound
from medtask.records import Branch, Fault, Generated, Limits, Message, Prompt, Scores, Status
from support.fault_server import FaultRule, FaultServer, serve
from support.http_engines import BRANCH_LABELS, EngineOpener, make_row_prompt
from support.server_dialects import ServerFeatures
from support.toy_model import ToyModel, render_chat

ROWS = [make_row_prompt(row) for row in range(8)]
DIALECTS = ["openai", "llama-server", "ollama"]
CHAT_PATHS = {
    "openai": "/v1/chat",
    "vllm": "/v1/chat",
    "llama-server": "/v1/chat",
    "ollama": "/api/chat",
}


def score_by_id(engine: HttpEngine, prompts: list[Prompt]) -> dict[str, Scores | Fault]:
    result = list(engine.score(prompts))
    by_id = {one.record_id: one for one in result}
    assert len(by_id) == len(result) == len(prompts)
    return by_id


def compute_true_probabilities(engine: HttpEngine, server: FaultServer, row: int) -> list[float]:
    """What constrained writing of the toy model comes to, in the form in which this server is held
    to the labels.
    """
    text = render_chat([{"role": "user", "content": make_row_prompt(row).messages[0].content}])
    written = engine.server_caps.hold in {"json_schema", "json_object", "format"}
    texts = (
        [json.dumps({"answer": label}, separators=(",", ":")) for label in BRANCH_LABELS]
        if written
        else list(BRANCH_LABELS)
    )
    return server.model.compute_constrained_probabilities(text, texts)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_probability_is_further_off_than_the_slack_tells(
    open_engine: EngineOpener, dialect: str, masked: bool
) -> None:
    engine, server = open_engine(dialect, masked=masked)
    assert engine.caps.score == "first_token"
    assert engine.server_caps.raw is not masked
    slacks = []
    for name, result in score_by_id(engine, ROWS).items():
        assert isinstance(result, Scores)
        (branch,) = result.branches
        shares = [math.exp(logprob) for logprob in branch.logprobs]
        true = compute_true_probabilities(engine, server, int(name[1:]))
        assert sum(shares) == pytest.approx(1)
        assert (
            max(abs(one - other) for one, other in zip(shares, true, strict=True))
            <= branch.slack + 1e-9
        )
        assert (branch.off_set is None) is masked
        slacks.append(branch.slack)
    # Where the constraint is seen in the numbers, only what the answer did not follow is unknown.
    assert not masked or min(slacks) < 0.3


def test_the_times_of_rows_add_up_to_the_time_of_all_of_them(open_engine: EngineOpener) -> None:
    engine, _ = open_engine("openai")
    for ask in (engine.score, lambda prompts: engine.generate(prompts, Limits(8))):
        started = time.perf_counter()
        results = list(ask(ROWS))
        seconds = time.perf_counter() - started
        assert not any(isinstance(result, Fault) for result in results)
        total = sum(result.ms for result in results) / 1000
        assert 0.5 * seconds < total <= seconds


@pytest.mark.parametrize("dialect", DIALECTS)
def test_masked_shares_along_the_answer_are_exact(open_engine: EngineOpener, dialect: str) -> None:
    engine, server = open_engine(dialect, masked=True)
    two = Branch("", ("curative resection", "palliative"))
    for row in range(4):
        (result,) = engine.score([make_row_prompt(row, two)])
        assert isinstance(result, Scores)
        text = render_chat([{"role": "user", "content": make_row_prompt(row).messages[0].content}])
        json_texts = [
            json.dumps({"answer": tail}, separators=(",", ":")) for tail in two.candidates
        ]
        true = server.model.compute_constrained_probabilities(
            text, json_texts if engine.server_caps.hold == "format" else list(two.candidates)
        )
        assert [math.exp(logprob) for logprob in result.branches[0].logprobs] == pytest.approx(true)
        assert result.branches[0].slack == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_log_probabilities_the_answer_is_chosen_and_has_no_number(
    open_engine: EngineOpener, dialect: str
) -> None:
    engine, _ = open_engine(dialect, logprobs=False)
    assert engine.caps.score == "none"
    assert engine.caps.choose
    for result in score_by_id(engine, ROWS).values():
        assert isinstance(result, Scores)
        assert result.branches[0].choice_only
        assert sorted(result.branches[0].logprobs) == [-math.inf] * 3 + [0.0]


@pytest.mark.parametrize("feature", ["ignored", "refused"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_outside_the_set_is_asked_once_more_and_never_becomes_an_answer(
    open_engine: EngineOpener, dialect: str, feature: Any
) -> None:
    engine, server = open_engine(dialect, response_format=feature)
    assert engine.server_caps.hold is None
    assert not engine.caps.schema
    for result in score_by_id(engine, ROWS).values():
        assert isinstance(result, Fault)
        assert result.status is Status.UNPARSABLE
    asked = [
        call.body["messages"][-1]["content"]
        for call in server.log
        if call.path.startswith(CHAT_PATHS[dialect])
    ]
    assert len(asked) == 2 * len(ROWS)
    assert sum("palliative" in text for text in asked) == len(ROWS)


@pytest.mark.parametrize(
    "fault",
    [
        "no_choices",
        "null_content",
        "no_logprobs",
        "short_logprobs",
        "wrong_model",
        "cut_json",
        "cut",
        "html",
        "length",
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_half_and_wrong_answers_are_asked_again_and_leave_no_trace(
    open_engine: EngineOpener, dialect: str, fault: str
) -> None:
    engine, server = open_engine(dialect, concurrency=1)
    right = {
        name: result.branches
        for name, result in score_by_id(engine, ROWS).items()
        if isinstance(result, Scores)
    }
    engine, server = open_engine(
        dialect, [FaultRule(fault, calls=(1, 4), path=CHAT_PATHS[dialect])], concurrency=1
    )
    result = score_by_id(engine, ROWS)
    assert {name: one.branches for name, one in result.items() if isinstance(one, Scores)} == right
    assert sum(call.path.startswith(CHAT_PATHS[dialect]) for call in server.log) == len(ROWS) + 2


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama-server"])
def test_an_answer_to_another_question_is_known_by_its_mark(
    open_engine: EngineOpener, dialect: str
) -> None:
    engine, server = open_engine(
        dialect,
        [FaultRule("swapped", calls=(2, 5), path=CHAT_PATHS[dialect])],
        concurrency=1,
        prompt_logprobs=False,
    )
    result = score_by_id(engine, ROWS)
    assert all(isinstance(one, Scores) for one in result.values())
    assert sum(call.path.startswith(CHAT_PATHS[dialect]) for call in server.log) == len(ROWS) + 2


@pytest.mark.parametrize("side", ["head", "tail"])
@pytest.mark.parametrize("dialect", ["vllm", "llama-server"])
def test_every_cut_of_a_prompt_is_found_where_the_server_counts(
    open_engine: EngineOpener, dialect: str, side: Any
) -> None:
    engine, server = open_engine(dialect, prompt_logprobs=False)
    for lost in (3, 8):
        server.features = replace(server.features, cut_tokens=lost, truncate=side)
        for result in score_by_id(engine, ROWS).values():
            assert isinstance(result, Fault)
            assert result.reason.startswith("truncated_by_engine")
    # Counts of other software may be off by so many.
    server.features = replace(server.features, cut_tokens=2)
    assert all(isinstance(result, Scores) for result in score_by_id(engine, ROWS).values())


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_a_large_loss_is_found_even_where_nobody_counts(
    open_engine: EngineOpener, dialect: str
) -> None:
    engine, server = open_engine(dialect)
    full = [
        Prompt(
            f"l{row}",
            (Message("user", f"Note {row}. " + "A word or two. " * 100),),
            (Branch("", BRANCH_LABELS),),
            "",
        )
        for row in range(4)
    ]
    assert all(isinstance(result, Scores) for result in score_by_id(engine, full).values())
    server.features = replace(server.features, cut_tokens=450, truncate="head")
    for result in score_by_id(engine, full).values():
        assert isinstance(result, Fault)
        assert result.reason.startswith("truncated_by_engine")
    assert any("large losses" in note for note in engine.info.notes)


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama-server", "ollama"])
def test_a_server_that_does_not_count_tokens_is_refused_unless_the_user_allows_it(
    open_engine: EngineOpener, dialect: str
) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(dialect, usage="missing")
    assert caught.value.exit_code == 5
    assert "--allow-unverified-context" in caught.value.fix
    engine, _ = open_engine(dialect, usage="missing", allow_unverified_context=True)
    assert all(isinstance(result, Scores) for result in score_by_id(engine, ROWS).values())
    assert engine.info.details["probe"]["usage"] is False  # type: ignore[index]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_prompt_above_the_context_is_too_long_and_no_answer(
    open_engine: EngineOpener, dialect: str
) -> None:
    engine, _ = open_engine(dialect, window=400)
    long = Prompt("long", (Message("user", "word " * 500),), (Branch("", BRANCH_LABELS),), "")
    result = score_by_id(engine, [*ROWS, long])
    assert isinstance(result["long"], Fault)
    assert result["long"].status is Status.TOO_LONG
    assert all(isinstance(result[prompt.record_id], Scores) for prompt in ROWS)


class UninformativeModel(ToyModel):
    """Constant log-probabilities, as from a server that ignores the request for them."""

    def logprobs(self, text: str, tokens: Any) -> list[float]:
        return [-3.0 for _ in tokens]


def test_a_server_whose_exact_numbers_tell_nothing_ends_the_run_before_it_begins() -> None:
    with (
        serve(FaultServer("vllm", UninformativeModel([*BRANCH_LABELS, "4", "7"]))) as url,
        pytest.raises(EngineError) as caught,
    ):
        load_http(f"{url}/v1")
    assert caught.value.exit_code == 5
    assert "not usable" in str(caught.value)
    assert "hf" in caught.value.fix


@pytest.mark.parametrize("dialect", ["openai", "llama-server"])
def test_log_probabilities_that_tell_nothing_are_not_used(dialect: Any) -> None:
    with serve(FaultServer(dialect, UninformativeModel([*BRANCH_LABELS, "4", "7"]))) as url:
        engine = load_http(f"{url}/v1")
        assert engine.caps.score == "none"
        assert all(
            isinstance(result, Scores) and result.branches[0].choice_only
            for result in engine.score(ROWS)
        )
        engine.close()


def test_branches_become_instructions_where_the_server_cannot_continue_a_turn(
    open_engine: EngineOpener,
) -> None:
    engine, server = open_engine("openai")
    branches = (
        Branch("palliative: ", ("yes", "no")),
        Branch("", ("A", "B"), ask="\n\nA or B?", weigh="text"),
    )
    result = score_by_id(
        engine, [make_row_prompt(0, *branches, thoughts="It hurts.", partial_response="So far. ")]
    )["r0"]
    assert isinstance(result, Scores)
    assert [len(branch.logprobs) for branch in result.branches] == [2, 2]
    first, second = (call.body["messages"] for call in server.log)
    assert [turn["role"] for turn in first] == ["user"]
    for word in ("It hurts.", "So far.", "Answer for: palliative"):
        assert word in first[0]["content"]
    assert "A or B?" in second[0]["content"]


def test_branches_go_on_with_the_assistants_turn_where_the_server_does(
    open_engine: EngineOpener,
) -> None:
    engine, server = open_engine("llama-server")
    score_by_id(engine, [make_row_prompt(0, Branch("palliative: ", ("yes", "no")))])
    (body,) = [call.body for call in server.log if call.path == "/v1/chat/completions"]
    assert body["messages"][-1] == {"role": "assistant", "content": "palliative: "}


def test_whole_texts_are_refused_where_only_first_tokens_are_reported(
    open_engine: EngineOpener,
) -> None:
    engine, _ = open_engine("openai")
    with pytest.raises(EngineError, match="whole texts"):
        list(engine.score([make_row_prompt(0, Branch("", ("one text", "another"), weigh="text"))]))


def test_known_rows_and_rows_without_a_question_are_not_asked(open_engine: EngineOpener) -> None:
    engine, server = open_engine("openai")
    bare = Prompt("bare", (Message("user", "?"),), (), "")
    result = list(engine.score([*ROWS, bare], cached=[prompt.record_id for prompt in ROWS[1:]]))
    assert {one.record_id for one in result} == {"r0", "bare"}
    assert len(server.log) == 1


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama-server", "ollama"])
def test_texts_are_written_and_shown_alike(open_engine: EngineOpener, dialect: str) -> None:
    engine, _ = open_engine(dialect)
    written = {result.record_id: result for result in engine.generate(ROWS, Limits(40))}
    assert set(written) == {prompt.record_id for prompt in ROWS}
    shown: list[str] = []
    (result,) = engine.generate(ROWS[:1], Limits(40), on_text=shown.append)
    assert isinstance(result, Generated)
    plain = written["r0"]
    assert isinstance(plain, Generated)
    assert "".join(shown).strip() == result.text == plain.text
    assert result.finish_reason == plain.finish_reason == "stop"
    assert result.tokens == plain.tokens > 0


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama-server", "ollama"])
def test_a_text_that_was_cut_is_marked(open_engine: EngineOpener, dialect: str) -> None:
    engine, _ = open_engine(dialect)
    schema = {
        "type": "object",
        "properties": {"side": {"enum": ["left", "right"]}},
        "required": ["side"],
    }
    (full,) = engine.generate(ROWS[:1], Limits(40, schema=schema))
    assert isinstance(full, Generated)
    assert json.loads(full.text)["side"] in {"left", "right"}
    (cut,) = engine.generate(ROWS[:1], Limits(2, schema=schema))
    assert isinstance(cut, Generated)
    assert (cut.finish_reason, cut.tokens) == ("length", 2)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_that_breaks_off_is_no_text(open_engine: EngineOpener, dialect: str) -> None:
    engine, _ = open_engine(dialect, [FaultRule("cut", rate=1.0, path=CHAT_PATHS[dialect])])
    (result,) = engine.generate(ROWS[:1], Limits(40), on_text=lambda _: None)
    assert isinstance(result, Fault)
    assert result.reason.startswith("engine_protocol")


def test_text_that_goes_on_follows_what_is_written(open_engine: EngineOpener) -> None:
    engine, server = open_engine("llama-server")
    (result,) = engine.generate(
        [make_row_prompt(0, partial_response="<summary>")], Limits(10, stop=("</summary>",))
    )
    assert isinstance(result, Generated)
    body = server.log[-1].body
    assert body["messages"][-1] == {"role": "assistant", "content": "<summary>"}
    assert body["stop"] == ["</summary>"]


def test_a_server_without_schemas_does_not_write_objects(open_engine: EngineOpener) -> None:
    engine, _ = open_engine("openai", response_format="ignored")
    with pytest.raises(EngineError, match="JSON schema"):
        list(engine.generate(ROWS[:1], Limits(10, schema={"type": "object"})))


def test_only_one_text_can_be_shown(open_engine: EngineOpener) -> None:
    engine, _ = open_engine("openai")
    with pytest.raises(EngineError):
        list(engine.generate(ROWS[:2], Limits(10), on_text=lambda _: None))


def test_thoughts_are_asked_for_aloud_or_by_the_servers_own_switch(
    open_engine: EngineOpener,
) -> None:
    engine, server = open_engine("openai")
    assert not engine.caps.thinking_markers
    list(engine.generate(ROWS[:1], Limits(20, think=True)))
    assert "Reason about it first" in server.log[-1].body["messages"][-1]["content"]
    assert "\nAnswer:" in server.log[-1].body["stop"]
    engine, server = open_engine("ollama", thinking=True)
    assert engine.caps.thinking_markers
    (result,) = engine.generate(ROWS[:1], Limits(20, think=True))
    assert isinstance(result, Generated)
    assert result.text == "Let me look at this."
    assert server.log[-1].body["think"] is True


def test_the_identity_holds_what_changes_an_answer_and_no_secret(
    open_engine: EngineOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTASK_API_KEY", "sk-secret-key")
    engine, _ = open_engine("openai")
    assert engine.info.identity["model"] == "toy-1"
    assert engine.info.remote is False
    assert [*engine.info.destinations.values()] == [("127.0.0.1",)]
    assert "sk-secret-key" not in repr(engine.info)
    assert engine.info.name == "http"


def test_a_model_that_the_server_does_not_have_is_refused() -> None:
    server = FaultServer("openai", ToyModel([*BRANCH_LABELS]), ServerFeatures())
    with serve(server) as url, pytest.raises(ModelNotFound, match="toy-1"):
        load_http(f"{url}/v1#other").close()
