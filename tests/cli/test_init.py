from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path

import pytest

from medtask import errors, load_task
from support.command_line import RunCommand


def test_a_draft_is_written_and_the_next_step_is_named(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("init", "purpose", "--from", "procedures.csv")
    assert outcome.code == 0
    assert outcome.err == ""
    read, wrote = outcome.out.splitlines()
    assert read.startswith(
        "Read procedures.csv: 5 rows, columns case_id, procedure, purpose (UTF-8"
    )
    assert wrote == "Wrote purpose/task.yaml - fill in the labels, then: medtask check purpose"


def test_the_draft_names_the_table_from_its_own_folder(
    medtask: RunCommand, project_folder: Path
) -> None:
    medtask("init", "deep/purpose", "--from", "procedures.csv")
    text = Path("deep/purpose/task.yaml").read_text()
    assert "name: purpose\n" in text
    assert "data: ../../procedures.csv\n" in text
    filled = text.replace("<first label>", "yes").replace("<second label>", "no")
    Path("deep/purpose/task.yaml").write_text(filled)
    task = load_task("deep/purpose")
    assert task.data is not None
    assert task.data.samefile("procedures.csv")
    assert task.id_column == "case_id"


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_the_draft_is_for_its_owner_only(medtask: RunCommand, project_folder: Path) -> None:
    medtask("init", "purpose", "--from", "procedures.csv")
    assert stat.S_IMODE(Path("purpose").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path("purpose/task.yaml").stat().st_mode) == 0o600


def test_a_task_is_not_overwritten_unless_forced(medtask: RunCommand, project_folder: Path) -> None:
    before = Path("surgery/task.yaml").read_text()
    outcome = medtask("init", "surgery", "--from", "procedures.csv")
    assert outcome.code == errors.UsageError.exit_code
    assert "surgery/task.yaml already exists" in outcome.err
    assert Path("surgery/task.yaml").read_text() == before
    assert medtask("init", "surgery", "--from", "procedures.csv", "--force").code == 0
    assert Path("surgery/task.yaml").read_text() != before


def test_a_table_that_is_missing_leaves_no_folder(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("init", "purpose", "--from", "procedure.csv")
    assert outcome.code == 4
    assert 'did you mean "procedures.csv"?' in outcome.err
    assert not Path("purpose").exists()


def test_a_folder_that_cannot_be_made_is_a_storage_error(
    medtask: RunCommand, project_folder: Path
) -> None:
    outcome = medtask("init", "procedures.csv/purpose", "--from", "procedures.csv")
    assert outcome.code == 7
    assert "procedures.csv/purpose/task.yaml cannot be written" in outcome.err


def test_the_first_line_names_a_schema_beside_the_task_file(
    medtask: RunCommand, project_folder: Path
) -> None:
    medtask("init", "purpose", "--from", "procedures.csv")
    first = Path("purpose/task.yaml").read_text().partition("\n")[0]
    assert first == "# yaml-language-server: $schema=task.schema.json"
    schema = json.loads(Path("purpose/task.schema.json").read_text())
    assert json.loads(medtask("data", "schema").out) == schema
    assert "instruction" in schema["required"]


def test_the_next_step_can_be_pasted_into_a_shell(
    medtask: RunCommand, project_folder: Path
) -> None:
    wrote = medtask("init", "my purpose", "--from", "procedures.csv").out.splitlines()[-1]
    assert shlex.split(wrote.partition("then: ")[2]) == ["medtask", "check", "my purpose"]
    task = Path("my purpose/task.yaml")
    task.write_text("name: [")
    refused = medtask("check", "my purpose")
    assert shlex.split(refused.err.partition("then: ")[2]) == ["medtask", "check", str(task)]
