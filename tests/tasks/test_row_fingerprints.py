"""Fingerprints of rows find the rows that were used, and contain no text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.errors import InputError
from medtask.json_content import check_content
from medtask.json_files import InvalidJsonFile
from medtask.records import Prompt, Record
from medtask.tasks.prompt import build_prompt
from medtask.tasks.row_fingerprints import (
    TRAINING_ROWS_FILE,
    RowKey,
    StoredFingerprints,
    fingerprint_rows,
    make_row_key,
    read_training_rows,
    write_fingerprints,
)
from medtask.tasks.task import Label, Task
from medtask.tasks.text_cleaning import normalize_group

TASK = Task("wounds", "Name it.", "{{ note }}", labels=(Label("a", "", "a"), Label("b", "", "b")))


def make_key(text: str, group: str | None = None, task: Task = TASK) -> RowKey:
    record = Record("1", {"note": f"wound: {text}"}, group=group)
    prompt = build_prompt(task, record)
    assert isinstance(prompt, Prompt)
    return make_row_key(task, record, prompt)


words = st.lists(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=1, max_size=6
)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=10), words)
def test_exactly_the_rows_that_were_used_are_found(used: list[list[str]], other: list[str]) -> None:
    texts = [" ".join(one) for one in used]
    found = fingerprint_rows(map(make_key, texts), "training", "s")
    assert all(found.has_row(make_key(f"  {text}\n".replace(" ", "  "))) for text in texts)
    key = make_key(" ".join(other))
    assert found.has_row(key) == (key in set(map(make_key, texts)))


def test_a_row_is_found_under_another_template_and_under_the_name_of_another_column() -> None:
    found = fingerprint_rows([make_key("a cut of the thumb")], "training", "s")
    other = replace(TASK, input="Report (shortened): {{ note }}")
    assert found.has_row(make_key("a cut of the thumb", task=other))
    assert not found.has_row(make_key("a cut of the toe", task=other))
    renamed = replace(TASK, input="{{ text }}")
    record = Record("1", {"text": "wound: A cut of  the thumb"})
    prompt = build_prompt(renamed, record)
    assert isinstance(prompt, Prompt)
    assert found.has_row(make_row_key(renamed, record, prompt))


def test_a_group_is_found_without_regard_to_spaces_and_case() -> None:
    found = fingerprint_rows([make_key("cut", "P 7"), make_key("burn")], "training", "")
    assert found.has_group("p  7")
    assert not found.has_group("P 8")
    assert not found.has_group(None)
    assert len(found.groups) == 1


@pytest.mark.parametrize(
    "copy",
    [
        "A cut of the thumb.",
        "a  cut of\u00a0the thumb",
        '"A CUT of the thumb"',
        "a\u200b cut of the thumb",
    ],
)
def test_copies_with_other_spelling_are_the_same_row(copy: str) -> None:
    found = fingerprint_rows([make_key("a cut of the thumb")], "training", "s")
    assert found.has_row(make_key(copy))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Lap. chole, left (2 cm)", "lap chole left 2 cm"),
        ("Fever; cough. No rash!", "fever cough, no rash"),
        ("b.i.d. 1.5 mg", "BID 1.5 mg"),
        ("[urgent] cut", "urgent: cut"),
        ("cut\uff0cburn", "cut, burn"),
    ],
)
def test_copies_with_other_punctuation_are_the_same_row(one: str, other: str) -> None:
    assert fingerprint_rows([make_key(one)], "training", "s").has_row(make_key(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5 mg", "15 mg"),
        ("1,5 mg", "15 mg"),
        (".5 mg", "5 mg"),
        ("1:2", "12"),
        ("5 %", "5"),
        ("T2/3", "T23"),
        ("<5", ">5"),
    ],
)
def test_punctuation_in_numbers_and_signs_tell_rows_apart(one: str, other: str) -> None:
    assert not fingerprint_rows([make_key(one)], "training", "s").has_row(make_key(other))


def test_fingerprints_of_earlier_versions_find_their_rows() -> None:
    content = {
        "use": "training",
        "salt": "table 1",
        "questions": ["b4b0d2c71b1650ed"],
        "groups": [],
    }
    found = StoredFingerprints.model_validate(content).restore()
    assert found.has_row(make_key("A cut, 2 cm (thumb)."))


def test_values_that_differ_in_a_sign_are_different_rows() -> None:
    found = fingerprint_rows([make_key("HER2 +")], "training", "s")
    assert found.has_row(make_key("her2+"))
    assert not found.has_row(make_key("HER2 -"))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("7", "7.0", True),
        ("007", "7", True),
        ("70", "7", False),
        ("P\u20137", "p-7", True),
        ("0", "00", True),
    ],
)
def test_groups_are_compared_as_a_spreadsheet_may_change_them(
    one: str, other: str, equal: bool
) -> None:
    assert (normalize_group(one) == normalize_group(other)) is equal


def test_a_file_contains_neither_texts_nor_groups_and_is_read_back_equal(tmp_path: Path) -> None:
    rows = [make_key("a burn of the left hand", "Weber"), make_key("a cut", "Meyer")]
    parts = [
        fingerprint_rows(rows[:1], "training", "table 1"),
        fingerprint_rows(rows[1:], "validation", "table 1"),
    ]
    write_fingerprints(tmp_path / TRAINING_ROWS_FILE, parts)
    assert read_training_rows(tmp_path) == tuple(parts)
    content = (tmp_path / TRAINING_ROWS_FILE).read_text()
    assert "burn" not in content
    assert "Weber" not in content
    assert (tmp_path / TRAINING_ROWS_FILE).stat().st_mode & 0o777 == 0o600


def test_the_same_row_has_another_fingerprint_under_another_salt() -> None:
    one, other = (fingerprint_rows([make_key("cut", "P1")], "training", s) for s in "xy")
    assert not one.questions & other.questions
    assert not one.groups & other.groups


def test_a_folder_without_the_file_has_no_fingerprints(tmp_path: Path) -> None:
    assert read_training_rows(tmp_path) is None
    assert read_training_rows(tmp_path / "missing") is None


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2, "rows": []}', '{"format": 1}'])
def test_a_damaged_file_is_an_error_with_a_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / TRAINING_ROWS_FILE).write_text(content)
    with pytest.raises(InputError, match="training rows") as caught:
        read_training_rows(tmp_path)
    assert caught.value.fix


def test_an_unknown_use_of_rows_is_not_valid() -> None:
    content = json.loads(json.dumps(fingerprint_rows([], "training", "s").to_json()))
    with pytest.raises(InvalidJsonFile, match="use: Input should be 'training'"):
        check_content({**content, "use": "guess"}, StoredFingerprints)
