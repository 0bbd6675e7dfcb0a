"""Gold and options as annotation tools and public data sets write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.tasks.annotation_shapes import describe_shape, read_annotations
from medtask.tasks.row_options import RowOptions, read_options
from medtask.tasks.rows import find_invalid_gold, read_gold
from medtask.tasks.task import FreeText, MultiLabel, MultipleChoice, SingleLabel
from support.task_texts import make_task

LABELS = ["benign", "malignant", "unclear"]
LABEL_STUDIO = {
    "id": 3,
    "was_cancelled": False,
    "result": [{"from_name": "dx", "type": "choices", "value": {"choices": ["benign"]}}],
}
SPAN = {"result": [{"type": "labels", "value": {"start": 3, "end": 9, "labels": ["benign"]}}]}


@pytest.mark.parametrize(
    "cell",
    [
        ["benign"],
        '["benign"]',
        {"choices": ["benign"]},
        '{"choices": ["benign"]}',
        {"choices": "benign"},
        {"value": "benign", "user_id": "ada", "status": "submitted"},
        [{"value": "benign", "status": "submitted"}],
        [{"value": "benign"}, {"value": "malignant", "status": "discarded"}],
        [{"value": "benign"}, {"value": "benign"}],
        {"dx": [{"value": "benign"}]},
        [LABEL_STUDIO],
        json.dumps([LABEL_STUDIO]),
        [LABEL_STUDIO, {"was_cancelled": True, "result": []}],
        [{"label": "BENIGN"}],
    ],
)
def test_one_label_in_the_shape_of_a_tool_is_read(cell: object) -> None:
    assert read_gold(make_task(SingleLabel(), LABELS), {}, cell) == "benign"
    assert read_gold(make_task(MultiLabel(), LABELS), {}, cell) == ("benign",)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        ([[0, 4, "benign"]], "a list of 1 lists"),
        ([SPAN], "a list of 1 objects with the keys result"),
        ({"start": 0, "end": 4, "label": "benign"}, "an object with the keys start, end, label"),
        ([{"value": "benign"}, {"value": "malignant"}], "a list of 2 objects with the keys value"),
        ({"dx": "benign", "site": "lung"}, "an object with the keys dx, site"),
    ],
)
def test_other_shapes_are_not_valid_and_are_described(cell: object, shape: str) -> None:
    for task in (make_task(SingleLabel(), LABELS), make_task(MultiLabel(), LABELS)):
        gold = read_gold(task, {}, cell)
        assert gold is not None and find_invalid_gold(task, {}, gold)
    assert describe_shape(cell) == describe_shape(json.dumps(cell)) == shape


def test_an_annotation_without_a_label_is_missing_or_no_label() -> None:
    for cell in ([], "[]", {"choices": []}, [{**LABEL_STUDIO, "result": []}]):
        assert read_gold(make_task(SingleLabel(), LABELS), {}, cell) is None
        assert read_gold(make_task(MultiLabel(), LABELS), {}, cell) == ()


def test_several_labels_in_the_shape_of_a_tool_are_read() -> None:
    task = make_task(MultiLabel(), LABELS)
    assert read_gold(task, {}, '{"choices": ["unclear", "benign"]}') == ("benign", "unclear")
    assert read_gold(task, {}, [{"value": ["unclear", "benign"]}]) == ("benign", "unclear")
    two = make_task(SingleLabel(), LABELS)
    assert find_invalid_gold(two, {}, read_gold(two, {}, ["unclear", "benign"]) or "")


@pytest.mark.parametrize("answer", ["reject", "ignore"])
def test_a_suggestion_that_was_not_accepted_is_not_gold(answer: str) -> None:
    task = make_task(SingleLabel(), LABELS)
    row = {"_task_hash": 1, "answer": answer, "accept": ["benign"]}
    assert read_gold(task, row, row["accept"]) is None
    assert read_gold(task, {"answer": answer}, ["benign"]) == "benign"


def test_free_text_in_a_list_of_one_is_the_text() -> None:
    assert read_gold(make_task(FreeText()), {}, ["Rest."]) == "Rest."
    assert read_gold(make_task(FreeText()), {}, {"text": ["Rest."]}) == "Rest."
    assert read_gold(make_task(FreeText()), {}, '["Rest."]') == '["Rest."]'


@pytest.mark.parametrize(
    "cell",
    [
        {"A": "five", "B": "six"},
        [{"key": "A", "value": "five"}, {"key": "B", "value": "six"}],
        [{"label": "A", "text": "five"}, {"label": "B", "text": "six"}],
        [{"text": "five", "correct": True}, {"text": "six", "correct": False}],
        {"text": ["five", "six"], "label": ["A", "B"]},
        {"label": ["1", "2"], "text": ["five", "six"]},
        [["A", "five"], ["B", "six"]],
        [{"A": "five"}, {"B": "six"}],
        ["five", "six"],
    ],
)
def test_options_are_read_from_the_shapes_of_data_sets(cell: object) -> None:
    for written in (cell, json.dumps(cell)):
        found = read_options(MultipleChoice(("options",)), {"options": written})
        assert isinstance(found, RowOptions)
        assert [(one.letter, one.text) for one in found.options] == [("A", "five"), ("B", "six")]


def test_the_keys_of_options_are_names_of_gold() -> None:
    task = make_task(MultipleChoice(("options",)))
    row = {"options": {"label": ["1", "2"], "text": ["five", "six"]}}
    assert read_gold(task, row, "2") == "B"


@pytest.mark.parametrize("cell", [["six"], {"choices": ["B"]}, [{"value": "six"}]])
def test_an_option_in_the_shape_of_a_tool_is_read(cell: object) -> None:
    row = {"options": ["five", "six"]}
    assert read_gold(make_task(MultipleChoice(("options",))), row, cell) == "B"
    assert read_gold(make_task(MultipleChoice(("options",), several=True)), row, cell) == ("B",)
    assert read_gold(make_task(MultipleChoice(("options",))), row, {"choices": []}) is None


@pytest.mark.parametrize(
    "cell", [[{"a": 1, "b": 2}, {"a": 3, "b": 4}], {"text": ["five", "six"], "label": ["A"]}]
)
def test_options_of_another_shape_are_refused_with_the_shape(cell: object) -> None:
    reason = read_options(MultipleChoice(("options",)), {"options": cell})
    assert isinstance(reason, str) and describe_shape(cell) in reason


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "value", "result", "x"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_value_is_annotations_or_none(value: object) -> None:
    found = read_annotations(value)
    assert found is None or not any(isinstance(one, list | dict) for one in found)
    assert isinstance(describe_shape(value), str)
