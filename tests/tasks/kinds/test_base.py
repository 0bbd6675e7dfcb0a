"""Parts that all kinds share: prompts (golden files), gold, examples, reasoning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.records import Record
from medtask.tasks.prompt import build_prompt, find_prompt_columns, hash_prompt
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import (
    Fields,
    FreeText,
    Gate,
    MultiLabel,
    MultipleChoice,
    Reasoning,
    SingleLabel,
)
from support.task_texts import (
    ANSWER_YAML,
    CHOICE_YAML,
    FIELDS_SCHEMA,
    FIELDS_YAML,
    LABEL_NAMES,
    LABELS_LINE,
    LABELS_YAML,
    SECTIONS_YAML,
    build_row_prompt,
    make_task,
    make_task_yaml,
)


def test_reasoning_and_gate_are_read(load_text):
    task = load_text(
        make_task_yaml(
            f"kind: labels, {LABELS_LINE}",
            "reasoning: {budget: 256, deadline_s: 2.5}\ngate: {min_words: 3, novelty: 0.1, "
            "too_long: chunk, combine: vote}\n"
            "examples: [{text: chest pain, answer: heart}]\n",
        )
    )
    assert task.reasoning == Reasoning(256, 2.5)
    assert task.gate == Gate(3, 0.1, "chunk", "vote")
    plain = load_text(make_task_yaml(f"kind: labels, {LABELS_LINE}", "reasoning: ~\ngate: ~\n"))
    assert (plain.reasoning, plain.gate) == (None, Gate())


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("reasoning: {}", '"reasoning" has no "budget"'),
        ("reasoning: 512", '"reasoning" must be a mapping with the keys budget, deadline_s'),
        ("reasoning: {budget: 0}", '"budget" must be a whole number from 1 to 1,000,000'),
        (
            "reasoning: {budget: 9, deadline_s: 0}",
            '"deadline_s" must be a number of seconds above 0',
        ),
        ("reasoning: {budjet: 9}", 'unknown key "budjet" - did you mean "budget"?'),
        ("gate: {min_words: -1}", '"min_words" must be a whole number of words'),
        ("gate: {novelty: 1.5}", '"novelty" must be a number from 0 to 1'),
        (
            "gate: {novelty: 0.1}",
            '"novelty" compares rows with the examples, and the task has none',
        ),
        ("gate: {too_long: cut}", '"too_long" is "cut" - it can be error, head_tail or chunk'),
        ("gate: {combine: mean}", '"combine" belongs to "too_long: chunk"'),
        ("gate: {budget: 3}", 'unknown key "budget" - "budget" belongs under "reasoning"'),
        ("min_words: 3", 'unknown key "min_words" - "min_words" belongs under "gate"'),
    ],
)
def test_what_is_wrong_with_reasoning_and_gate(load_faults, rest, message):
    assert load_faults(make_task_yaml(f"kind: labels, {LABELS_LINE}", f"{rest}\n")) == [
        (4, message)
    ]


@pytest.mark.parametrize(
    "answer", ["kind: answer", "kind: fields, schema: {properties: {a: {type: boolean}}}"]
)
def test_what_is_written_cannot_be_combined_from_parts(load_faults, answer):
    ((line, message),) = load_faults(make_task_yaml(answer, "gate: {too_long: chunk}\n"))
    assert (line, message.partition(",")[0]) == (4, "chunk combines scores")


def test_a_gold_column_that_is_shown_gives_a_warning(load_text):
    assert load_text(make_task_yaml("kind: choice, options: [a, b]", "gold: b\n")).warnings == (
        'task.yaml:3: the gold column "b" is shown to the model',
    )


LABELS = make_task(MultiLabel(), LABEL_NAMES)


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan")])
@pytest.mark.parametrize(
    "form", [SingleLabel(), MultiLabel(), MultipleChoice(("o",)), FreeText(), Fields(FIELDS_SCHEMA)]
)
def test_a_blank_cell_is_missing_gold(form, cell):
    assert read_gold(make_task(form), {"o": ["a", "b"]}, cell) is None


def test_names_that_are_not_labels_are_invalid():
    assert find_invalid_gold(LABELS, {}, ("heart", "spleen", "liver")) == ("spleen", "liver")
    assert find_invalid_gold(LABELS, {}, ()) == ()
    assert find_invalid_gold(make_task(SingleLabel(), LABEL_NAMES), {}, "spleen") == ("spleen",)
    assert find_invalid_gold(make_task(FreeText()), {}, "anything") == ()


@given(st.text(st.characters(categories=None)))
def test_any_text_is_read_for_every_kind(text):
    row = {"o": ["five", "six"]}
    for form in (
        SingleLabel(),
        MultiLabel(),
        MultipleChoice(("o",)),
        MultipleChoice(("o",), several=True),
        FreeText(),
        Fields(FIELDS_SCHEMA),
    ):
        task = make_task(form, LABEL_NAMES if isinstance(form, SingleLabel | MultiLabel) else ())
        gold = read_gold(task, row, text)
        assert gold is None or isinstance(find_invalid_gold(task, row, gold), tuple)


GOLDEN = Path(__file__).parent / "prompts"

KINDS = {
    "labels": (LABELS_YAML, {"title": "Syncope"}),
    "choice": (
        CHOICE_YAML,
        {
            "question": "Which organ makes bile?",
            "options": "{'A': 'spleen', 'B': 'liver', 'C': 'kidney'}",
        },
    ),
    "choice_text": (
        CHOICE_YAML.replace("options: options}", "options: options, readout: text}"),
        {"question": "Bile?", "options": ["spleen", "liver"]},
    ),
    "choice_several": (
        CHOICE_YAML.replace("options: options}", "options: options, several: true}"),
        {"question": "Which are paired?", "options": "A) lungs B) liver C) kidneys"},
    ),
    "answer": (ANSWER_YAML, {"question": "What is glaucoma?"}),
    "answer_sections": (
        SECTIONS_YAML,
        {"question": "Does it last?", "abstract": "It lasted\x00 for years."},
    ),
    "fields": (FIELDS_YAML, {"report": "No tumour seen."}),
}


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


def test_a_part_of_a_record_keeps_what_the_row_brings(load_text):
    task = load_text(CHOICE_YAML)
    row = {"question": "Which organ makes bile?", "options": ["spleen", "liver"]}
    part = build_prompt(task, Record("7", row), "makes bile?")
    assert part.messages[-1].content == "Question: <xj> makes bile? </xj>"
    assert (part.text, part.options, part.branches) == (
        "makes bile?",
        build_row_prompt(task, row).options,
        build_row_prompt(task, row).branches,
    )


def test_the_columns_of_a_prompt_are_those_of_input_options_and_context(load_text):
    assert find_prompt_columns(load_text(CHOICE_YAML)) == {"question", "options"}
    assert find_prompt_columns(load_text(SECTIONS_YAML)) == {"question", "abstract"}
    assert find_prompt_columns(load_text(LABELS_YAML)) == {"title"}


def test_whatever_is_asked_is_in_the_key(load_text):
    task, row = load_text(CHOICE_YAML), {"question": "Which?", "options": ["one", "two"]}
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CHOICE_YAML.replace("[O2, CO2]", "[O2]"),
            "example 1 cannot be shown: the row has a single option",
        ),
        (
            CHOICE_YAML.replace("answer: CO2", "answer: C"),
            'example 1 answers "C", which is not one of its options',
        ),
        (
            CHOICE_YAML.replace("options: [O2, CO2], ", ""),
            'example 1 lacks "options", which holds options',
        ),
        (
            SECTIONS_YAML.replace('abstract: " It did\\nnot. ", ', ""),
            'example 1 lacks "abstract", which context names',
        ),
        (
            LABELS_YAML.replace("neurological; k", "neural; k"),
            'example 1 answers "neural", which is not a label - did you mean "neurological"?',
        ),
        (
            FIELDS_YAML.replace("{stage: II,", "{stage: IV,"),
            'example 1 answers "stage" with a value that the schema does not allow',
        ),
        (FIELDS_YAML.replace("clear: yes, ", ""), 'example 1 answers no "clear"'),
        (
            FIELDS_YAML.replace("Stage II, d", "stage 2, d"),
            'example 1 has a quote for "stage" that is not in its text',
        ),
        (
            FIELDS_YAML.replace("notes: []", "note: []"),
            'example 1 answers "note" with a value that the schema does not allow',
        ),
        (
            FIELDS_YAML.partition("    answer: {stage")[0] + "    answer: none\n",
            "example 1 answers with something that is not a mapping of fields",
        ),
    ],
)
def test_what_is_wrong_with_an_example_of_any_kind(load_faults, text, message):
    assert message in [found for _, found in load_faults(text)]
