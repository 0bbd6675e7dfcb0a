"""`medtask doctor TASK`: a task's labels, with a run's answers and a model where they are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command_line import RunCommand

CHOICE = """\
name: exam
instruction: Choose.
input: "{{ question }}"
answer: {kind: choice, options: options}
"""
TEXT = """\
name: essay
instruction: Say.
input: "{{ question }}"
answer: {kind: answer}
"""
LABELS = """\
name: parts
instruction: Which parts?
input: "{{ text }}"
gold: parts
answer:
  kind: labels
  labels: [wrist, wrists, knee]
"""


def write_answers(path: str, rows: list[tuple[str, str, float]]) -> None:
    lines = [
        f"{number},{answer},{confidence},{gold}"
        for number, (gold, answer, confidence) in enumerate(rows)
    ]
    Path(path).write_text("\n".join(["id,answer,confidence,purpose", *lines]) + "\n")


def test_a_table_of_any_tool_is_examined_by_the_tasks_labels(
    medtask: RunCommand, project_folder: Path
) -> None:
    rows = (
        [("curative", "palliative", 0.9)] * 20
        + [("palliative", "palliative", 0.9)] * 10
        + [("none such", "palliative", 0.4)]
    )
    write_answers("answers.csv", rows)
    outcome = medtask("doctor", "surgery", "--run", "answers.csv", "--gold", "purpose", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["task"], document["kind"], document["answered"], document["gold_rows"]) == (
        "surgery",
        "label",
        31,
        30,
    )
    found = {
        (finding["topic"], tuple(finding["labels"])): finding for finding in document["findings"]
    }
    assert found["never_predicted", ("curative",)]["figures"]["in_gold"] == {"curative": 20}
    assert found["never_predicted", ("staging",)]["weight"] == "note"
    assert found["answered_too_often", ("palliative",)]["figures"]["given"] == 30
    assert found["missing_label", ()]["figures"]["strange_gold"] == 1


def test_findings_are_lines_with_their_remedies_and_gaps_are_named(
    medtask: RunCommand, project_folder: Path
) -> None:
    write_answers("answers.csv", [("curative", "palliative", 0.9)] * 20)
    outcome = medtask("doctor", "surgery", "--run", "answers.csv")
    assert outcome.code == 0
    assert (
        'act   none of 20 answers is "curative" (20); in brackets: how many of 20 gold rows have it'
        in outcome.out
    )
    assert "      fix: give each a definition" in outcome.out
    assert "not checked: model: name one" in outcome.out


def test_without_answers_it_reports_what_it_takes(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("doctor", "surgery")
    assert outcome.code == 0
    assert "not checked: answers: name a run with --run" in outcome.out


def test_a_run_is_examined_with_its_own_model(medtask: RunCommand, project_folder: Path) -> None:
    assert medtask("run", "surgery", "--model", "fake:", "--out", "r1", "-q").code == 0
    outcome = medtask("doctor", "surgery", "--run", "r1", "--prior", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["answered"] == 4  # one row has no text
    assert set(document["prior"]["shares"]) == {"curative", "palliative", "staging"}
    assert sum(document["prior"]["shares"].values()) == pytest.approx(1)
    assert document["prior"]["gold"]["curative"]["n"] == 5


def test_bars_show_what_a_model_prefers(medtask: RunCommand, project_folder: Path) -> None:
    outcome = medtask("doctor", "surgery", "--model", "fake:")
    assert outcome.code == 0
    assert "content-free inputs (mean of 3 empty inputs; 33.3 % would be even)" in outcome.out
    assert "█" in outcome.out


def test_several_labels_are_examined_too(medtask: RunCommand, project_folder: Path) -> None:
    Path("parts.yaml").write_text(LABELS)
    Path("answers.csv").write_text("id,answer,parts\n1,wrist; knee,knee\n2,wrist,wrist\n3,,knee\n")
    outcome = medtask("doctor", "parts.yaml", "--run", "answers.csv", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["gold_rows"] == 3
    assert ["wrist", "wrists"] in [
        finding["labels"] for finding in document["findings"] if finding["topic"] == "overlap"
    ]


def test_a_choice_task_has_its_letters_examined(medtask: RunCommand, project_folder: Path) -> None:
    Path("exam.yaml").write_text(CHOICE)
    refused = medtask("doctor", "exam.yaml")
    assert refused.code == 2
    assert "name a model with --model" in refused.err
    outcome = medtask("doctor", "exam.yaml", "--model", "fake:", "--json")
    assert outcome.code == 0
    assert list(json.loads(outcome.out)["prior"]["shares"]) == ["A", "B", "C", "D"]


def test_tasks_without_labels_are_refused(medtask: RunCommand, project_folder: Path) -> None:
    Path("essay.yaml").write_text(TEXT)
    outcome = medtask("doctor", "essay.yaml")
    assert outcome.code == 2
    assert "it has no set of labels" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run", "r1", "--prior"), "need a task"),
        (("--run", "surgery"), "not a run folder"),
        (("surgery", "--gold", "purpose"), "needs answers to compare with"),
        (("surgery", "--prior"), "neither the run nor the task names a model"),
    ],
)
def test_conflicting_options_are_refused(
    medtask: RunCommand, project_folder: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = medtask("doctor", *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_answers_to_other_labels_are_reported(medtask: RunCommand, project_folder: Path) -> None:
    assert medtask("run", "surgery", "--model", "fake:", "--out", "r1", "-q").code == 0
    file = Path("surgery/task.yaml")
    file.write_text(file.read_text().replace("    staging: ", "    diagnostic: "))
    outcome = medtask("doctor", "surgery", "--run", "r1")
    assert outcome.code == 0
    assert "the run used another set of labels" in outcome.out


def test_a_ledger_is_checked_for_damage(medtask: RunCommand, project_folder: Path) -> None:
    assert medtask("run", "surgery", "--model", "fake:", "--out", "r1", "-q").code == 0
    intact = medtask("doctor", "--run", "r1")
    assert (intact.code, "is intact" in intact.out) == (0, True)
    ledger = Path("r1/ledger.db")
    content = ledger.read_bytes()[:-2000]
    ledger.write_bytes(content)
    damaged = medtask("doctor", "--run", "r1", "--json")
    assert (damaged.code, json.loads(damaged.out)["ok"]) == (7, False)
    assert "intact answers are kept" in medtask("doctor", "--run", "r1").out
    assert ledger.read_bytes() == content
