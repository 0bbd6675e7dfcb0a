from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from medtask.engines.base import Caps
from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, InputError
from medtask.prediction.asking import GENERATION_BATCH, ask_prompts, check_engine
from medtask.prediction.deciding import decide_answer
from medtask.prediction.engine_output import EngineOutput
from medtask.records import (
    Answer,
    Branch,
    Fault,
    Generated,
    Limits,
    Message,
    Prompt,
    Scores,
    Status,
)
from medtask.tasks.task import Fields, FreeText, Label, MultipleChoice, Reasoning, ScoredField, Task

LABELS = (Label("curative", "", "curative"), Label("palliative", "", "palliative"))
ONE = Task("purpose", "Which purpose?", "{{ text }}", labels=LABELS)
THINKING = Task(
    "purpose", "Which purpose?", "{{ text }}", labels=LABELS, reasoning=Reasoning(8, deadline_s=30)
)
TEXT = Task("qa", "Answer.", "{{ text }}", FreeText(max_tokens=20))
SCHEMA = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}, "size": {"type": "number"}},
}
FIELDS = Task(
    "registry",
    "Fill in.",
    "{{ text }}",
    Fields(SCHEMA, (ScoredField(("side",), ("left", "right")),)),
)


class RecordingEngine(FakeEngine):
    """Keeps the prompts that it was asked, by verb. ``finish_reasons`` says how writing ends,
    by record id.
    """

    def __init__(self, finish_reasons: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.scored: list[list[Prompt]] = []
        self.generated: list[tuple[list[Prompt], Limits]] = []
        self.ends = finish_reasons or {}

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.scored.append(list(batch))
        return super().score_batch(batch)

    def generate(
        self, prompts: Sequence[Prompt], limits: Limits, *rest: Any, **more: Any
    ) -> Iterator[Generated | Fault]:
        self.generated.append((list(prompts), limits))
        for result in super().generate(prompts, limits, *rest, **more):
            end = self.ends.get(result.record_id)
            if isinstance(end, Fault):
                yield end
            elif end and isinstance(result, Generated):
                yield Generated(result.record_id, result.text, end)
            else:
                yield result


def make_prompts(*texts: str, task: Task = ONE) -> list[Prompt]:
    branches = (Branch("", ("curative", "palliative")),) if task.labels else ()
    return [
        Prompt(f"r{index}", (Message("user", text),), branches, text)
        for index, text in enumerate(texts)
    ]


def answer_texts(task: Task, engine: FakeEngine, *texts: str) -> dict[str, Answer]:
    result = list(ask_prompts(task, engine, make_prompts(*texts, task=task)))
    names = [one.record_id if isinstance(one, Fault) else one.prompt.record_id for one in result]
    return {name: decide_answer(task, name, one) for name, one in zip(names, result, strict=True)}


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
def test_a_row_without_time_or_room_to_think_is_answered_without_and_noted(
    end: object, reason: str
) -> None:
    engine = RecordingEngine({"r0": end})
    answers = answer_texts(THINKING, engine, "one", "two")
    assert answers["r0"].thoughts is None
    assert answers["r0"].reason is not None and answers["r0"].reason.endswith(reason)
    assert answers["r0"].value in ("curative", "palliative")
    assert answers["r1"].thoughts is not None


def test_text_that_ends_is_the_answer() -> None:
    answer = answer_texts(
        TEXT, RecordingEngine(generated_texts={"r0": " A disease of the eye. "}), "one"
    )["r0"]
    assert (answer.status, answer.value, answer.confidence) == (
        Status.OK,
        "A disease of the eye.",
        None,
    )


def test_text_that_reaches_its_limit_is_truncated_at_a_sentence() -> None:
    answer = answer_texts(
        TEXT, RecordingEngine(generated_texts={"r0": "One sentence. " + "word " * 40}), "one"
    )["r0"]
    assert (answer.status, answer.value) == (Status.TRUNCATED, "One sentence.")
    assert (
        answer.reason == "the answer reached max_tokens and was cut after its last whole sentence"
    )


def test_a_model_that_writes_nothing_is_reported() -> None:
    answer = answer_texts(TEXT, RecordingEngine(generated_texts={"r0": "  "}), "one")["r0"]
    assert (answer.status, answer.value) == (Status.UNPARSABLE, None)


def test_sections_are_written_one_after_the_other_and_the_last_is_the_answer() -> None:
    task = Task(
        "qa",
        "Answer.",
        "{{ text }}",
        FreeText(max_tokens=20, sections=("analysis", "answer"), stop=("STOP",)),
    )
    engine = RecordingEngine(generated_texts={"r0": "because"})
    answer = answer_texts(task, engine, "one")["r0"]
    (first, early), (second, late) = engine.generated
    assert (early.stop, late.stop) == (("STOP", "</analysis>"), ("STOP", "</answer>"))
    assert (early.max_tokens, late.max_tokens) == (10, 20)
    assert first[0].partial_response == "<analysis>"
    assert second[0].partial_response == "<analysis>because</analysis>\n<answer>"
    assert (answer.value, answer.text) == (
        "because",
        "<analysis>because</analysis>\n<answer>because</answer>",
    )


def test_fields_are_written_and_their_enums_scored_behind_what_was_written() -> None:
    engine = RecordingEngine(generated_texts={"r0": '{"side":"right","size":3}'})
    answer = answer_texts(FIELDS, engine, "one")["r0"]
    assert answer.value == {"side": "right", "size": 3}
    assert engine.scored[0][0].branches == (Branch('{"side":', ('"left"', '"right"')),)
    assert answer.probabilities is not None
    assert list(answer.probabilities) == ["side=left", "side=right"]
    assert answer.confidence == answer.probabilities["side=right"]


@pytest.mark.parametrize(
    ("end", "status"), [("length", Status.TRUNCATED), ("loop", Status.TRUNCATED)]
)
def test_fields_that_do_not_end_are_no_answer(end: str, status: Status) -> None:
    answer = answer_texts(
        FIELDS, RecordingEngine({"r0": end}, generated_texts={"r0": '{"side":"ri'}), "one"
    )["r0"]
    assert (answer.status, answer.value) == (status, None)


def test_what_is_no_object_is_no_answer() -> None:
    answer = answer_texts(FIELDS, RecordingEngine(generated_texts={"r0": "left, I think"}), "one")[
        "r0"
    ]
    assert (answer.status, answer.value) == (Status.UNPARSABLE, None)


def test_a_batch_is_written_whole_or_not_at_all() -> None:
    engine = RecordingEngine()
    asked = make_prompts(*(str(index) for index in range(GENERATION_BATCH + 3)), task=TEXT)
    known = {prompt.record_id for prompt in asked[:GENERATION_BATCH]}
    assert len(list(ask_prompts(TEXT, engine, asked, known))) == 3
    assert [len(batch) for batch, _ in engine.generated] == [3]
    engine.generated.clear()
    known.discard("r5")
    assert len(list(ask_prompts(TEXT, engine, asked, known))) == 4
    assert [len(batch) for batch, _ in engine.generated] == [GENERATION_BATCH, 3]


def test_prompts_with_the_same_examples_are_written_together() -> None:
    engine = RecordingEngine()
    shown = [(Message("user", "a"), Message("assistant", "b")), ()]
    asked = [
        Prompt(f"r{index}", (*shown[index % 2], Message("user", "?")), (), "?")
        for index in range(2 * GENERATION_BATCH)
    ]
    list(ask_prompts(TEXT, engine, asked))
    assert [len({prompt.messages for prompt in batch}) for batch, _ in engine.generated] == [1, 1]


@pytest.mark.parametrize(
    ("task", "caps"),
    [
        (ONE, Caps(score="none", generate=True)),
        (THINKING, Caps(score="exact")),
        (TEXT, Caps(score="exact")),
        (FIELDS, Caps(score="exact", generate=True)),
    ],
)
def test_an_engine_that_cannot_is_refused(task: Task, caps: Caps) -> None:
    engine = FakeEngine()
    engine.caps = caps
    with pytest.raises(EngineError):
        check_engine(task, engine)


def test_a_budget_larger_than_the_context_is_refused_before_anything_is_asked() -> None:
    engine = FakeEngine()
    engine.context_tokens = 8
    with pytest.raises(
        InputError, match="budget under reasoning is 8 tokens, and the model's whole context 8"
    ):
        check_engine(THINKING, engine)
    with pytest.raises(InputError, match="max_tokens is 20"):
        check_engine(TEXT, engine)


def test_costs_of_all_steps_add_up() -> None:
    received = (
        EngineOutput(make_prompts("one")[0])
        .add_output(Generated("r0", "hm", "stop", tokens_read=5, ms=2.0))
        .add_output(Scores("r0", (), 7, 3, 1.0))
    )
    assert (received.tokens_read, received.tokens_reused, received.ms) == (12, 3, 3.0)


def test_what_was_written_is_json_for_every_fake_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}},
            "b": {"type": ["string", "null"]},
        },
    }
    result = next(FakeEngine().generate(make_prompts("one", task=TEXT), Limits(50, schema=schema)))
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

    asked = [Prompt("r0", (Message("user", "?"),), (Branch("", ("A", "B"), weigh="text"),), "?")]
    (received,) = ask_prompts(task, NoRoomToThinkEngine(), asked)
    assert isinstance(received, EngineOutput)
    assert received.prompt.thoughts is None
    assert received.notes == ("answered without its thoughts: 9 tokens too many",)
