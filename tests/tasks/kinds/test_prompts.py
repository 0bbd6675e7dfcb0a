"""The words of every kind's prompt, kept by golden files, and the candidates that go with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import InputError
from medtask.records import Branch, Description, Fault, Option, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt, find_prompt_columns, hash_prompt
from medtask.tasks.task import Example, MultipleChoice, Task

GOLDEN = Path(__file__).parent / "prompts"

LABELS = """\
instruction: Decide which domains the paper is about.
input: "{{ title }}"
answer:
  kind: labels
  labels: {cardiovascular: "heart and vessels", neurological: , "kidney, bladder": "and what joins them"}
examples:
  - {title: Stroke after dialysis, answer: "neurological; kidney, bladder"}
  - {title: Sales in the last quarter, answer: []}
"""  # noqa: E501 - data as it is read
CHOICE = """\
instruction: Answer the exam question.
input: "{{ question }}"
answer: {kind: choice, options: options}
examples: [{question: Which gas do we breathe out?, options: [O2, CO2], answer: CO2}]
"""
ANSWER = """\
instruction: Answer in plain words.
input: "{{ question }}"
answer: {kind: answer}
examples: [{question: What is asthma?, answer: Narrow airways.}]
"""
SECTIONS = """\
instruction: Answer from the abstract.
input: "{{ question }}"
answer: {kind: answer, sections: true, context: abstract}
examples: [{question: Does it help?, abstract: " It did\\nnot. ", answer: "No."}]
"""
FIELDS = """\
instruction: Fill in the registry.
input: "{{ report }}"
answer:
  kind: fields
  schema:
    type: object
    properties:
      stage: {enum: [I, II], nullable: true, quote: true, description: as the surgeon wrote it}
      size: {type: number, unit: mm, minimum: 0, maximum: 300, nullable: true}
      dose: {type: number, unit: [Gy, cGy]}
      seen: {type: string, format: date}
      clear: {type: boolean}
      nodes:
        type: array
        maxItems: 4
        items: {type: object, properties: {side: {enum: [left, right]}, removed: {type: integer, minimum: 1}}}
      notes: {type: array, items: {type: string, maxLength: 60}}
examples:
  - report: "Stage II, 50 Gy given. Two nodes left. 3 May 2024"
    answer: {stage: II, stage_quote: Stage II, dose: 50 Gy, seen: 2024-05-03, clear: yes, nodes: [{side: left, removed: 2}], notes: []}
"""  # noqa: E501 - data as it is read
KINDS = {
    "labels": (LABELS, {"title": "Syncope"}),
    "choice": (
        CHOICE,
        {
            "question": "Which organ makes bile?",
            "options": "{'A': 'spleen', 'B': 'liver', 'C': 'kidney'}",
        },
    ),
    "choice_text": (
        CHOICE.replace("options: options}", "options: options, readout: text}"),
        {"question": "Bile?", "options": ["spleen", "liver"]},
    ),
    "choice_several": (
        CHOICE.replace("options: options}", "options: options, several: true}"),
        {"question": "Which are paired?", "options": "A) lungs B) liver C) kidneys"},
    ),
    "answer": (ANSWER, {"question": "What is glaucoma?"}),
    "answer_sections": (
        SECTIONS,
        {"question": "Does it last?", "abstract": "It lasted\x00 for years."},
    ),
    "fields": (FIELDS, {"report": "No tumour seen."}),
}


def build_row_prompt(task: Task, row: dict[str, object]) -> Prompt:
    prompt = build_prompt(task, Record("7", row))
    assert isinstance(prompt, Prompt), prompt
    return prompt


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_of_every_kind_reads_as_its_golden_file_says(load_text, kind):
    text, row = KINDS[kind]
    prompt = build_row_prompt(load_text(text), row)
    written = "".join(f"=== {turn.role}\n{turn.content}\n" for turn in prompt.messages)
    for branch in prompt.branches:
        written += f"=== {branch.weigh} {branch.ask + branch.prefix!r} {branch.candidates}\n"
    assert written == (GOLDEN / f"{kind}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_row_is_last_and_roles_alternate(load_text, kind):
    text, row = KINDS[kind]
    task = load_text(text)
    first, other = build_row_prompt(task, row), build_row_prompt(replace(task, examples=()), row)
    assert {turn.role for turn in first.messages} == {"user", "assistant"}
    assert [turn.role for turn in first.messages[-2:]] == ["assistant", "user"]
    assert other.messages[-1].content.endswith(first.messages[-1].content)


def test_orders_of_options_share_everything_but_the_options(load_text):
    task = load_text(CHOICE.replace("options: options}", "options: options, debias: permute}"))
    prompt = build_row_prompt(
        task, {"question": "Which?", "options": {"A": "one", "C": "three", "D": "four"}}
    )
    assert prompt.options == (Option("A", "one"), Option("C", "three"), Option("D", "four"))
    orders = ["A. one\nC. three\nD. four", "A. three\nC. four\nD. one", "A. four\nC. one\nD. three"]
    shown = [f"\n\nOptions:\n{order}" for order in orders]
    texts = [("one", "three", "four"), ("three", "four", "one"), ("four", "one", "three")]
    assert prompt.branches == tuple(
        Branch("", ("A", "C", "D"), ask, "text", tuple(map(Description, order)))
        for ask, order in zip(shown, texts, strict=True)
    )
    assert "one" not in prompt.messages[-1].content


@pytest.mark.parametrize(
    "options", [None, [], ["one"], ["one", "ONE"], [f"option {n}" for n in range(40)]]
)
def test_a_row_without_usable_options_fails_with_a_reason_without_text(load_text, options):
    fault = build_prompt(load_text(CHOICE), Record("7", {"question": "Which?", "options": options}))
    assert isinstance(fault, Fault)
    assert fault.status is Status.FAILED
    assert "one" not in fault.reason


def test_a_row_without_context_is_asked_without_and_one_without_the_column_is_not(load_text):
    task = load_text(SECTIONS)
    assert (
        build_row_prompt(task, {"question": "Why?", "abstract": None}).messages[-1].content
        == "Why?"
    )
    fault = build_prompt(task, Record("7", {"question": "Why?"}))
    assert (fault.status, fault.reason) == (
        Status.FAILED,
        'the row has no column "abstract", which should hold the context',
    )


def test_a_part_of_a_record_keeps_what_the_row_brings(load_text):
    task, row = (
        load_text(CHOICE),
        {"question": "Which organ makes bile?", "options": ["spleen", "liver"]},
    )
    part = build_prompt(task, Record("7", row), "makes bile?")
    assert part.messages[-1].content == "Question: makes bile?"
    assert (part.text, part.options, part.branches) == (
        "makes bile?",
        build_row_prompt(task, row).options,
        build_row_prompt(task, row).branches,
    )


def test_the_columns_of_a_prompt_are_those_of_input_options_and_context(load_text):
    assert find_prompt_columns(load_text(CHOICE)) == {"question", "options"}
    assert find_prompt_columns(load_text(SECTIONS)) == {"question", "abstract"}
    assert find_prompt_columns(load_text(LABELS)) == {"title"}


def test_whatever_is_asked_is_in_the_key(load_text):
    task, row = load_text(CHOICE), {"question": "Which?", "options": ["one", "two"]}
    prompt = build_row_prompt(task, row)
    branch = prompt.branches[0]
    changes = ({"prefix": "x"}, {"ask": "x"}, {"candidates": ("A",)}, {"weigh": "set"})
    others = [
        build_row_prompt(task, row | {"question": "Who?"}),
        build_row_prompt(task, row | {"options": ["two", "one"]}),
        replace(prompt, options=prompt.options[::-1]),
        replace(prompt, thoughts=""),
        replace(prompt, thoughts="hm"),
        replace(prompt, partial_response="{"),
        *(replace(prompt, branches=(replace(branch, **change),)) for change in changes),
    ]
    assert len({hash_prompt(one) for one in [prompt, *others]}) == 1 + len(others)
    assert hash_prompt(replace(prompt, record_id="8", text="x")) == hash_prompt(prompt)


def test_an_example_whose_letter_the_row_lacks_stops_the_task_and_not_the_row():
    task = Task(
        "t",
        "x",
        "{{ q }}",
        MultipleChoice(("o",)),
        examples=(Example({"q": "a", "o": ["b", "c"]}, "D"),),
    )
    with pytest.raises(InputError, match="example 1"):
        build_prompt(task, Record("7", {"q": "a", "o": ["b", "c"]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CHOICE.replace("[O2, CO2]", "[O2]"),
            "example 1 cannot be shown: the row has a single option",
        ),
        (
            CHOICE.replace("answer: CO2", "answer: C"),
            'example 1 answers "C", which is not one of its options',
        ),
        (
            CHOICE.replace("options: [O2, CO2], ", ""),
            'example 1 lacks "options", which holds options',
        ),
        (
            SECTIONS.replace('abstract: " It did\\nnot. ", ', ""),
            'example 1 lacks "abstract", which context names',
        ),
        (
            LABELS.replace("neurological; k", "neural; k"),
            'example 1 answers "neural", which is not a label - did you mean "neurological"?',
        ),
        (
            FIELDS.replace("{stage: II,", "{stage: IV,"),
            'example 1 answers "stage" with a value that the schema does not allow',
        ),
        (FIELDS.replace("clear: yes, ", ""), 'example 1 answers no "clear"'),
        (
            FIELDS.replace("Stage II, d", "stage 2, d"),
            'example 1 has a quote for "stage" that is not in its text',
        ),
        (
            FIELDS.replace("notes: []", "note: []"),
            'example 1 answers "note" with a value that the schema does not allow',
        ),
        (
            FIELDS.partition("    answer: {stage")[0] + "    answer: none\n",
            "example 1 answers with something that is not a mapping of fields",
        ),
    ],
)
def test_what_is_wrong_with_an_example_of_any_kind(load_faults, text, message):
    assert message in [result for _, result in load_faults(text)]
