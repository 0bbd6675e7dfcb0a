from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.main

from medtask.cli.main import app
from medtask.tables.read import read_table
from support.command_line import RunCommand

TABLE_OPTIONS = {"--encoding", "--sheet", "--header-row"}
READING_COMMANDS = {
    *("init", "check", "run", "evaluate", "audit", "compare", "judge", "train", "tune"),
    *("bench", "doctor", "export", "data prepare", "gold", "submit"),
}


def list_command_options() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    commands |= {f"data {name}": one for name, one in commands.pop("data").commands.items()}
    return {
        name: {flag for parameter in command.params for flag in parameter.opts}
        for name, command in commands.items()
    }


def test_every_command_that_reads_a_table_has_all_options_of_reading() -> None:
    options = list_command_options()
    assert {name for name, flags in options.items() if flags & TABLE_OPTIONS} == READING_COMMANDS
    assert all(options[name] >= TABLE_OPTIONS for name in READING_COMMANDS)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(
        "name: t\ninstruction: Choose.\ninput: '{{ note }}'\nid: id\ngold: gold\n"
        "answer: {kind: label, labels: [curative, palliative]}\n"
    )
    path = tmp_path / "notes.csv"
    path.write_bytes(
        "Ward list\nid;note;gold\n1;zabieg wyłącznie łagodzący;palliative\n".encode("cp1250")
    )
    return path


def test_a_run_with_other_options_of_reading_is_another_run(
    notes: Path, medtask: RunCommand
) -> None:
    given = ("--encoding", "cp1250", "--header-row", "2")
    first = medtask("run", ".", notes.name, "--model", "fake:", "--out", "out", *given)
    assert first.code == 0, first.err
    assert "wyłącznie" in Path("out/answers.csv").read_text("utf-8")
    again = medtask("run", ".", notes.name, "--model", "fake:", "--out", "out", *given)
    assert again.code == 0
    other = medtask(
        *("run", ".", notes.name, "--model", "fake:", "--out", "out", "--header-row", "2"),
        *("--encoding", "iso8859-2"),
    )
    assert other.code == 8


def test_gold_files_are_read_in_the_named_encoding(notes: Path, medtask: RunCommand) -> None:
    given = ("--encoding", "cp1250", "--header-row", "2")
    medtask("run", ".", notes.name, "--model", "fake:", "--out", "out", *given)
    Path("truth.csv").write_bytes("id;prawda\n1;palliative\n".encode("utf-16-le"))
    result = medtask("evaluate", "out", "--gold", "truth.csv", "--encoding", "utf-16-le")
    assert result.code == 0, result.err


def test_answers_that_look_like_formulas_are_measured_wherever_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medtask: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(
        "name: t\ninstruction: Choose.\ninput: '{{ note }}'\nid: id\n"
        "answer: {kind: label, labels: ['+', '-', '--', '=1']}\n"
    )
    rows = "".join(f"{number},- strip {number}\n" for number in range(1, 41))
    (tmp_path / "notes.csv").write_text(f"id,note\n{rows}")
    medtask("run", ".", "notes.csv", "--model", "fake:", "--out", "out", "--to", "csv,xlsx,parquet")
    answers = list(read_table("out/answers.parquet"))
    assert {row["answer"] for row in answers} == {"+", "-", "--", "=1"}
    truth = "".join(f"{row['id']},{row['answer']}\n" for row in answers)
    (tmp_path / "truth.csv").write_text(f"id,gold\n{truth}")
    (tmp_path / "elsewhere").mkdir()
    for suffix in ("csv", "xlsx"):
        moved = Path("out", f"answers.{suffix}").rename(f"elsewhere/handed-on.{suffix}")
        shown = medtask("evaluate", moved, "--gold", "truth.csv", "--json")
        assert shown.code == 0, shown.err
        document = json.loads(shown.out)
        assert (document["n"], document["metrics"]["accuracy"]["value"]) == (40, 1.0)
        assert [row["note"] for row in read_table(moved)] == [row["note"] for row in answers]


def test_a_text_that_is_too_long_for_xlsx_is_reported_before_and_after_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medtask: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(
        "name: t\ninstruction: Choose.\ninput: '{{ note }}'\n"
        "answer: {kind: label, labels: [curative, palliative]}\n"
    )
    (tmp_path / "notes.csv").write_text(f"note,more\nstent,{'word ' * 8000}\nbiopsy,short\n")
    checked = medtask("check", ".", "notes.csv", "--model", "fake:", "--no-measure")
    assert "1 cell with more than 32,767 characters" in checked.out + checked.err
    given = ("notes.csv", "--model", "fake:", "--out", "out", "--to", "xlsx", "--json")
    result = medtask("run", ".", *given)
    assert result.code == 0
    (note,) = [one for one in json.loads(result.out)["notes"] if "xlsx" in one]
    assert note.startswith("answers.xlsx: 1 cell cut to 32,767 characters")
    assert "answers.xlsx: 1 cell cut" in Path("out/report.html").read_text("utf-8")
    assert len(next(iter(read_table("out/answers.csv")))["more"]) == 40_000


@pytest.mark.parametrize(
    "words",
    [
        ("run", ".", "twice.csv", "--model", "fake:", "--out", "out"),
        ("check", ".", "twice.csv", "--model", "fake:"),
        ("bench", ".", "twice.csv", "--model", "fake:"),
        ("data", "prepare", ".", "--out", "out", "twice.csv"),
        ("train", ".", "twice.csv", "--method", "linear", "--out", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_remedy_for_repeated_ids_works_with_the_command_that_names_it(
    notes: Path, medtask: RunCommand, words: tuple[str, ...]
) -> None:
    lines = [
        f"{number % 20},note {number},{'palliative' if number % 3 else 'curative'}"
        for number in range(40)
    ]
    Path("twice.csv").write_text("\n".join(["id,note,gold", *lines]))
    refused = medtask(*words)
    assert refused.code == 4
    assert "--on-duplicate suffix" in refused.err
    assert medtask(*words, "--on-duplicate", "suffix").code == 0


def test_repeated_ids_of_answers_have_no_remedy_of_runs(notes: Path, medtask: RunCommand) -> None:
    Path("answers.csv").write_text("id,answer,gold\n1,curative,curative\n1,palliative,curative\n")
    refused = medtask("evaluate", "answers.csv")
    assert refused.code == 4 and "repeats the id" in refused.err
    assert "--on-duplicate" not in refused.err
