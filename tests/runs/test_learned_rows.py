"""Fingerprints of training rows: what they recognise, and that they contain no text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medtask
from medtask.errors import InputError
from medtask.records import Record
from medtask.runs.learned_rows import (
    LEARNED_ROWS_FILE,
    LearnedRows,
    fingerprint_rows,
    read_learned_rows,
    write_learned_rows,
)
from medtask.tasks.task import Task


def make_task(folder: Path, template: str = "{{ note }}") -> Task:
    folder.mkdir(exist_ok=True)
    content = {
        "name": "site",
        "instruction": "Decide the site.",
        "input": template,
        "group": "patient",
        "answer": {"kind": "label", "labels": ["knee", "hip"]},
    }
    (folder / "task.json").write_text(json.dumps(content))
    return medtask.load_task(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))


def make_record(note: object, patient: str | None = None) -> Record:
    return Record("1", {"note": note}, group=patient)


def test_a_row_is_recognised_by_its_text_and_by_its_group(task: Task) -> None:
    trained = [make_record("Total knee replacement", "p1")]
    chosen = [make_record("Hip fracture, screws", "p2")]
    learned = LearnedRows((fingerprint_rows([(task, trained, chosen)], "seed"),))
    assert learned.find_reason(task, make_record("total  KNEE replacement")) == "train"
    assert learned.find_reason(task, make_record("Hip fracture, screws", "p9")) == "validation"
    assert learned.find_reason(task, make_record("Another operation", " P1 ")) == "group"
    assert learned.find_reason(task, make_record("Another operation", "p3")) is None
    assert learned.find_reason(task, make_record("p1")) is None  # a group is not a text
    assert learned.rows == 2


def test_other_column_names_and_template_words_do_not_hide_a_row(
    task: Task, tmp_path: Path
) -> None:
    learned = LearnedRows((fingerprint_rows([(task, [make_record("Knee scope")], [])], "s"),))
    other = make_task(tmp_path / "other", "Procedure: {{ text }}")
    assert learned.find_reason(other, Record("7", {"text": "Knee scope"})) == "train"


def test_a_number_with_or_without_decimals_is_the_same_cell(task: Task) -> None:
    learned = LearnedRows((fingerprint_rows([(task, [make_record(17)], [])], "s"),))
    assert learned.find_reason(task, make_record(17.0)) == "train"
    assert learned.find_reason(task, make_record("17")) == "train"
    assert learned.find_reason(task, make_record(17.5)) is None


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(min_size=1).filter(lambda one: bool(one.strip())),
    form=st.sampled_from(["NFC", "NFD", "NFKC"]),
    padding=st.sampled_from(["", " ", "\u00a0", "\u200b", "\r\n"]),
)
def test_variants_that_look_the_same_are_the_same_row(
    task: Task, text: str, form: str, padding: str
) -> None:
    learned = LearnedRows((fingerprint_rows([(task, [make_record(text)], [])], "s"),))
    variant = padding + unicodedata.normalize(form, text) + padding  # type: ignore[arg-type]
    assert learned.find_reason(task, make_record(variant)) == "train"
    assert learned.find_reason(task, make_record(f"{text} and pain")) is None


def test_the_file_contains_no_text_and_reads_back(task: Task, tmp_path: Path) -> None:
    rows = [make_record(f"operation on Mrs Example {number}", "ward 3") for number in range(5)]
    learned = LearnedRows((fingerprint_rows([(task, rows[:3], rows[3:])], "seed"),))
    write_learned_rows(tmp_path, learned)
    text = (tmp_path / LEARNED_ROWS_FILE).read_text()
    assert "Example" not in text
    assert "ward" not in text
    assert (tmp_path / LEARNED_ROWS_FILE).stat().st_mode & 0o777 == 0o600
    found = read_learned_rows([tmp_path])
    assert found == learned
    assert found.complete


def test_the_same_training_writes_the_same_file_and_another_one_other_hashes(task: Task) -> None:
    rows = [make_record("Knee scope")]
    one, same, other = (fingerprint_rows([(task, rows, [])], seed) for seed in "aab")
    assert one == same
    assert not one.train & other.train


def test_a_folder_without_the_file_is_not_complete(task: Task, tmp_path: Path) -> None:
    assert read_learned_rows([]) == LearnedRows()
    assert not read_learned_rows([tmp_path]).complete
    write_learned_rows(tmp_path, LearnedRows(complete=False))
    assert not read_learned_rows([tmp_path]).complete


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 2, "sets": []}', '{"format": 1, "sets": [{}]}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / LEARNED_ROWS_FILE).write_text(content)
    with pytest.raises(InputError, match="it is not known which rows"):
        read_learned_rows([tmp_path])
