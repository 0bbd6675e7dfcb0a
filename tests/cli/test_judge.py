"""`medtask judge` as a data manager meets it."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest

from support.command_line import CommandResult, RunCommand, time_signal

ROWS = 60
RUBRIC = """\
instruction: Grade the answer.
passing: fine
grades: {poor: wrong, fine: right}
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ours.csv and theirs.csv: answers of two tools, of which people have graded every second one
    of ours; and rubric.yaml.
    """
    monkeypatch.chdir(tmp_path)
    head = ["id", "question", "answer", "gold", "people"]
    for name, word in (("ours", "One"), ("theirs", "Another")):
        with Path(f"{name}.csv").open("w", newline="") as file:
            lines = [
                [
                    row,
                    f"Question {row}?",
                    f"{word} {row}.",
                    f"Right {row}.",
                    (1 + row % 5) if row % 2 else "",
                ]
                for row in range(ROWS)
            ]
            csv.writer(file).writerows([head, *lines])
    Path("rubric.yaml").write_text(RUBRIC)
    return tmp_path


def read_document(outcome: CommandResult) -> dict[str, object]:
    found = json.loads(outcome.out)
    assert isinstance(found, dict)
    return found


def test_a_table_is_judged(medtask: RunCommand, tables: Path) -> None:
    outcome = medtask("judge", "ours.csv", "--model", "fake:seed=1")
    assert outcome.code == 0
    assert "60 answers judged by fake engine" in outcome.out
    assert "mean grade" in outcome.out
    assert "error rate is unknown" in outcome.out
    assert "does not say which model gave the answers" in outcome.err
    with Path("ours.judgements.csv").open(newline="") as file:
        assert [line["id"] for line in csv.DictReader(file)] == [str(row) for row in range(ROWS)]


def test_grades_by_people_are_reported_beside_the_judges(medtask: RunCommand, tables: Path) -> None:
    outcome = medtask("judge", "ours.csv", "--model", "fake:seed=1", "--human", "people")
    assert outcome.code == 0
    assert "against people, on 30 rows" in outcome.out
    assert "sensitivity" in outcome.out
    assert "no corrected share" in outcome.out  # a judge made of hashes agrees with nobody
    assert "corrected: mean grade" in outcome.out
    assert "not known: quote" not in outcome.out


def test_json_holds_the_figures_alone(medtask: RunCommand, tables: Path) -> None:
    found = read_document(medtask("judge", "ours.csv", "--model", "fake:seed=1", "--json", "-q"))
    assert (found["n"], found["exit_code"], found["against_people"]) == (ROWS, 0, None)
    assert set(found["metrics"]) == {"mean", "expected", "acceptable"}  # type: ignore[call-overload]
    beside = json.loads(Path("ours.judgements.json").read_text())
    assert beside["metrics"] == found["metrics"]
    assert beside["egress"] == {"guard": "on", "connections_attempted": 0, "sent_to": {}}


def test_two_tables_are_compared(medtask: RunCommand, tables: Path) -> None:
    outcome = medtask(
        "judge",
        "ours.csv",
        "--against",
        "theirs.csv",
        "--model",
        "fake:",
        "--rubric",
        "rubric.yaml",
    )
    assert outcome.code == 0
    assert "60 pairs judged" in outcome.out
    assert "win rate of ours" in outcome.out
    assert "decided by position" in outcome.out
    assert Path("ours.preferences.csv").exists()


def test_a_run_is_judged_in_its_folder_and_by_another_model(
    medtask: RunCommand, project_folder: Path
) -> None:
    text = (
        Path("surgery/task.yaml").read_text().partition("answer:")[0].replace("gold: purpose\n", "")
    )
    Path("surgery/task.yaml").write_text(text + "answer: {kind: answer}\n")
    assert medtask("run", "surgery", "--model", "fake:", "--out", "out", "-q").code == 0
    refused = medtask("judge", "out", "--gold", "purpose", "--model", "fake:seed=5")
    assert refused.code == 2
    assert "itself" in refused.err
    assert "--allow-self" in refused.err
    outcome = medtask("judge", "out", "--gold", "purpose", "--model", "fake:seed=5", "--allow-self")
    assert outcome.code == 0
    assert "1 row without an answer to judge" in outcome.out
    assert Path("out/judgements.csv").exists()


def test_faults_of_a_rubric_are_reported_with_their_lines(
    medtask: RunCommand, tables: Path
) -> None:
    Path("rubric.yaml").write_text(RUBRIC.replace("passing: fine", "passing: best"))
    outcome = medtask("judge", "ours.csv", "--model", "fake:", "--rubric", "rubric.yaml")
    assert outcome.code == 4
    assert "line   2" in outcome.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--against", "theirs.csv", "--human", "people"], 2, "do not apply to comparisons"),
        (["--human", "question"], 4, "are not grades of the rubric"),
        (["--gold", "nonsense"], 2, "not a column"),
        (["--out", "x.doc"], 2, "no format"),
    ],
)
def test_impossible_combinations_are_refused(
    medtask: RunCommand, tables: Path, words: list[str], code: int, message: str
) -> None:
    outcome = medtask("judge", "ours.csv", "--model", "fake:", *words)
    assert outcome.code == code
    assert message in outcome.err
    assert "Question 1" not in outcome.err


def test_patients_records_are_not_sent_away(medtask: RunCommand, tables: Path) -> None:
    Path("task.yaml").write_text(
        'instruction: Answer.\ninput: "{{ question }}"\nid: id\nphi: true\nanswer: {kind: answer}\n'
    )
    outcome = medtask(
        "judge",
        "ours.csv",
        "--task",
        "task.yaml",
        "--model",
        "http://192.0.2.1/v1#m",
        "--allow-remote",
    )
    assert outcome.code == 2
    assert "phi: true" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.scale)]
)
def test_a_signal_ends_a_judging_within_seconds_and_it_can_be_resumed(
    medtask: RunCommand, tables: Path, number: signal.Signals
) -> None:
    command = ["judge", "ours.csv", "--model", "fake:ms_per_row=100,batch=4"]
    code, seconds = time_signal(command, "Judging 60 rows", number, delay_s=2)
    assert code == (130 if number == signal.SIGINT else 143)
    assert seconds < 5
    outcome = read_document(medtask(*command, "--json", "--quiet"))
    assert isinstance(outcome["asked"], int)
    assert 0 < outcome["asked"] < ROWS
