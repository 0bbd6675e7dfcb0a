from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.errors import StorageError, UsageError
from medtask.tables.read import read_table
from medtask.training.chat_data import build_chat_turns, prepare_chat_data, write_chat_file
from medtask.training.training_data import TrainingData, build_training_data
from support.small_trainings import make_task, make_training_data, make_training_examples

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def training_data(tmp_path: Path) -> TrainingData:
    return make_training_data(make_task(tmp_path / "task"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_what_a_run_asks_and_gold_answers(
    training_data: TrainingData, tmp_path: Path
) -> None:
    write_chat_file(tmp_path / "rows.jsonl", training_data.task, training_data.train)
    lines = read_lines(tmp_path / "rows.jsonl")
    for example, line in zip(training_data.train, lines, strict=True):
        assert list(line) == ["messages"]
        *asked, result = line["messages"]
        assert asked == [
            {"role": turn.role, "content": turn.content} for turn in example.prompt.messages
        ]
        assert result == {"role": "assistant", "content": example.record.gold}
    assert stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode) == 0o600


def test_question_and_answer_apart(training_data: TrainingData, tmp_path: Path) -> None:
    write_chat_file(tmp_path / "whole.jsonl", training_data.task, training_data.train)
    write_chat_file(
        tmp_path / "apart.jsonl", training_data.task, training_data.train, "prompt-completion"
    )
    for full, apart in zip(
        read_lines(tmp_path / "whole.jsonl"), read_lines(tmp_path / "apart.jsonl"), strict=True
    ):
        assert list(apart) == ["prompt", "completion"]
        assert apart["prompt"] + apart["completion"] == full["messages"]


def test_the_turns_are_those_of_a_worked_example(tmp_path: Path) -> None:
    """A row shown as an example and the same row as a training_example read alike, kind by kind."""
    options = ["a lung", "a knee", "a brain"]
    kinds: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
        ({"kind": "label", "labels": ["knee", "wrist"], "readout": "code"}, "wrist", {}),
        ({"kind": "labels", "labels": ["knee", "fall"]}, ["fall"], {}),
        ({"kind": "choice", "options": "options"}, "B", {"options": options}),
        ({"kind": "choice", "options": "options", "debias": "permute"}, "B", {"options": options}),
        ({"kind": "choice", "options": "options", "readout": "text"}, "C", {"options": options}),
        (
            {"kind": "choice", "options": "options", "several": True},
            ["A", "C"],
            {"options": options},
        ),
        ({"kind": "answer", "sections": ["reason", "answer"]}, "because", {}),
        (
            {
                "kind": "fields",
                "schema": {"type": "object", "properties": {"size": {"type": "integer"}}},
            },
            {"size": 3},
            {},
        ),
    ]
    for number, (answer, gold, cells) in enumerate(kinds):
        row = {"text": "a fall", **cells}
        content = {
            "name": "x",
            "instruction": "Decide.",
            "input": "{{ text }}",
            "gold": "gold",
            "answer": answer,
        }
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "task.json").write_text(json.dumps(content))
        (folder / "shown.json").write_text(
            json.dumps(content | {"examples": [row | {"answer": gold}]})
        )
        (example,) = make_training_examples(medtask.load_task(folder), [row | {"gold": gold}])
        (other,) = make_training_examples(
            medtask.load_task(folder / "shown.json"), [row | {"text": "another", "gold": gold}]
        )
        asked, result = build_chat_turns(medtask.load_task(folder), example)
        shown = [(turn.role, turn.content) for turn in other.prompt.messages[:-1]]
        assert [(turn.role, turn.content) for turn in (*asked, result)] == shown


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in EXAMPLES.glob("*/task.yaml"))
)
def test_every_kind_is_written(folder: str, tmp_path: Path) -> None:
    task = medtask.load_task(EXAMPLES / folder)
    prepared_data = build_training_data(task, read_table(task.data))
    output = prepare_chat_data(tmp_path / "out", prepared_data)
    lines = read_lines(tmp_path / "out" / "train.jsonl")
    assert len(lines) == len(prepared_data.train) == output["files"]["train.jsonl"]["rows"]
    for line in lines:
        roles = [turn["role"] for turn in line["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(turn["content"].strip() for turn in line["messages"])


def test_the_folder_reports_what_it_holds(tmp_path: Path) -> None:
    task = medtask.load_task(EXAMPLES / "surgery_purpose")
    table = read_table(task.data)
    out = tmp_path / "out"
    output = prepare_chat_data(out, build_training_data(task, table))
    assert json.loads((out / "data.json").read_text()) == output
    assert output["state"] == "whole"
    assert output["task"] == {
        "name": "surgery-purpose",
        "kind": "label",
        "fingerprint": task.fingerprint,
    }
    assert output["table"]["sha256"] == table.digest()
    assert output["phi"] == "no"
    assert output["leaks"]["share"] == 0
    assert output["cleaning"]["rows"] == 300
    assert output["files"]["cleaning.csv"]["rows"] == sum(output["cleaning"]["dropped"].values())
    assert {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()
    } == dict.fromkeys(["train.jsonl", "validation.jsonl", "cleaning.csv", "data.json"], 0o600)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_only_own_files_are_replaced(training_data: TrainingData, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    (own / "train.jsonl").write_text("precious")
    with pytest.raises(UsageError, match="holds files"):
        prepare_chat_data(own, training_data)
    (own / "data.json").write_text('{"format": 1}')  # another tool's
    with pytest.raises(UsageError, match="holds files"):
        prepare_chat_data(own, training_data)
    assert (own / "train.jsonl").read_text() == "precious"
    with pytest.raises(UsageError, match="is a file"):
        prepare_chat_data(own / "train.jsonl", training_data)
    first = tmp_path / "ours"
    prepare_chat_data(first, training_data)
    (first / "notes.txt").write_text("mine")
    prepare_chat_data(first, training_data, "prompt-completion")
    assert list(read_lines(first / "train.jsonl")[0]) == ["prompt", "completion"]
    assert (first / "notes.txt").read_text() == "mine"


def test_a_preparation_that_fails_can_be_done_again(
    training_data: TrainingData, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_chat_data(out, training_data)
    (out / "validation.jsonl").unlink()
    (out / "validation.jsonl").mkdir()
    with pytest.raises(StorageError):
        prepare_chat_data(out, training_data)
    assert json.loads((out / "data.json").read_text())["state"] == "writing"
    (out / "validation.jsonl").rmdir()
    assert prepare_chat_data(out, training_data)["state"] == "whole"


def test_lone_surrogates_and_formulas_stay_text(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "answer")
    examples = make_training_examples(task, [{"text": "=1+1 \ud800", "gold": "\ud800 =2\u2028+2"}])
    write_chat_file(tmp_path / "rows.jsonl", task, examples)
    raw = (tmp_path / "rows.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    (line,) = [json.loads(raw)]
    line["messages"][-1]["content"].encode()
    assert line["messages"][0]["content"].endswith("=1+1 \ufffd")


@pytest.mark.slow
def test_other_trainers_read_the_files(training_data: TrainingData, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl.data_utils")
    prepare_chat_data(tmp_path / "chat", training_data)
    prepare_chat_data(tmp_path / "apart", training_data, "prompt-completion")
    for folder in ("chat", "apart"):
        files = {part: str(tmp_path / folder / f"{part}.jsonl") for part in ("train", "validation")}
        found = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
        assert {part: len(rows) for part, rows in found.items()} == {
            "train": len(training_data.train),
            "validation": len(training_data.validation),
        }
        assert trl.is_conversational(found["train"][0])
        full = datasets.load_dataset(str(tmp_path / folder), cache_dir=str(tmp_path / "cache"))
        assert set(full) == {"train", "validation"}


def test_mlx_reads_the_files(training_data: TrainingData, tmp_path: Path) -> None:
    mlx = pytest.importorskip("mlx_lm.tuner.datasets")
    prepare_chat_data(tmp_path / "chat", training_data)
    rows = read_lines(tmp_path / "chat" / "train.jsonl")
    assert (
        type(mlx.create_dataset(rows, None, type("Config", (), {"mask_prompt": True})())).__name__
        == "ChatDataset"
    )
