"""Free text: complete, truncated, or in sections."""

from __future__ import annotations

from medtask.records import (
    Status,
)
from medtask.tasks.task import (
    FreeText,
    Task,
)
from support.recorded_prompts import RecordingEngine, answer_texts

TEXT = Task("qa", "Answer.", "{{ text }}", FreeText(max_tokens=20))


def test_complete_text_is_the_answer() -> None:
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


def test_an_empty_text_is_unparsable() -> None:
    answer = answer_texts(TEXT, RecordingEngine(generated_texts={"r0": "  "}), "one")["r0"]
    assert (answer.status, answer.value) == (Status.UNPARSABLE, None)


def test_sections_are_generated_in_order_and_the_last_is_the_answer() -> None:
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
