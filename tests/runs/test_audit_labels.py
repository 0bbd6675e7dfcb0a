"""Labels of an audit sample: a label can have any name, and "none applies" is a mark."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import InputError
from medtask.evaluation.statistics.audit import AuditResult
from medtask.runs.answer_table import AnswerTable
from medtask.runs.audit_labels import LABEL_COLUMN, NONE_COLUMN
from medtask.runs.audit_sample import (
    PLAN_FILE,
    SAMPLE_FILE,
    draw_audit_sample,
    estimate_from_labels,
)
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.tables.read import read_table
from medtask.tasks.load import load_task

ROWS = 60


def open_labels(path: Path, names: tuple[str, str]) -> AnswerTable:
    """Answers of several labels: the first name in every second row, both in the others."""
    lines = [
        f"{row},text {row},{json.dumps('; '.join(names[: 1 + row % 2]))},0.9" for row in range(ROWS)
    ]
    path.write_text("\n".join(["id,text,answer,confidence", *lines]) + "\n")
    return open_answers(path, kind="labels")


def fill_sample(folder: Path, fill: Callable[[int], tuple[str, str]]) -> None:
    """Write the label and the mark that ``fill`` gives for the id of each row."""
    path = folder / SAMPLE_FILE
    rows = list(read_table(path).rows())
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", LABEL_COLUMN, NONE_COLUMN])
        writer.writerows([row["id"], *fill(int(str(row["id"])))] for row in rows)


def estimate(
    answers: AnswerTable, folder: Path, fill: Callable[[int], tuple[str, str]]
) -> AuditResult:
    draw_audit_sample(answers, folder, budget=40)
    fill_sample(folder, fill)
    return estimate_from_labels(answers, folder)[0]


def test_a_label_called_none_is_a_label(tmp_path: Path) -> None:
    answers = open_labels(tmp_path / "answers.csv", ("none", "rash"))
    result = estimate(
        answers, tmp_path / "audit", lambda row: ("none" if row % 2 == 0 else "none; rash", "")
    )
    shares = {one.label: one.estimate.value for one in result.prevalences}
    assert shares["none"] == pytest.approx(1.0, abs=0.02)
    assert result.accuracy.value == pytest.approx(1.0, abs=0.02)


def test_a_mark_says_that_no_label_applies(tmp_path: Path) -> None:
    answers = open_labels(tmp_path / "answers.csv", ("nausea", "rash"))
    result = estimate(
        answers,
        tmp_path / "audit",
        lambda row: ("", "x") if row % 2 == 0 else ("nausea; rash", "no"),
    )
    shares = {one.label: one.estimate.value for one in result.prevalences}
    assert shares["nausea"] == pytest.approx(0.5, abs=0.1)


def test_the_word_none_is_not_a_label_of_other_tasks(tmp_path: Path) -> None:
    answers = open_labels(tmp_path / "answers.csv", ("nausea", "rash"))
    with pytest.raises(InputError, match="labels that the task does not know") as caught:
        estimate(answers, tmp_path / "audit", lambda row: ("none", ""))
    assert NONE_COLUMN in str(caught.value.fix)


def test_a_label_and_a_mark_in_one_row_are_refused(tmp_path: Path) -> None:
    answers = open_labels(tmp_path / "answers.csv", ("nausea", "rash"))
    with pytest.raises(InputError, match=f"a mark in {NONE_COLUMN} in row 1"):
        estimate(answers, tmp_path / "audit", lambda row: ("rash", "x"))


def test_a_sample_of_an_earlier_version_has_the_word_none(tmp_path: Path) -> None:
    answers, folder = open_labels(tmp_path / "answers.csv", ("nausea", "rash")), tmp_path / "audit"
    draw_audit_sample(answers, folder, budget=40)
    plan = json.loads((folder / PLAN_FILE).read_text())
    (folder / PLAN_FILE).write_text(json.dumps(plan | {"format": 1}))
    fill_sample(folder, lambda row: ("none", ""))
    shares = {
        one.label: one.estimate.value
        for one in estimate_from_labels(answers, folder)[0].prevalences
    }
    assert shares["nausea"] == pytest.approx(0.0, abs=0.02)


def draw_numbered_sample(folder: Path, *, rows: int = ROWS, budget: int = 40) -> AnswerTable:
    """Answers of a task without an id column, and a sample of them: ids are numbers of rows."""
    (folder / "task.yaml").write_text(
        "instruction: Is the number even?\ninput: '{{ text }}'\n"
        "answer: {kind: label, labels: [yes, no]}\n"
    )
    table = [{"text": f"the number {row}"} for row in range(1, rows + 1)]
    run(load_task(folder / "task.yaml"), FakeEngine(), table, out=folder / "run")
    answers = open_answers(folder / "run")
    draw_audit_sample(answers, folder / "audit", budget=budget)
    return answers


def write_labels(path: Path, rows: Iterable[Sequence[object]], columns: Sequence[str]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def read_sample(folder: Path) -> list[tuple[str, str, str]]:
    """The id, the text and the right label of each row of the sample."""
    rows = read_table(folder / "audit" / SAMPLE_FILE).rows()
    return [
        (str(row["id"]), str(row["text"]), "no" if int(str(row["id"])) % 2 else "yes")
        for row in rows
    ]


def test_labels_of_numbered_rows_are_found_in_any_order_and_by_their_texts(tmp_path: Path) -> None:
    answers = draw_numbered_sample(tmp_path)
    sample = read_sample(tmp_path)
    columns = ("id", "text", LABEL_COLUMN)
    plain = write_labels(tmp_path / "plain.csv", sample, columns)
    expected = estimate_from_labels(answers, tmp_path / "audit", plain)[0]
    by_text = sorted(sample, key=lambda row: row[1])
    moved = write_labels(tmp_path / "moved.csv", by_text, columns)
    assert estimate_from_labels(answers, tmp_path / "audit", moved)[0] == expected
    # Sorted with the ids left in their place, and numbered again.
    for ids in ([row[0] for row in sample], [str(number) for number in range(1, 41)]):
        rows = [(name, *row[1:]) for name, row in zip(ids, by_text, strict=True)]
        other = write_labels(tmp_path / "other.csv", rows, columns)
        result, notes = estimate_from_labels(answers, tmp_path / "audit", other)
        assert result == expected
        assert "by text of other columns" in notes[0]


def test_texts_that_are_not_those_of_the_sample_are_refused(tmp_path: Path) -> None:
    answers = draw_numbered_sample(tmp_path)
    rows = [(name, f"another text, {name}", label) for name, _, label in read_sample(tmp_path)]
    path = write_labels(tmp_path / "labels.csv", rows, ("id", "text", LABEL_COLUMN))
    with pytest.raises(InputError, match="other texts than the sample beside its ids: rows 1, 2"):
        estimate_from_labels(answers, tmp_path / "audit", path)


def test_numbers_that_may_be_those_of_the_file_are_refused(tmp_path: Path) -> None:
    answers = draw_numbered_sample(tmp_path, rows=40)
    sample = read_sample(tmp_path)
    in_order = write_labels(
        tmp_path / "sample.csv", ((one[0], one[2]) for one in sample), ("id", LABEL_COLUMN)
    )
    estimate_from_labels(answers, tmp_path / "audit", in_order)
    rows = [(number, one[2]) for number, one in enumerate(sample, 1)]
    path = write_labels(tmp_path / "labels.csv", rows, ("id", LABEL_COLUMN))
    with pytest.raises(InputError, match="may be the numbers of its own rows"):
        estimate_from_labels(answers, tmp_path / "audit", path)
