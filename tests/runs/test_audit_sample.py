from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.runs.answer_table import AnswerTable
from medtask.runs.audit_labels import LABEL_COLUMN, NONE_COLUMN
from medtask.runs.audit_sample import (
    PLAN_FILE,
    SAMPLE_FILE,
    draw_audit_sample,
    estimate_from_labels,
    read_audit_sample,
)
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from support.tasks_by_kind import write_task_and_table

NAMES = ("curative", "palliative", "staging")


def write_answers(path: Path, n: int = 400, *, seed: int = 0) -> dict[str, str]:
    """A table of answers that are right as often as they say; the truth by id."""
    random = np.random.default_rng(seed)
    # Ids that a spreadsheet would run.
    truth = {f"={number}": NAMES[random.choice(3, p=[0.6, 0.3, 0.1])] for number in range(n)}
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "answer", "confidence", "gold"])
        for name, label in truth.items():
            sure = random.beta(6, 1)
            result = label if random.random() < sure else NAMES[(NAMES.index(label) + 1) % 3]
            writer.writerow([f"'{name}", f"note {name}", result, round(sure, 4), label])
    return truth


def fill_labels(path: Path, truth: dict[str, str], rows: int | None = None, **changes: str) -> None:
    """Write the truth into the sample's blank column, from the top."""
    table = list(read_table(path).rows())
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        for number, row in enumerate(table):
            label = truth[str(row["id"]).lstrip("'")] if rows is None or number < rows else ""
            writer.writerow(row | {LABEL_COLUMN: changes.get(f"row{number}", label)})


@pytest.fixture
def answers(tmp_path: Path) -> AnswerTable:
    write_answers(tmp_path / "answers.csv")
    return open_answers(tmp_path / "answers.csv")


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, str]:
    return write_answers(tmp_path / "other.csv")


def test_the_sample_is_blind_and_shuffled(answers: AnswerTable, tmp_path: Path) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=60, seed=3)
    assert (sample.rows, sample.drawn_rows, sample.labelled_rows) == (400, 60, 0)
    table = read_table(sample.table_path)
    assert table.columns == ("id", "text", LABEL_COLUMN)
    rows = list(table.rows())
    indices = [int(str(row["text"]).removeprefix("note =")) for row in rows]
    assert (
        sorted(indices) == json.loads((tmp_path / "audit" / PLAN_FILE).read_text())["plan"]["drawn"]
    )
    assert indices != sorted(indices)
    assert not any(row[LABEL_COLUMN] for row in rows)
    assert (
        sample.table_path.stat().st_mode & 0o777,
        (tmp_path / "audit" / PLAN_FILE).stat().st_mode & 0o777,
    ) == (0o600, 0o600)
    # The same draw again, and another one by another seed.
    again = draw_audit_sample(answers, tmp_path / "again", budget=60, seed=3)
    assert again.table_path.read_bytes() == sample.table_path.read_bytes()
    assert (
        draw_audit_sample(answers, tmp_path / "again", budget=60, seed=4).table_path.read_bytes()
        != sample.table_path.read_bytes()
    )


def test_labels_give_an_accuracy_that_holds_the_truth(
    answers: AnswerTable, truth: dict[str, str], tmp_path: Path
) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=120)
    fill_labels(sample.table_path, truth)
    found, _ = estimate_from_labels(answers, sample.folder)
    right = np.mean(
        [row.answer.value == truth[row.answer.record_id.lstrip("'")] for row in answers.rows()]
    )
    assert (found.rows, found.looks, found.missing) == (400, 120, 0)
    assert (found.accuracy.low or 0) <= right <= (found.accuracy.high or 0)
    assert [one.label for one in found.prevalences] == list(answers.task.outcomes)
    assert sum(one.answered for one in found.prevalences) == pytest.approx(1)
    for one in found.prevalences:
        assert (
            (one.estimate.low or 0)
            <= list(truth.values()).count(one.label) / 400
            <= (one.estimate.high or 0)
        )


def test_a_part_of_the_labels_is_enough(
    answers: AnswerTable, truth: dict[str, str], tmp_path: Path
) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=120)
    fill_labels(sample.table_path, truth, rows=110)
    found, _ = estimate_from_labels(answers, sample.folder)
    assert (found.looks, found.missing) == (110, 10)
    fill_labels(sample.table_path, truth, rows=20)
    with pytest.raises(InputError, match=r"20 of 120 have one"):
        estimate_from_labels(answers, sample.folder)


def test_a_sample_with_labels_is_not_drawn_again(
    answers: AnswerTable, truth: dict[str, str], tmp_path: Path
) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=60)
    draw_audit_sample(answers, tmp_path / "audit", budget=80)
    fill_labels(sample.table_path, truth, rows=1)
    kept = sample.table_path.read_bytes()
    with pytest.raises(UsageError, match="1 labels already"):
        draw_audit_sample(answers, tmp_path / "audit", budget=60)
    assert sample.table_path.read_bytes() == kept


def test_faults_of_labels_are_reported_by_row(
    answers: AnswerTable, truth: dict[str, str], tmp_path: Path
) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=60)
    fill_labels(sample.table_path, truth, row1="curativ", row4="Secret text")
    with pytest.raises(
        InputError, match=r'"curativ" in row 2 - did you mean "curative"\?; row 5$'
    ) as caught:
        estimate_from_labels(answers, sample.folder)
    assert "Secret" not in str(caught.value)
    assert "palliative" in caught.value.fix
    other = tmp_path / "labels.csv"
    drawn = str(next(iter(read_table(sample.table_path)))["id"])
    for text, reason in (
        ("id,gold\nnobody,curative\n", "not in the sample: row 1"),
        ("id,truth\n1,curative\n", "needs the columns id and gold"),
        (f"id,gold\n{drawn},curative\n{drawn},curative\n", "row 1 again in row 2"),
    ):
        other.write_text(text)
        with pytest.raises(InputError, match=reason):
            estimate_from_labels(answers, sample.folder, other)


def test_changed_answers_are_refused(
    answers: AnswerTable, truth: dict[str, str], tmp_path: Path
) -> None:
    sample = draw_audit_sample(answers, tmp_path / "audit", budget=60)
    fill_labels(sample.table_path, truth)
    write_answers(tmp_path / "answers.csv", seed=1)
    with pytest.raises(RunMismatch, match="have changed"):
        estimate_from_labels(open_answers(tmp_path / "answers.csv"), sample.folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 1}', '{"format": 1, "plan": {"drawn": 3}}', '{"format": 9, "plan": {}}'],
)
def test_a_damaged_plan_is_refused(text: str, answers: AnswerTable, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    assert read_audit_sample(folder) is None
    with pytest.raises(UsageError, match="no sample"):
        estimate_from_labels(answers, folder)
    folder.mkdir()
    (folder / PLAN_FILE).write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        read_audit_sample(folder)


@pytest.mark.parametrize("kind", ["passes", "labels", "choice", "several", "answer", "fields"])
def test_runs_of_every_kind(kind: str, tmp_path: Path) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 60)
    out = run(load_task(folder), FakeEngine(), table, out=tmp_path / "out").folder
    answers = open_answers(out)
    if kind in ("answer", "fields"):
        with pytest.raises(UsageError, match=f"of the kind {kind}"):
            draw_audit_sample(answers, out / "audit", budget=40)
        return
    sample = draw_audit_sample(answers, out / "audit", budget=40)
    table_columns = read_table(sample.table_path).columns
    assert table_columns[0] == "id"
    several = kind in ("labels", "several")
    filled_in = [LABEL_COLUMN, NONE_COLUMN] if several else [LABEL_COLUMN]
    assert list(table_columns[-len(filled_in) :]) == filled_in
    assert not {"answer", "confidence", "status"} & set(table_columns)
    result = {row.answer.record_id: row.answer for row in answers.rows()}
    rows = list(read_table(sample.table_path).rows())
    with sample.table_path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *filled_in])
        for row in rows:
            value = result[str(row["id"])].value
            names = [value] if isinstance(value, str) else list(value or ())
            default = "" if several else answers.task.outcomes[0]
            mark = ["" if names else "x"] if several else []
            writer.writerow([row["id"], "; ".join(names) or default, *mark])
    found, _ = estimate_from_labels(answers, sample.folder)
    answered = [answer.value is not None for answer in result.values()]
    assert found.accuracy.value == pytest.approx(np.mean(answered), abs=0.1)
    assert bool(found.prevalences) == (kind not in ("choice", "several"))
    assert (out / "audit" / SAMPLE_FILE).exists()


def test_groups_are_no_reason_to_doubt_the_intervals_of_the_table(tmp_path: Path) -> None:
    folder, table = write_task_and_table("labels", tmp_path, 60)
    file = folder / "task.yaml"
    file.write_text(file.read_text() + "group: text\n")
    run(load_task(folder), FakeEngine(), table, out=tmp_path / "run")
    found = medtask.audit(tmp_path / "run", budget=30)
    assert found.sample is not None
    rows = list(read_table(found.sample.table_path).rows())
    with found.sample.table_path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {LABEL_COLUMN: "heart"} for row in rows)
    found = medtask.audit(tmp_path / "run")
    (note,) = [note for note in found.notes if "groups" in note]
    assert note.startswith("the intervals are about this table; for rows of other groups (text)")
