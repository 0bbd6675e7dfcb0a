from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, InputError
from medtask.prediction.asking import GENERATION_BATCH, ask_prompts, check_engine
from medtask.prediction.engine_output import EngineOutput
from medtask.records import (
    Branch,
    Fault,
    Generated,
    Limits,
    Message,
    Prompt,
    Scores,
    Status,
)
from medtask.tasks.task import (
    FreeText,
    Label,
    MultipleChoice,
    Reasoning,
    Task,
)
from support.recorded_prompts import FIELDS, RecordingEngine, answer_texts, make_text_prompts

LABELS = (Label("curative", "", "curative"), Label("palliative", "", "palliative"))


LABEL = Task("purpose", "Which purpose?", "{{ text }}", labels=LABELS)


THINKING = Task(
    "purpose", "Which purpose?", "{{ text }}", labels=LABELS, reasoning=Reasoning(8, deadline_s=30)
)


TEXT = Task("qa", "Answer.", "{{ text }}", FreeText(max_tokens=20))


def test_a_model_thinks_and_then_answers_with_its_thoughts_before_it() -> None:
    engine = RecordingEngine()
    answers = answer_texts(THINKING, engine, "one", "two")
    (_, limits), (scored,) = engine.generated[0], engine.scored
    assert (limits.think, limits.max_tokens, limits.deadline_s) == (True, 8, 30)
    assert all(prompt.thoughts and prompt.thoughts.startswith("hm") for prompt in scored)
    assert answers["r0"].thoughts == scored[0].thoughts
    assert answers["r0"].status in (Status.OK, Status.REVIEW)


def test_a_model_that_never_stops_thinking_is_closed_at_its_budget_and_answers() -> None:
    answer = answer_texts(THINKING, RecordingEngine(endless_thinking_ids={"r0"}), "one")["r0"]
    assert answer.value in ("curative", "palliative")
    assert answer.thoughts is not None
    assert len(answer.thoughts.split()) == 8


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("deadline", "answered without thinking: its 30 seconds had passed"),
        (Fault("r0", Status.TOO_LONG, "no room"), "answered without thinking: no room"),
    ],
)
def test_a_row_without_time_or_room_to_think_is_answered_without_thinking_and_with_a_reason(
    end: object, reason: str
) -> None:
    engine = RecordingEngine({"r0": end})
    answers = answer_texts(THINKING, engine, "one", "two")
    assert answers["r0"].thoughts is None
    assert answers["r0"].reason is not None and answers["r0"].reason.endswith(reason)
    assert answers["r0"].value in ("curative", "palliative")
    assert answers["r1"].thoughts is not None


def test_a_batch_is_generated_as_a_whole_or_not_at_all() -> None:
    engine = RecordingEngine()
    prompts = make_text_prompts(TEXT, *(str(index) for index in range(GENERATION_BATCH + 3)))
    known = {prompt.record_id for prompt in prompts[:GENERATION_BATCH]}
    assert len(list(ask_prompts(TEXT, engine, prompts, known))) == 3
    assert [len(batch) for batch, _ in engine.generated] == [3]
    engine.generated.clear()
    known.discard("r5")
    assert len(list(ask_prompts(TEXT, engine, prompts, known))) == 4
    assert [len(batch) for batch, _ in engine.generated] == [GENERATION_BATCH, 3]


def test_prompts_with_the_same_examples_are_generated_together() -> None:
    engine = RecordingEngine()
    shown = [(Message("user", "a"), Message("assistant", "b")), ()]
    prompts = [
        Prompt(f"r{place}", (*shown[place % 2], Message("user", "?")), (), "?")
        for place in range(2 * GENERATION_BATCH)
    ]
    list(ask_prompts(TEXT, engine, prompts))
    assert [len({prompt.messages for prompt in batch}) for batch, _ in engine.generated] == [1, 1]


@pytest.mark.parametrize(
    ("task", "caps"),
    [
        (LABEL, Caps(score="none", generate=True)),
        (THINKING, Caps(score="exact")),
        (TEXT, Caps(score="exact")),
        (FIELDS, Caps(score="exact", generate=True)),
    ],
)
def test_an_engine_without_the_needed_capability_is_refused(task: Task, caps: Caps) -> None:
    engine = FakeEngine()
    engine.caps = caps
    with pytest.raises(EngineError):
        check_engine(task, engine)


def test_a_budget_larger_than_the_context_is_refused_before_any_prompt() -> None:
    engine = FakeEngine()
    engine.context_tokens = 8
    with pytest.raises(
        InputError, match="budget under reasoning is 8 tokens, and the model's whole context 8"
    ):
        check_engine(THINKING, engine)
    with pytest.raises(InputError, match="max_tokens is 20"):
        check_engine(TEXT, engine)


def test_the_costs_of_all_steps_are_added() -> None:
    output = (
        EngineOutput(make_text_prompts(LABEL, "one")[0])
        .add_output(Generated("r0", "hm", "stop", tokens_read=5, ms=2.0))
        .add_output(Scores("r0", (), 7, 3, 1.0))
    )
    assert (output.tokens_read, output.tokens_reused, output.ms) == (12, 3, 3.0)


def test_the_fake_engine_generates_json_that_satisfies_a_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}},
            "b": {"type": ["string", "null"]},
        },
    }
    result = next(FakeEngine().generate(make_text_prompts(TEXT, "one"), Limits(50, schema=schema)))
    assert isinstance(result, Generated)
    assert set(json.loads(result.text)) == {"a", "b"}


def test_a_choice_without_room_for_its_thoughts_is_answered_without_them() -> None:
    task = Task(
        "cases", "Which?", "{{ text }}", MultipleChoice(("options",)), reasoning=Reasoning(8)
    )

    class NoRoomToThinkEngine(RecordingEngine):
        def score(self, prompts: Sequence[Prompt], cached: Any = ()) -> Iterator[Scores | Fault]:
            if prompts[0].thoughts is not None:
                return iter(
                    [
                        Fault(prompt.record_id, Status.TOO_LONG, "9 tokens too many")
                        for prompt in prompts
                    ]
                )
            return super().score(prompts, cached)

    prompts = [Prompt("r0", (Message("user", "?"),), (Branch("", ("A", "B"), weigh="text"),), "?")]
    (output,) = ask_prompts(task, NoRoomToThinkEngine(), prompts)
    assert isinstance(output, EngineOutput)
    assert output.prompt.thoughts is None
    assert output.notes == ("answered without its thoughts: 9 tokens too many",)
