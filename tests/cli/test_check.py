from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask import errors, load_task
from medtask.engines.fake import FakeEngine
from support.command_line import RunCommand

FAKE = ("--model", "fake:")


def edit_task(old: str, new: str) -> None:
    file = Path("surgery/task.yaml")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_valid_task_is_described_with_one_line_per_fact(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 0
    assert outcome.err == ""
    title, *facts = outcome.out.splitlines()
    assert title == 'surgery: label, 3 labels, input "procedure", id case_id'
    output = {line[2:14].strip(): line[14:] for line in facts}
    assert output["table"].startswith("procedures.csv: 5 rows, columns case_id, procedure, purpose")
    assert output["empty"] == "1 row cannot be asked"
    assert output["duplicates"] == "1 of 5 rows repeats an earlier text and is answered once"
    assert output["gold"] == '5 rows with gold in column "purpose"'
    assert "shared + " in output["prompt"]
    assert output["plan"] == (
        "fake engine (no model: the answers mean nothing): under a second on this machine "
        "(measured on 3 rows)"
    )


def test_warnings_say_where_and_what_to_do(medtask: RunCommand, project_folder: Path) -> None:
    edit_task("palliative: relieves symptoms", "palliative:")
    Path("procedures.csv").write_text(Path("procedures.csv").read_text() + "A6,Stent,curativ\n")
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 0
    assert (
        '  warning     task.yaml:11: "palliative" has no definition - the model sees the bare '
        "word\n"
    ) in outcome.out
    assert (
        'gold "curativ" is not a label: 1 row, the first is row 6 - perhaps "curative"'
        in outcome.out
    )


def test_rows_that_are_examples_are_announced_before_the_run(
    medtask: RunCommand, project_folder: Path
) -> None:
    assert "left out" not in medtask("check", "surgery", *FAKE).out
    task = Path("surgery/task.yaml")
    task.write_text(task.read_text() + "examples: {file: ../procedures.csv, select: first, k: 2}\n")
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 0
    assert "warning     left out of the metrics: " in outcome.out
    assert "in the prompt\n" in outcome.out


def test_rows_beyond_the_context_are_counted(
    medtask: RunCommand, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = FakeEngine.plan

    def plan_with_short_context(engine: FakeEngine, prompts: object) -> object:
        from dataclasses import replace

        return replace(plan(engine, prompts), max_input_tokens=350)  # type: ignore[arg-type]

    Path("procedures.csv").write_text(
        Path("procedures.csv").read_text() + f"A6,{'long ' * 100},curative\n"
    )
    monkeypatch.setattr(FakeEngine, "plan", plan_with_short_context)
    outcome = medtask("check", "surgery", *FAKE)
    assert (
        "  warning     1 row will be too long (gate: {too_long: chunk} reads them in parts): the "
        "model reads at most 350 tokens\n" in outcome.out
    )


def test_the_time_is_not_measured_unless_wanted(medtask: RunCommand, project_folder: Path) -> None:
    assert "measured" not in medtask("check", "surgery", *FAKE, "--no-measure").out


def test_a_row_is_shown_as_the_model_reads_it(medtask: RunCommand, project_folder: Path) -> None:
    outcome = medtask("check", "surgery", "--row", 2, *FAKE)
    assert outcome.code == 0
    assert outcome.out.startswith("row A2 as fake engine")
    assert "> Biliary stent </" in outcome.out
    assert "  palliative  'palliative'  10 tokens\n" in outcome.out


def test_the_document_of_a_row_holds_the_prompt_and_each_labels_continuation(
    medtask: RunCommand, project_folder: Path
) -> None:
    edit_task("answer:\n", "answer:\n  abstain: unclear\n")
    outcome = medtask("check", "surgery", "procedures.csv", "--row", 5, "--json", *FAKE)
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["record_id"] == "A5"
    assert "> Laparoscopic staging biopsy </" in document["prompt"]
    assert document["candidates"] == {
        name: name for name in ("curative", "palliative", "staging", "unclear")
    }
    assert list(document["candidates"]) == [label.name for label in load_task("surgery").candidates]
    assert document["candidate_tokens"]["staging"] == len("staging")
    assert document["prompt_tokens"] == len(document["prompt"])
    assert 0 < document["shared_tokens"] < document["prompt_tokens"]
    assert document["faults"] == document["warnings"] == []


def test_the_document_is_about_the_first_row_unless_one_is_named(
    medtask: RunCommand, project_folder: Path
) -> None:
    assert json.loads(medtask("check", "surgery", "--json", *FAKE).out)["record_id"] == "A1"
    assert (
        json.loads(medtask("check", "surgery", "--json", "--id", "A4", *FAKE).out)["record_id"]
        == "A4"
    )


def test_a_row_that_cannot_be_asked_has_a_reason(medtask: RunCommand, project_folder: Path) -> None:
    assert (
        medtask("check", "surgery", "--row", 3, *FAKE).out
        == "A3 is skipped: empty_input, every column that the input uses is blank\n"
    )
    document = json.loads(medtask("check", "surgery", "--row", 3, "--json", *FAKE).out)
    assert document["prompt"] is None
    assert document["faults"] == [
        {
            "record_id": "A3",
            "status": "empty_input",
            "message": "every column that the input uses is blank",
        }
    ]


@pytest.mark.parametrize("words", [("--row", 6), ("--id", "B1")])
def test_a_row_that_is_not_there_is_a_usage_error(
    medtask: RunCommand, project_folder: Path, words: tuple[object, ...]
) -> None:
    outcome = medtask("check", "surgery", *words, *FAKE)
    assert outcome.code == errors.UsageError.exit_code
    assert "procedures.csv" in outcome.err


def test_all_faults_of_a_task_are_reported_at_once_with_their_lines(
    medtask: RunCommand, project_folder: Path
) -> None:
    edit_task("labels:", "lables:")
    edit_task('"{{ procedure }}"', '"{{ procedure"')
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 4
    assert outcome.out == ""
    assert outcome.err.startswith("surgery/task.yaml has ")
    assert 'did you mean "labels"?' in outcome.err
    assert "line   5" in outcome.err


def test_faults_are_part_of_the_document(medtask: RunCommand, project_folder: Path) -> None:
    edit_task("{{ procedure }}", "{{ proceedure }}")
    outcome = medtask("check", "surgery", "--json", *FAKE)
    assert outcome.code == 4
    document = json.loads(outcome.out)
    assert document["faults"][0]["line"] == 5
    assert "proceedure" in document["faults"][0]["message"]
    assert document["candidates"] == {}


def test_a_table_can_come_in_on_standard_input(medtask: RunCommand, project_folder: Path) -> None:
    outcome = medtask(
        "check",
        "surgery",
        "-",
        "--id",
        "Z9",
        *FAKE,
        stdin=b"case_id,procedure,purpose\nZ9,Thoracotomy,curative\n",
    )
    assert outcome.code == 0
    assert "> Thoracotomy </" in outcome.out


def test_a_task_without_a_table_asks_for_one(medtask: RunCommand, project_folder: Path) -> None:
    edit_task("data: ../procedures.csv\n", "")
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == errors.UsageError.exit_code
    assert "no table is named" in outcome.err


def test_a_table_without_any_text_is_refused(medtask: RunCommand, project_folder: Path) -> None:
    Path("procedures.csv").write_text("case_id,procedure,purpose\nA1,,curative\n")
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 4
    assert "no row with a usable text" in outcome.err


def test_repeated_ids_are_named(medtask: RunCommand, project_folder: Path) -> None:
    Path("procedures.csv").write_text("case_id,procedure,purpose\nA1,x,curative\nA1,y,curative\n")
    outcome = medtask("check", "surgery", *FAKE)
    assert outcome.code == 4
    assert '"A1" (rows 1, 2)' in outcome.err


def test_hostile_names_are_shown_and_not_obeyed(medtask: RunCommand, project_folder: Path) -> None:
    hostile = "[red]id[/red]\x1b[2J\u202e"
    rows = f"case_id,procedure,purpose,{hostile}\n{hostile},A \x1b]0;title\x07 stent,curative,1\n"
    Path("procedures.csv").write_text(rows, encoding="utf-8")
    for words in ([], ["--row", 1], ["--row", 1, "--json"], ["--id", hostile]):
        outcome = medtask("check", "surgery", *words, *FAKE)
        assert outcome.code == 0
        assert not set(outcome.out) & {"\x1b", "\x07", "\u202e"}
    assert "[red]id[/red][2J" in outcome.out  # without the invisible characters
