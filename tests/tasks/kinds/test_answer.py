"""Kind `answer`: the keys of a task file, and the context of a prompt."""

from __future__ import annotations

import pytest

from medtask.records import Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import FreeText
from support.task_texts import SECTIONS_YAML, build_row_prompt, make_task_yaml


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ("", FreeText()),
        (', max_tokens: 64, stop: "\\n\\n"', FreeText(64, ("\n\n",))),
        (", stop: [END, ' stop ']", FreeText(stop=("END", " stop "))),
        (", sections: true", FreeText(sections=("analysis", "answer"))),
        (", sections: no", FreeText()),
        (", sections: [findings, impression]", FreeText(sections=("findings", "impression"))),
        (", context: abstract", FreeText(context="abstract")),
        (", temperature: 0.7, top_p: 0.9, seed: 7", FreeText(temperature=0.7, top_p=0.9, seed=7)),
    ],
)
def test_the_keys_of_an_answer(load_text, keys, form):
    task = load_text(make_task_yaml(f"kind: answer{keys}"))
    assert (task.kind, task.answer_spec) == ("answer", form)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("max_tokens: 0", '"max_tokens" must be a whole number from 1 to 1,000,000'),
        ("max_tokens: many", '"max_tokens" must be a whole number from 1 to 1,000,000'),
        ("stop: ['']", '"stop" is a text, or a list of up to 16 texts'),
        ("stop: {a: b}", '"stop" is a text, or a list of up to 16 texts'),
        (
            "sections: 3",
            (
                '"sections" is true, or a list of up to 8 different names, the last of which is '
                "the "
                "answer"
            ),
        ),
        (
            "sections: [a, a]",
            (
                '"sections" is true, or a list of up to 8 different names, the last of which is '
                "the "
                "answer"
            ),
        ),
        (
            "sections: [a, My answer]",
            (
                'the section "My answer" cannot be a tag - use small letters, digits, - and _, '
                "as in "
                "<analysis>"
            ),
        ),
        ("temperature: -1", '"temperature" must be a number from 0 to 5'),
        ("top_p: 0", '"top_p" must be a number above 0, up to 1'),
        ("seed: -3", '"seed" must be a whole number, 0 or more'),
        ("schema: {}", '"schema" belongs to the kind fields, and this task is of the kind answer'),
    ],
)
def test_what_is_wrong_with_an_answer(load_faults, keys, message):
    assert load_faults(make_task_yaml(f"kind: answer, {keys}")) == [(3, message)]


def test_a_row_without_context_is_asked_without_and_one_without_the_column_is_not(load_text):
    task = load_text(SECTIONS_YAML)
    assert (
        build_row_prompt(task, {"question": "Why?", "abstract": None}).messages[-1].content
        == "Why?"
    )
    fault = build_prompt(task, Record("7", {"question": "Why?"}))
    assert (fault.status, fault.reason) == (
        Status.FAILED,
        'the row has no column "abstract", which should hold the context',
    )
