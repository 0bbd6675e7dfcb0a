"""The gate: which rows never reach a model, and why."""

from __future__ import annotations

import base64
import random

import pytest

from medtask.records import Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Example, ExamplePool, Gate, Label, Task

TASK = Task("t", "Decide.", "{{ text }}", labels=(Label("a", "", "a"), Label("b", "", "b")))
FILE = base64.b64encode(random.Random(0).randbytes(600)).decode()


def apply_gate(
    text: object, found: Gate | None = None, **facts: object
) -> tuple[Status, str] | None:
    task = Task(
        TASK.name, TASK.instruction, TASK.input, labels=TASK.labels, gate=found or Gate(), **facts
    )
    prompt = build_prompt(task, Record("7", {"text": text}))
    return (prompt.status, prompt.reason) if isinstance(prompt, Fault) else None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "stent",
            "7",
            "Größe 5",
            "中文",
            "?? yes ??",
            "ACGT" * 100,
            "a" * 1000,
            "_" * 300 + " see above",
        ),
        f"A long note. {'It says much. ' * 100} {FILE}",
        f"https://example.org/{'a/1B' * 100} is where the report was kept. {'It says much. ' * 100}",  # noqa: E501 - data as it is read
    ],
    ids=range(10),
)
def test_text_is_let_pass(text):
    assert apply_gate(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("...", "the input has neither a letter nor a digit"),
        ("?!-\n—", "the input has neither a letter nor a digit"),
        ("\ufffd\ufffd\ufffda", "3 of the input's 4 characters are control characters or broken"),
        ("ab\x00\x01\x02", "3 of the input's 5 characters are control characters or broken"),
        ("\ud800\ud800\ud800 x", "3 of the input's 5 characters are control characters or broken"),
        (FILE, "800 of the input's 800 characters are an encoded file"),
        (f"scan: {FILE}", "800 of the input's 806 characters are an encoded file"),
    ],
)
def test_what_is_no_text_is_reported_in_figures(text, reason):
    assert apply_gate(text) == (Status.NOT_TEXT, reason)


def test_blank_comes_before_everything_else():
    assert apply_gate(" \n", Gate(min_words=5))[0] is Status.EMPTY_INPUT
    assert apply_gate("\x00\x01", Gate(min_words=5))[0] is Status.EMPTY_INPUT


@pytest.mark.parametrize(
    ("text", "words"),
    [("stent", 1), ("biliary stent", 2), ("5.5 mm - …", 3), ("胆管", 2), ("T-cell's role", 4)],
)
def test_a_text_with_too_few_words(text, words):
    assert apply_gate(text, Gate(min_words=words)) is None
    reason = f"{words} word{'' if words == 1 else 's'}, and the task requires {words + 1} or more"
    assert apply_gate(text, Gate(min_words=words + 1)) == (Status.TOO_SHORT, reason)


def test_a_text_unlike_any_example():
    examples = (
        Example({"text": "biliary stent for obstruction"}, "a"),
        Example({"text": "left hemicolectomy"}, "b"),
    )
    assert apply_gate("stent in the left duct", Gate(novelty=0.2), examples=examples) is None
    assert apply_gate("quarterly sales", Gate(novelty=0.2), examples=examples) == (
        Status.NOVEL,
        "the similarity to the nearest example is 0.00, below 0.2",
    )
    pool = ExamplePool(examples, ("biliary stent for obstruction", "left hemicolectomy"), 1)
    assert apply_gate("quarterly sales", Gate(novelty=0.2), pool=pool)[0] is Status.NOVEL
    assert apply_gate("Left hemicolectomy!", Gate(novelty=0.99), pool=pool) is None


def test_a_part_of_a_record_goes_past_the_gate():
    task = Task(TASK.name, TASK.instruction, TASK.input, labels=TASK.labels, gate=Gate(min_words=5))
    record = Record("7", {"text": "one two three four five"})
    part = build_prompt(task, record, "one two")
    assert isinstance(part, Prompt)
    assert part.text == "one two"
    assert part.messages[-1].content.endswith("<vk> one two </vk>")
