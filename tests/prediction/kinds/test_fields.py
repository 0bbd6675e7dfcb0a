"""Fields: a generated object, whose enums and booleans get probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from medtask.prediction.deciding import decide_answer
from medtask.prediction.engine_output import EngineOutput
from medtask.records import Answer, Branch, BranchScores, Prompt, Scores, Status
from medtask.tasks.task import Fields, ScoredField, Task
from support.recorded_prompts import FIELDS, RecordingEngine, answer_texts


@pytest.mark.parametrize(
    ("size", "status", "quotes", "reason"),
    [
        ("18", Status.OK, ["size"], None),
        ("1", Status.REVIEW, ["size"], "size does not agree with its quote"),
        ("null", Status.OK, [], None),
    ],
)
def test_a_value_agrees_with_its_quote_and_null_has_none(
    size: str, status: Status, quotes: list[str], reason: str | None
) -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"type": ["number", "null"]}, "size_quote": {"quote": True}},
    }
    task = Task("size", "?", "{{ text }}", answer_spec=Fields(schema, quoted=(("size",),)))
    written = f'{{"size": {size}, "size_quote": "18 mm"}}'
    output = EngineOutput(Prompt("r", (), (), "A tumour of 18 mm."), text=written)
    answer = decide_answer(task, "r", output)
    assert (answer.status, answer.reason) == (status, reason)
    assert list(answer.quotes or {}) == quotes


@pytest.mark.parametrize(
    ("quote", "status", "quotes", "reason"),
    [
        ("left flank", Status.OK, ["side"], None),
        ("right flank", Status.REVIEW, [], "the quote of side is not in the record"),
    ],
)
def test_a_quote_that_is_not_in_the_record_is_a_reason_for_review(
    quote: str, status: Status, quotes: list[str], reason: str | None
) -> None:
    schema = {"type": "object", "properties": {"side": {}, "side_quote": {"quote": True}}}
    task = Task("side", "?", "{{ text }}", answer_spec=Fields(schema, quoted=(("side",),)))
    written = f'{{"side": "left", "side_quote": "{quote}"}}'
    output = EngineOutput(Prompt("r", (), (), "Pain in the left flank."), text=written)
    answer = decide_answer(task, "r", output)
    assert (answer.status, answer.value, answer.reason) == (status, {"side": "left"}, reason)
    assert list(answer.quotes or {}) == quotes


def test_enums_are_scored_after_the_generated_text_before_them() -> None:
    engine = RecordingEngine(generated_texts={"r0": '{"side":"right","size":3}'})
    answer = answer_texts(FIELDS, engine, "one")["r0"]
    assert answer.value == {"side": "right", "size": 3}
    assert engine.scored[0][0].branches == (Branch('{"side":', ('"left"', '"right"')),)
    assert answer.probabilities is not None
    assert list(answer.probabilities) == ["side=left", "side=right"]
    assert answer.confidence == answer.probabilities["side=right"]


def decide_side(branch: BranchScores) -> Answer:
    task = Task("side", "?", "{{ text }}", answer_spec=Fields({"type": "object"}))
    side = ScoredField(("side",), ("left", "right"))
    prompt = Prompt("r", (), (Branch('{"side":', ('"left"', '"right"')),), "Pain.")
    output = EngineOutput(
        prompt, scores=Scores("r", (branch,)), text='{"side":"right"}', fields=(side,)
    )
    return decide_answer(task, "r", output)


def test_enums_that_are_chosen_without_probabilities_have_no_confidence() -> None:
    answer = decide_side(BranchScores((0.0, -math.inf), choice_only=True))
    assert (answer.status, answer.value, answer.reason) == (Status.OK, {"side": "right"}, None)
    assert (answer.confidence, answer.probabilities) == (None, None)


def test_enums_with_a_large_error_bound_have_no_confidence() -> None:
    answer = decide_side(BranchScores((math.log(0.6), math.log(0.4)), slack=0.4))
    assert (answer.status, answer.value, answer.slack) == (Status.OK, {"side": "right"}, 0.4)
    assert (answer.confidence, answer.probabilities) == (None, None)
    assert answer.reason == "no probability: the server's numbers leave 0.40 of it open"


def test_an_engine_without_probabilities_is_not_asked_for_enums() -> None:
    engine = RecordingEngine(generated_texts={"r0": '{"side":"right","size":3}'})
    engine.caps = replace(engine.caps, score="none", choose=True)
    answer = answer_texts(FIELDS, engine, "one")["r0"]
    assert (answer.value, answer.confidence) == ({"side": "right", "size": 3}, None)
    assert not engine.scored


@pytest.mark.parametrize(
    ("end", "status"), [("length", Status.TRUNCATED), ("loop", Status.TRUNCATED)]
)
def test_fields_that_are_cut_have_no_value(end: str, status: Status) -> None:
    answer = answer_texts(
        FIELDS, RecordingEngine({"r0": end}, generated_texts={"r0": '{"side":"ri'}), "one"
    )["r0"]
    assert (answer.status, answer.value) == (status, None)


def test_text_that_is_not_an_object_has_no_value() -> None:
    answer = answer_texts(FIELDS, RecordingEngine(generated_texts={"r0": "left, I think"}), "one")[
        "r0"
    ]
    assert (answer.status, answer.value) == (Status.UNPARSABLE, None)
