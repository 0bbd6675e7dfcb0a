from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from support.command_line import RunCommand

EXAMPLES = Path(__file__).parents[2] / "examples"
SURGERY = EXAMPLES / "surgery_purpose"


def read_lines(path: Path) -> list[dict[str, list[dict[str, str]]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_prepared_and_reported(
    medtask: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = medtask("data", "prepare", SURGERY, "--out", "ready")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "  rows        300 rows read, 283 usable",
        "              13 rows left out: no gold (rows 11, 20, 32, 45, 63, …)",
        "              4 rows left out: same question and same gold as an earlier row "
        "(rows 72, 148, 161, 202)",
        "  split       255 training rows, 8 labels with 28 to 39 rows each",
        "              28 validation rows, 8 labels with 3 to 6 rows each",
        "              0.1 of the rows are set aside, stratified by label, with seed 0; groups "
        "and equal texts stay together; 2 rows stay together with their near duplicates",
        "  leaks       none: no group and no text (similarity 0.8 or more) is in both parts",
        "ready/   train.jsonl  validation.jsonl  cleaning.csv  data.json",
    ]
    lines = read_lines(Path("ready/train.jsonl"))
    assert len(lines) == 255
    assert [turn["role"] for turn in lines[0]["messages"]] == ["user", "assistant"]
    assert len(list(csv.DictReader(Path("ready/cleaning.csv").read_text().splitlines()))) == 17


def test_the_same_seed_sets_the_same_rows_aside(medtask: RunCommand, tmp_path: Path) -> None:
    def prepare_data(name: str, *words: object) -> list[str]:
        assert (
            medtask("data", "prepare", SURGERY, "--out", tmp_path / name, "--quiet", *words).out
            == ""
        )
        return (tmp_path / name / "validation.jsonl").read_text().splitlines()

    first = prepare_data("first")
    assert prepare_data("second") == first
    assert prepare_data("second", "--seed", 1) != first
    assert len(prepare_data("third", "--share", 0.25, "--cap", 20, "--min-count", 5)) == 40
    (line,) = {
        tuple(json.loads(line)) for line in prepare_data("fourth", "--format", "prompt-completion")
    }
    assert line == ("prompt", "completion")


def test_a_table_to_validate_by(medtask: RunCommand, tmp_path: Path) -> None:
    table = (SURGERY / "procedures.csv").read_text().splitlines()
    (tmp_path / "held.csv").write_text("\n".join([table[0], *table[1:40]]) + "\n")
    done = medtask(
        "data", "prepare", SURGERY, "--validation", tmp_path / "held.csv", "--out", tmp_path / "out"
    )
    assert done.code == 0
    assert "validation rows ask the same as a training row" in done.out
    assert "the most similar rows are" in done.out
    assert "validation-cleaning.csv" in done.out
    output = json.loads(
        medtask(
            "data",
            "prepare",
            SURGERY,
            "--validation",
            tmp_path / "held.csv",
            "--out",
            tmp_path / "out",
            "--json",
        ).out
    )
    assert output["leaks"]["equal"] == output["files"]["validation.jsonl"]["rows"]
    assert output["split"]["given"] is True
    assert medtask("data", "prepare", SURGERY, "--out", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "validation-cleaning.csv").exists()


def test_patients_texts_are_warned_of(medtask: RunCommand, project_folder: Path) -> None:
    task = Path("surgery/task.yaml")
    task.write_text(task.read_text() + "phi: true\n")
    rows = [
        (
            f"B{number},procedure number {number * 7919} of "
            f"{number**3},{'curative' if number % 2 else 'staging'}"
        )
        for number in range(30)
    ]
    Path("procedures.csv").write_text("\n".join(["case_id,procedure,purpose", *rows]) + "\n")
    done = medtask("data", "prepare", "surgery", "--out", "ready")
    assert "these files contain patients' texts" in done.out
    assert 'no training row has the label "palliative"' in done.out
    assert json.loads(Path("ready/data.json").read_text())["phi"] == "yes"


def test_standard_input_is_a_table_too(medtask: RunCommand, tmp_path: Path) -> None:
    done = medtask(
        "data",
        "prepare",
        SURGERY,
        "-",
        "--out",
        tmp_path / "out",
        stdin=(SURGERY / "procedures.csv").read_bytes(),
    )
    assert done.code == 0
    assert "300 rows read" in done.out


def test_mistakes_have_a_remedy(medtask: RunCommand, project_folder: Path) -> None:
    few = medtask("data", "prepare", "surgery", "--out", "ready")
    assert few.code == 4
    assert "3 training rows are too few: 5 rows read, left out: 1 empty, 1 duplicate" in few.err
    assert "fix: give at least 10 rows" in few.err
    assert not Path("ready").exists()
    assert medtask("data", "prepare", SURGERY, "--out", "ready", "--share", 0).code == 2
    assert medtask("data", "prepare", SURGERY, "--out", "ready", "--gold", "nothing").code == 4
    assert medtask("data", "prepare", SURGERY).code == 2
    used = medtask("data", "prepare", SURGERY, "--out", "surgery")
    assert used.code == 2
    assert "surgery holds files that medtask did not prepare" in used.err
    assert medtask("data").code == 2
    assert "prepare" in medtask("data", "--help").out
