"""Labels of an audit sample: a label can have any name, and "none applies" is a mark."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
from medtask.runs.open_answers import open_answers
from medtask.tables.read import read_table

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
