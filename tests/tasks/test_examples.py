"""Examples: rows in the task file, or in a table beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.errors import EncodingGuessWarning, TaskFaults
from medtask.tasks.load import load_task
from medtask.tasks.task import Task


def load_examples(tmp_path: Path, examples: object, **keys: object) -> Task:
    labels = {"curative": "removes", "palliative": "relieves"}
    task = {
        "instruction": "x",
        "input": "{{ text }}",
        "answer": {"kind": "label", "labels": labels, "abstain": "unsure"},
    }
    (tmp_path / "task.json").write_text(json.dumps(task | keys | {"examples": examples}, indent=1))
    return load_task(tmp_path)


def list_faults(tmp_path: Path, examples: object, **keys: object) -> list[str]:
    with pytest.raises(TaskFaults) as caught:
        load_examples(tmp_path, examples, **keys)
    assert all(fault.line for fault in caught.value.faults)
    return [fault.message for fault in caught.value.faults]


def test_an_example_may_show_the_abstention(tmp_path):
    assert (
        load_examples(tmp_path, [{"text": "see above", "answer": "unsure"}]).examples[0].answer
        == "unsure"
    )


def test_an_example_may_name_its_answer_by_the_gold_column(tmp_path):
    assert (
        load_examples(tmp_path, [{"text": "stent", "purpose": "palliative"}], gold="purpose")
        .examples[0]
        .answer
        == "palliative"
    )


def test_what_an_example_lacks_is_a_fault(tmp_path):
    assert list_faults(tmp_path, [{"text": "stent"}]) == ["example 1 has no answer"]
    assert list_faults(tmp_path, [{"answer": "curative"}]) == [
        'example 1 lacks "text", which input uses'
    ]
    assert list_faults(tmp_path, [{"text": " ", "answer": "curative"}]) == [
        "example 1 cannot be shown: every column that the input uses is blank"
    ]
    assert list_faults(tmp_path, ["stent"]) == [
        "example 1 is not a row - write the columns that input uses, and answer"
    ]


def test_a_column_that_input_does_not_use_is_a_fault(tmp_path):
    assert list_faults(tmp_path, [{"text": "stent", "answer": "curative", "note": "x"}]) == [
        'unknown key "note" - input uses text'
    ]


def test_an_input_column_named_answer_is_refused_beside_examples(tmp_path):
    (message,) = list_faults(tmp_path, [{"answer": "curative"}], input="{{ answer }}")
    assert "rename the column" in message


def test_more_examples_than_a_prompt_should_hold_are_refused(tmp_path):
    (message,) = list_faults(tmp_path, [{"text": "stent", "answer": "curative"}] * 201)
    assert message.startswith("more than 200 examples")


def test_a_flood_of_wrong_examples_is_cut(tmp_path):
    messages = list_faults(
        tmp_path, [{"text": "stent", "answer": f"label {number}"} for number in range(200)]
    )
    assert len(messages) == 11
    assert messages[-1] == "the examples after this one were not checked"


def test_examples_come_from_a_table_beside_the_task(tmp_path):
    (tmp_path / "shots.csv").write_text(
        "case,text,answer\n1,Left hemicolectomy,curative\n2,Biliary stent,palliative\n"
    )
    task = load_examples(tmp_path, "shots.csv")
    assert [(example.fields, example.answer) for example in task.examples] == [
        ({"text": "Left hemicolectomy"}, "curative"),
        ({"text": "Biliary stent"}, "palliative"),
    ]
    inline = [
        {"text": "Left hemicolectomy", "answer": "curative"},
        {"text": "Biliary stent", "answer": "palliative"},
    ]
    assert load_examples(tmp_path, inline).fingerprint == task.fingerprint


def test_a_table_of_examples_is_checked_row_by_row(tmp_path):
    (tmp_path / "shots.csv").write_text(
        "text,purpose\nLeft hemicolectomy,curativ\nBiliary stent,palliative\n"
    )
    assert list_faults(tmp_path, "shots.csv", gold="purpose") == [
        'example 1 answers "curativ", which is not a label - did you mean "curative"?'
    ]


def test_a_table_of_examples_that_is_not_there_is_a_fault_of_the_task(tmp_path):
    (message,) = list_faults(tmp_path, "nowhere.csv")
    assert message.startswith("examples: ")
    assert "nowhere.csv" in message


def test_a_table_of_examples_is_read_in_the_named_encoding(tmp_path: Path) -> None:
    text = "text,answer\nżołądek usunięto,curative\n"
    (tmp_path / "gold.csv").write_bytes(text.encode("cp1250"))
    task = load_examples(tmp_path, {"file": "gold.csv", "encoding": "cp1250"})
    assert task.examples[0].fields == {"text": "żołądek usunięto"}
    assert list_faults(tmp_path, {"file": "gold.csv", "encoding": "cp99"}) == [
        'examples: "cp99" is not a known encoding - use a name such as utf-8, cp1252, cp1250, '
        "iso8859-2, cp850, utf-16"
    ]


def test_a_guessed_encoding_of_examples_is_a_warning_that_names_the_key(tmp_path: Path) -> None:
    text = "text,answer\nżołądek usunięto w całości,curative\n"
    (tmp_path / "gold.csv").write_bytes(text.encode("cp1250"))
    with pytest.warns(EncodingGuessWarning, match=r"examples: \{file: FILE, encoding") as caught:
        task = load_examples(tmp_path, "gold.csv")
    assert task.examples[0].fields == {"text": "żołądek usunięto w całości"}
    assert "--encoding" not in str(caught[0].message)
