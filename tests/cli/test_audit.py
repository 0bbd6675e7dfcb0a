from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import openpyxl
import pytest

from medtask.tables.read import read_table
from support.command_line import RunCommand


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{number},note {number},{'ab'[number % 3 == 0]},{0.5 + number % 50 / 100}"
        for number in range(300)
    ]
    Path("answers.csv").write_text("\n".join(["id,text,answer,confidence", *lines]) + "\n")
    return Path("answers.csv")


def write_answers(id_and_text: str) -> None:
    """Write answers.csv with 200 rows, whose id and text are formatted with their number."""
    lines = [f"{id_and_text.format(row=row)},curative,0.9" for row in range(1, 201)]
    Path("answers.csv").write_text("\n".join(["id,text,answer,confidence", *lines, ""]), "utf-8")


def fill_labels(path: Path, label: str = "a") -> None:
    rows = list(read_table(path).rows())
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "gold"])
        writer.writerows([row["id"], label] for row in rows)


def test_draw_label_estimate(medtask: RunCommand, table: Path) -> None:
    drawn = medtask("audit", table, "--budget", 60)
    assert drawn.code == 0
    first, then = drawn.out.splitlines()
    assert first == (
        "answers-audit/sample.csv   60 of 300 rows to label, in random order, without their answers"
    )
    assert "medtask audit answers.csv" in then
    waiting = medtask("audit", table)
    assert waiting.out == drawn.out
    fill_labels(Path("answers-audit/sample.csv"))
    output = medtask("audit", table)
    assert output.code == 0
    assert "of all 300 rows, from 60 labelled rows   from these rows alone:" in output.out
    document = json.loads(medtask("audit", table, "--json").out)
    assert document["sample"]["labelled"] == document["audit"]["looks"] == 60
    assert document["audit"]["accuracy"]["low"] < 0.67 < document["audit"]["accuracy"]["high"]
    assert {one["label"] for one in document["audit"]["prevalences"]} == {"a", "b"}


def test_the_next_command_reads_the_sample_that_was_drawn(medtask: RunCommand, table: Path) -> None:
    drawn = medtask("audit", table, "--out", "my sample", "--encoding", "cp1252")
    command = shlex.split(drawn.out.strip().rpartition("then run: medtask ")[2])
    assert command == ["audit", "answers.csv", "--out", "my sample", "--encoding", "cp1252"]
    fill_labels(Path("my sample/sample.csv"))
    assert "from 120 labelled rows" in medtask(*command).out


def test_labels_from_another_file(medtask: RunCommand, table: Path) -> None:
    assert json.loads(medtask("audit", table, "--json").out)["audit"] is None
    Path("answers-audit/sample.csv").rename("mine.csv")
    fill_labels(Path("mine.csv"))
    assert "accuracy" in medtask("audit", table, "--labels", "mine.csv").out


def test_mistakes_have_a_remedy(medtask: RunCommand, table: Path) -> None:
    assert medtask("audit", table, "--labels", "answers.csv").code == 2  # no sample yet
    assert medtask("audit", table, "--budget", 10).code == 2
    medtask("audit", table)
    fill_labels(Path("answers-audit/sample.csv"), "c")
    unknown = medtask("audit", table)
    assert unknown.code == 4
    assert "labels that the task does not know" in unknown.err
    assert medtask("audit", table, "--budget", 50).code == 2
    table.write_text(table.read_text().replace(",b,", ",a,", 1))
    fill_labels(Path("answers-audit/sample.csv"), "a")
    assert medtask("audit", table).code == 8


def test_a_sample_that_a_spreadsheet_has_saved_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medtask: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    write_answers("{row:04},Operation nø. {row}")
    assert medtask("audit", "answers.csv", "--budget", "40").code == 0
    folder = Path("answers-audit")
    rows = list(read_table(folder / "sample.csv"))
    with (folder / "sample.csv").open("w", encoding="cp1252", newline="") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(["gold", "text", "id", ""])
        writer.writerows(["curative", row["text"], int(str(row["id"])), ""] for row in rows)
        writer.writerow(["", "", "", ""])
    shown = medtask("audit", "answers.csv", "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["audit"]["accuracy"]["value"] == pytest.approx(1.0)
    assert "40 ids written differently" in document["notes"][0]


def test_the_workbook_of_a_sample_keeps_ids_as_text_and_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medtask: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    write_answers("{row:04},Operation {row}")
    medtask("audit", "answers.csv", "--budget", "40")
    path = Path("answers-audit/sample.xlsx")
    book = openpyxl.load_workbook(path)
    sheet = book.active
    assert sheet is not None
    header, *rows = sheet.iter_rows()
    assert [cell.value for cell in header] == ["id", "text", "gold"]
    assert all(isinstance(row[0].value, str) and len(row[0].value) == 4 for row in rows)
    for row in rows:
        row[2].value = "curative"
    book.save(path)
    shown = medtask("audit", "answers.csv", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["sample"]["labelled"] == 40
    fill_labels(Path("answers-audit/sample.csv"))
    assert "both have labels" in medtask("audit", "answers.csv").err


def test_ids_that_are_not_in_the_sample_are_named_with_one_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medtask: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    write_answers("{row}-7,Operation {row}")
    medtask("audit", "answers.csv", "--budget", "40")
    Path("mine.csv").write_text("id,gold\n07.jan,curative\n")
    shown = medtask("audit", "answers.csv", "--labels", "mine.csv")
    assert shown.code == 4
    assert 'row 1 (the first is "07.jan"; an id of the sample is "' in shown.err
    assert "sample.xlsx" in shown.err
