"""What a person fills in to answer a row: the form of each kind, and the check of its values."""

from __future__ import annotations

import pytest

from medtask.errors import InputError
from medtask.records import Option
from medtask.tasks.answer_form import AnswerChoice
from medtask.tasks.kinds import get_task_kind
from support.task_texts import make_task_yaml

OPTIONS = (Option("A", "oxygen"), Option("B", "carbon dioxide"), Option("C", "argon"))
LABELS = "labels: {heart: the pump, lung: breathing}"
FIELDS = """\
kind: fields, schema: {type: object, required: [side, stage], properties: {
  side: {enum: [left, right], quote: true}, size: {type: number}, seen: {type: boolean},
  stage: {type: object, required: [t], properties: {t: {type: integer}, n: {type: integer}}}}}"""


@pytest.fixture
def build_form(load_text):
    return lambda answer: get_task_kind(load_text(make_task_yaml(answer))).build_form(OPTIONS)


def test_labels_and_the_abstention_are_the_choices_with_their_definitions(build_form):
    form = build_form(f"kind: label, {LABELS}, abstain: unclear")
    assert form.input == "one"
    assert form.choices[0] == AnswerChoice("heart", "heart", "the pump")
    assert form.choices[2].value == "unclear"
    assert form.choices[2].definition
    assert form.parse("lung") == "lung"


@pytest.mark.parametrize("value", ["liver", "", None, ["heart"], 1, "Heart"])
def test_a_value_that_is_not_a_choice_is_refused_with_the_choices(build_form, value):
    with pytest.raises(InputError) as refused:
        build_form(f"kind: label, {LABELS}").parse(value)
    assert '"heart"' in refused.value.fix
    assert "liver" not in str(refused.value)


def test_several_choices_are_in_the_order_of_the_task_and_without_repetition(build_form):
    form = build_form(f"kind: labels, {LABELS}")
    assert form.parse(["lung", "heart", "lung"]) == ("heart", "lung")
    assert form.parse([]) == ()


def test_the_number_of_choices_is_checked(build_form):
    form = build_form(f"kind: labels, {LABELS}, at_least_one: true, at_most: 1")
    assert form.parse(["lung"]) == ("lung",)
    for value in ([], ["heart", "lung"], "heart"):
        with pytest.raises(InputError):
            form.parse(value)


def test_the_options_of_the_row_are_the_choices(build_form):
    one = build_form("kind: choice, options: options")
    assert (one.input, one.choices[1]) == ("one", AnswerChoice("B", "carbon dioxide"))
    assert one.parse("C") == "C"
    several = build_form("kind: choice, options: options, several: true")
    assert (several.input, several.at_least_one) == ("several", True)


def test_texts_that_differ_in_capitals_and_punctuation_say_the_same(build_form):
    form = build_form("kind: answer")
    assert form.parse("  Narrow airways. ") == "Narrow airways."
    assert form.normalize("Narrow airways.") == form.normalize("narrow  airways")
    assert form.normalize("Narrow airways.") != form.normalize("wide airways")
    for value in (" ", None, "x" * 20_001):
        with pytest.raises(InputError):
            form.parse(value)


def test_an_object_is_typed_and_completed_by_the_schema_without_its_quotes(build_form):
    form = build_form(FIELDS)
    assert "side_quote" not in form.schema["properties"]
    assert form.parse({"stage": {"t": "2"}, "side": "LEFT", "size": "2.5"}) == {
        "side": "left",
        "size": 2.5,
        "seen": None,
        "stage": {"t": 2, "n": None},
    }


def test_all_fields_that_are_not_valid_are_named(build_form):
    with pytest.raises(InputError) as refused:
        build_form(FIELDS).parse({"size": "big", "stage": {}, "colour": "red"})
    for name in ("side", "size", "stage.t", "colour"):
        assert name in str(refused.value)
    assert "red" not in str(refused.value)
    with pytest.raises(InputError):
        build_form(FIELDS).parse("left")


def test_a_form_is_plain_json(build_form):
    content = build_form(FIELDS).to_json()
    assert content["schema"]["properties"]["size"]["type"] == ["number", "null"]
