"""Prompts: their exact words, their hygiene, and the rows that cannot be asked."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.errors import InputError
from medtask.records import Branch, Description, Fault, Prompt, Record, Status
from medtask.tables.missing import mark_missing
from medtask.tasks.label_definitions import LabelEntry, assign_verbalizers
from medtask.tasks.prompt import build_prompt, find_prompt_columns, hash_prompt
from medtask.tasks.task import Example, SingleLabel, Task
from medtask.tasks.text_cleaning import clean_text

ENTRIES = [
    LabelEntry("curative", "removes the tumour with intent to cure", ()),
    LabelEntry("palliative", "", ()),
]


def make_task(readout: str = "name", source: str = "{{ procedure }}", **facts: object) -> Task:
    labels, abstain = assign_verbalizers(
        ENTRIES, LabelEntry("not enough information", "", ()), readout
    )
    instruction = (
        "Decide the main purpose of the cancer operation.\r\nBiopsies count as diagnostic.\n"
    )
    return replace(
        Task("surgery", instruction, source, SingleLabel(readout), labels, abstain), **facts
    )


def build_row_prompt(task: Task, **fields: object) -> Prompt | Fault:
    return build_prompt(task, Record("7", fields))


def test_the_prompt_reads_as_the_golden_file_says():
    examples = (
        Example({"procedure": "Left hemicolectomy"}, "curative"),
        Example({"procedure": "Biliary stent "}, "palliative"),
    )
    written = ""
    for readout in ("name", "code"):
        prompt = build_row_prompt(
            make_task(readout, examples=examples),
            procedure=" Gastric bypass\r\nfor obstruction\x00\n",
        )
        written += "".join(
            f"=== {readout}, {turn.role}\n{turn.content}\n" for turn in prompt.messages
        )
    assert written == (Path(__file__).parent / "prompt.txt").read_text(encoding="utf-8")


def test_without_examples_the_prompt_is_a_single_turn_that_ends_with_the_row():
    prompt = build_row_prompt(make_task(), procedure="Biliary stent")
    assert len(prompt.messages) == 1
    assert prompt.messages[0].content.endswith(
        "Answer with the label alone.\n\n"
        "The text is between <xf> and </xf>.\n\n"
        "Text: <xf> Biliary stent </xf>"
    )
    assert prompt.text == "Biliary stent"
    meanings = (
        Description(ENTRIES[0].name, ENTRIES[0].definition),
        Description("palliative"),
        Description("not enough information"),
    )
    assert prompt.branches == (
        Branch("", ("curative", "palliative", "not enough information"), descriptions=meanings),
    )


def test_a_row_and_an_example_of_the_same_text_are_the_same_turn():
    examples = (
        Example({"procedure": "a"}, "curative"),
        Example({"procedure": " b\u200b\r\n"}, "palliative"),
    )
    prompt = build_row_prompt(make_task(examples=examples), procedure="b")
    assert prompt.messages[2] == prompt.messages[4]
    assert [turn.role for turn in prompt.messages] == ["user", "assistant"] * 2 + ["user"]


def test_an_example_that_answers_no_label_stops_the_task_and_not_the_row():
    with pytest.raises(InputError, match="example 1"):
        build_row_prompt(make_task(examples=(Example({"procedure": "a"}, "cure"),)), procedure="b")


@pytest.mark.parametrize(
    "blank",
    [
        None,
        float("nan"),
        "",
        "  \n",
        "\u200b\ufeff",
        "nan",
        "NULL",
        "None",
        "n/a",
        " N/A ",
        "#N/A",
        [],
        {},
    ],
)
def test_a_row_without_input_is_not_asked(blank):
    row = mark_missing({"procedure": blank, "note": None})
    fault = build_row_prompt(make_task(source="Procedure: {{ procedure }}, {{ note }}"), **row)
    assert isinstance(fault, Fault)
    assert (fault.record_id, fault.status) == ("7", Status.EMPTY_INPUT)


def test_a_row_with_one_of_two_inputs_is_asked():
    assert build_row_prompt(make_task(source="{{ a }} {{ b }}"), a=None, b="stent").text == "stent"
    assert build_row_prompt(make_task(source="{{ a }} {{ b }}"), a=float("nan"), b=0).text == "0"


def test_a_word_for_a_missing_value_is_not_part_of_the_prompt():
    task = make_task(source="{{ a }}{% if b %}, {{ b }}{% endif %}")
    row = mark_missing({"a": "stent", "b": "NA"})
    assert build_row_prompt(task, **row).text == "stent"
    assert build_row_prompt(task, a="stent", b="none").text == "stent, none"


def test_a_template_that_prints_nothing_is_an_empty_input():
    fault = build_row_prompt(
        make_task(source="{% if procedure == 'x' %}{{ procedure }}{% endif %}"), procedure="y"
    )
    assert fault.status is Status.EMPTY_INPUT


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ procedure }} {{ note }}", "note"),
        ("{{ visit.date }}", "visit.date"),
        ("{{ visit['date of visit'] }}", "visit.date of visit"),
        ('{{ row["date"] }}', "date"),
    ],
)
def test_what_a_row_does_not_have_is_named_without_its_text(source, named):
    fault = build_row_prompt(make_task(source=source), procedure="SECRET", visit={"SECRET": 1})
    assert (fault.status, fault.reason) == (
        Status.FAILED,
        f'the input uses "{named}", which this row does not have',
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ visit[procedure] }}",
        "{{ procedure - 1 }}",
        "{{ procedure.strip(1) }}",
        "{{ visit.SECRET.x }}",
    ],
)
def test_an_error_of_a_template_contains_no_text_of_the_row(source):
    fault = build_row_prompt(
        make_task(source=source), procedure="SECRET TEXT", visit={"SECRET": "SECRET TEXT"}
    )
    assert fault.status is Status.FAILED
    assert "SECRET TEXT" not in fault.reason


def test_a_text_of_more_than_five_million_characters_is_too_long():
    assert build_row_prompt(make_task(), procedure="a" * 5_000_000).text == "a" * 5_000_000
    assert build_row_prompt(make_task(), procedure="a" * 5_000_001).status is Status.TOO_LONG


def test_loops_methods_and_filters_that_a_task_needs_work():
    source = """{% for visit in visits if visit.note is defined %}{{ loop.index }}. {{ visit.get('note')|trim|truncate(20) }}
{% endfor %}{{ procedure.upper()[:5] ~ '' if procedure else 'none' }} {{ codes|join(', ') }} {{ codes|length }} {{ age|default('?') }}
{% for name, value in row.items() %}{{ name }} {% endfor %}{# unseen #}{{ procedure|replace('a', 'b') }}"""  # noqa: E501 - data as it is read
    prompt = build_row_prompt(
        make_task(source=source),
        visits=[{"note": " a "}, {}, {"note": "b"}],
        procedure="abcdefg",
        codes=["x", None],
    )
    assert prompt.text == "1. a\n2. b\nABCDE x,  2 ?\nvisits procedure codes bbcdefg"


def test_the_columns_of_an_input_are_its_names_and_its_subscripts_of_row():
    source = """{{ a.b }}{{ row["Procedure name"] }}{{ row.c }}{{ row.get("d") }}{% if e is defined %}{% endif %}
{% for f in g %}{{ f }}{{ loop.index }}{% endfor %}{{ row['Eingriff-Text'][:3] }}"""  # noqa: E501 - data as it is read
    assert find_prompt_columns(make_task(source=source)) == {
        "a",
        "Procedure name",
        "c",
        "d",
        "e",
        "g",
        "Eingriff-Text",
    }


def test_equal_prompts_have_equal_keys_and_others_have_not():
    task = make_task()
    first, same, other = (
        build_row_prompt(task, procedure=text) for text in ("stent", " stent\n", "stents")
    )
    assert hash_prompt(first) == hash_prompt(replace(same, record_id="8"))
    assert (
        len(
            {
                hash_prompt(first),
                hash_prompt(other),
                hash_prompt(build_row_prompt(make_task("code"), procedure="stent")),
            }
        )
        == 3
    )
    assert len(hash_prompt(first)) == 16


@given(st.text(st.characters(categories=None)))
def test_clean_text_shows_everything_that_it_holds(text):
    clean = clean_text(text)
    assert clean == clean.strip() == clean_text(clean)
    assert not [
        character
        for character in clean
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t"
    ]
    assert not set(clean) & set(
        "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u061c"
    )
    clean.encode("utf-8")


def test_clean_text_keeps_what_people_read():
    assert clean_text("Größe 5 µm\t✓ 中文 עברית 🫀") == "Größe 5 µm\t✓ 中文 עברית 🫀"
    assert clean_text("a\r\nb\rc\u2028d\x0ce\x85f") == "a\nb\nc\nd\ne\nf"
    assert clean_text("half \ud83d and whole") == "half \ufffd and whole"


@given(st.text(st.characters(categories=None)))
def test_any_text_makes_a_prompt_or_is_none(text):
    asked = build_row_prompt(make_task(), procedure=text)
    assert isinstance(asked, Prompt) or asked.status in (Status.EMPTY_INPUT, Status.NOT_TEXT)
