from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtask.engines import fake
from medtask.engines.load_options import LoadOptions
from medtask.tasks.load import load_task
from support.command_line import RunCommand
from support.prompt_search import (
    TASK,
    PromptSensitiveEngine,
    make_rows,
    prefers_care,
    prefers_examples,
    prefers_nothing,
)

TUNE = ("tune", "planted", "operations.csv", "--model", "fake:", "--budget", "1h")
INSTRUCTION_PROPOSALS = (
    "```\nDecide.\n```",
    "no fences here",
    "```\nDecide it carefully, by its aim.\n```",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: planted/task.yaml, and operations.csv."""
    monkeypatch.chdir(tmp_path)
    Path("planted").mkdir()
    Path("planted/task.yaml").write_text(TASK)
    write_rows(120)
    return tmp_path


def write_rows(count: int) -> None:
    rows = make_rows(count)
    with Path("operations.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[PromptSensitiveEngine]:
    """What `fake:` loads: it answers better with examples."""
    made = PromptSensitiveEngine(
        prefers_examples, accuracy=1.0, proposals=("```\nOther words.\n```",)
    )

    closed: list[bool] = []

    def load(reference: str, options: LoadOptions) -> PromptSensitiveEngine:
        closed.clear()
        return made

    def close() -> None:
        # Real engines give their memory back once, and have none to give a second time.
        assert not closed
        closed.append(True)

    monkeypatch.setattr(fake, "load_fake", load)
    monkeypatch.setattr(made, "close", close)
    yield made


def test_examples_that_help_come_into_a_new_task_file(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    done = medtask(*TUNE, "--what", "examples")
    assert done.code == 0
    assert done.out.startswith("accuracy 0.")
    assert "30 test rows" in done.out
    assert "planted/task.tuned.yaml" in done.out
    assert "texts of rows" in done.out
    assert "task.tuned.rows.json beside it" in done.out
    assert "Loading fake:" in done.err
    checked = medtask("check", "planted/task.tuned.yaml", "operations.csv", "--model", "fake:")
    assert checked.code == 0


def test_json_is_one_document_without_a_word_of_a_row(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    done = medtask(*TUNE, "--what", "examples", "--json", "--quiet")
    output = json.loads(done.out)
    assert output["gain"]["shown"] is True
    assert output["changed"] == ["examples"]
    assert output["rows"] == {"train": 45, "validation": 45, "test": 30}
    assert done.err == ""
    assert not any(str(row["procedure"]) in done.out for row in make_rows(120))


def test_where_nothing_helps_no_file_is_written(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    engine.wants = prefers_nothing
    done = medtask(*TUNE, "--what", "prompt")
    assert done.code == 0
    assert done.out.startswith("Nothing was better")
    assert [path.name for path in Path("planted").iterdir()] == ["task.yaml"]


def test_a_proposer_of_its_own_writes_the_instructions(
    medtask: RunCommand,
    folder: Path,
    engine: PromptSensitiveEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = PromptSensitiveEngine(prefers_nothing, proposals=INSTRUCTION_PROPOSALS)
    engine.wants = prefers_care
    monkeypatch.setattr(
        fake,
        "load_fake",
        lambda reference, options: writer if reference == "fake:seed=7" else engine,
    )
    done = medtask(*TUNE, "--proposer", "fake:seed=7", "--what", "prompt")
    assert "instruction" in done.out
    assert writer.generation_texts
    assert not engine.generation_texts
    assert "Decide it carefully" in Path("planted/task.tuned.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (("--budget", "soon"), 2, "not a valid duration"),
        (("--budget", "1h", "--out", "elsewhere.yaml"), 2, "another folder"),
        (("--budget", "1h", "--out", "planted/new.txt"), 2, "not the name of a task file"),
        (("--budget", "1h", "--out", "planted/task.yaml", "--force"), 2, "already exists"),
        (("--budget", "1h", "--what", "examples", "--method", "lora"), 2, "--method"),
        (("--budget", "1h", "--method", "linear"), 2, "no settings to search"),
        (("--budget", "1h", "--method", "lora", "--adapter", "a"), 2, "does not support --adapter"),
        (("--budget", "1h", "--gold", "aim"), 4, "aim"),
        (("--budget", "1h", "--test-share", "2"), 2, "share"),
    ],
)
def test_impossible_combinations_are_refused_with_a_remedy(
    medtask: RunCommand,
    folder: Path,
    engine: PromptSensitiveEngine,
    words: tuple[str, ...],
    code: int,
    output: str,
) -> None:
    done = medtask("tune", "planted", "operations.csv", "--model", "fake:", *words)
    assert done.code == code
    assert output in done.err
    assert "fix: " in done.err
    assert engine.prompt_count == 0


def test_without_gold_there_is_nothing_to_search_by(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    Path("planted/task.yaml").write_text(TASK.replace("gold: purpose\n", ""))
    done = medtask(*TUNE)
    assert done.code == 4
    assert "--gold" in done.err


def test_texts_of_patients_need_acknowledgement(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    Path("planted/task.yaml").write_text(TASK + "phi: true\n")
    words = (*TUNE, "--what", "examples")
    assert medtask(*words).code == 2
    assert medtask(*words, "--acknowledge-phi").code == 0
    assert load_task(Path("planted/task.tuned.yaml")).phi is True


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(
    medtask: RunCommand, folder: Path, engine: PromptSensitiveEngine
) -> None:
    Path("planted/task.tuned.yaml").write_text("mine")
    words = (*TUNE, "--what", "examples")
    assert medtask(*words).code == 2
    assert Path("planted/task.tuned.yaml").read_text() == "mine"
    assert medtask(*words, "--force").code == 0
    assert Path("planted/task.tuned.yaml").read_text().startswith("# tuned by medtask tune on")
