"""Gold of every kind: read as a value where it is one, kept as its text where it is none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import (
    AnswerSpec,
    Fields,
    FreeText,
    Label,
    MultiLabel,
    MultipleChoice,
    SingleLabel,
    Task,
)

NAMES = ["heart", "brain, nerves", "kidney; bladder", "kidney"]
SIDE = {"enum": ["left", "right"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "side": SIDE,
        "size": {"type": ["number", "null"]},
        "dose": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"enum": ["Gy", "cGy"]}},
        },
        "nodes": {"type": "array", "items": {"type": "object", "properties": {"side": SIDE}}},
    },
}


def make_task(form: AnswerSpec, names: Sequence[str] = ()) -> Task:
    return Task("t", "Decide.", "{{ text }}", form, tuple(Label(name, "", name) for name in names))


LABELS = make_task(MultiLabel(), NAMES)


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan")])
@pytest.mark.parametrize(
    "form", [SingleLabel(), MultiLabel(), MultipleChoice(("o",)), FreeText(), Fields(SCHEMA)]
)
def test_a_blank_cell_is_no_gold(form, cell):
    assert read_gold(make_task(form), {"o": ["a", "b"]}, cell) is None


def test_one_label_and_free_text_are_stripped_text():
    assert read_gold(make_task(SingleLabel(), NAMES), {}, " heart ") == "heart"
    assert read_gold(make_task(FreeText()), {}, " ['a'] ") == "['a']"
    assert read_gold(make_task(SingleLabel(), ["7"]), {}, 7) == "7"


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (["kidney", "heart"], ("heart", "kidney")),
        ('["heart", "kidney"]', ("heart", "kidney")),
        ("['heart']", ("heart",)),
        ([], ()),
        ("[]", ()),
        ("heart", ("heart",)),
        ("brain, nerves", ("brain, nerves",)),
        ("kidney; bladder", ("kidney; bladder",)),
        ("heart; kidney", ("heart", "kidney")),
        ("kidney;heart;", ("heart", "kidney")),
        ("heart|brain, nerves", ("heart", "brain, nerves")),
        ("heart, brain,nerves, kidney", ("heart", "brain, nerves", "kidney")),
        ("heart; kidney; bladder", ("heart", "kidney; bladder")),
        ("kidney; kidney; bladder", ("kidney; bladder", "kidney")),
        ("heart, spleen", ("heart", "spleen")),
        ("spleen; liver", ("spleen", "liver")),
        ("Heart", ("Heart",)),
    ],
)
def test_several_labels(cell, value):
    assert read_gold(LABELS, {}, cell) == value


def test_names_that_are_no_label_are_reported():
    assert find_invalid_gold(LABELS, {}, ("heart", "spleen", "liver")) == ("spleen", "liver")
    assert find_invalid_gold(LABELS, {}, ()) == ()
    assert find_invalid_gold(make_task(SingleLabel(), NAMES), {}, "spleen") == ("spleen",)
    assert find_invalid_gold(make_task(FreeText()), {}, "anything") == ()


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.sampled_from(["; ", "|"]))
def test_labels_that_were_joined_come_apart_again(names, separator):
    assert set(read_gold(LABELS, {}, separator.join(sorted(names, reverse=True)))) == set(names)
    assert read_gold(LABELS, {}, repr(names)) == tuple(name for name in NAMES if name in names)


@given(st.text(st.characters(categories=None)))
def test_any_text_is_read_for_every_kind(text):
    row = {"o": ["five", "six"]}
    for form in (
        SingleLabel(),
        MultiLabel(),
        MultipleChoice(("o",)),
        MultipleChoice(("o",), several=True),
        FreeText(),
        Fields(SCHEMA),
    ):
        task = make_task(form, NAMES if isinstance(form, SingleLabel | MultiLabel) else ())
        gold = read_gold(task, row, text)
        assert gold is None or isinstance(find_invalid_gold(task, row, gold), tuple)


@pytest.mark.parametrize(
    ("several", "cell", "value", "strange"),
    [
        (False, "b", "B", ()),
        (False, "five", "A", ()),
        (False, ["B"], "B", ()),
        (False, "C", "C", ("C",)),
        (False, "A, B", "A, B", ("A, B",)),
        (True, "BA", ("A", "B"), ()),
        (True, "A", ("A",), ()),
        (True, "A, C", "A, C", ("A, C",)),
    ],
)
def test_options(several, cell, value, strange):
    task, row = make_task(MultipleChoice(("o",), several)), {"o": "['five', 'six']"}
    assert read_gold(task, row, cell) == value
    assert find_invalid_gold(task, row, value) == strange


def test_gold_of_a_row_without_options_is_its_text():
    task = make_task(MultipleChoice(("o",)))
    assert read_gold(task, {"o": None}, "A") == "A"
    assert find_invalid_gold(task, {"o": None}, "A") == ()


FIELDS = make_task(Fields(SCHEMA))


def test_fields_are_typed_by_their_schema_and_in_its_order():
    cell = "{'size': '3.5', 'side': 'left', 'dose': '12 Gy', 'nodes': [{'side': 'right'}]}"
    value = {
        "side": "left",
        "size": 3.5,
        "dose": {"value": 12, "unit": "Gy"},
        "nodes": [{"side": "right"}],
    }
    gold = read_gold(FIELDS, {}, cell)
    assert gold == value
    assert list(gold) == ["side", "size", "dose", "nodes"]
    assert find_invalid_gold(FIELDS, {}, gold) == ()
    assert read_gold(FIELDS, {}, {"size": None}) == {"size": None}


def test_fields_that_do_not_fit_stay_and_are_reported():
    gold = read_gold(
        FIELDS, {}, '{"side": "both", "size": "large", "dose": 12, "nodes": [{"side": "l"}, 3]}'
    )
    assert gold == {"side": "both", "size": "large", "dose": 12, "nodes": [{"side": "l"}, 3]}
    assert find_invalid_gold(FIELDS, {}, gold) == (
        "side",
        "size",
        "dose",
        "nodes[0].side",
        "nodes[1]",
    )
    assert find_invalid_gold(FIELDS, {}, read_gold(FIELDS, {}, {"sise": 3, "size": 3})) == ("sise",)
    assert read_gold(FIELDS, {}, "[1, 2]") == "[1, 2]"
    assert find_invalid_gold(FIELDS, {}, "[1, 2]") == ("[1, 2]",)
