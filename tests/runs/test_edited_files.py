"""A run is not continued when a file that decides its answers was edited, whichever it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.errors import RunMismatch
from medtask.tasks.load import load_task
from support.small_trainings import make_rows, make_task

QUESTION = """\
name: question
instruction: Decide.
input: "{{ procedure }}"
id: case_id
"""
LABELS = QUESTION + "answer: {kind: label, labels: [curative, palliative]}\n"
EXAMPLES = LABELS + "examples: {file: examples.csv, k: 1}\n"
SCHEMA = {"type": "object", "properties": {"site": {"type": "string"}}, "required": ["site"]}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("task", "file", "change", "fact"),
    [
        (LABELS, "task.yaml", ("Decide.", "Decide now."), "task.instruction"),
        (LABELS, "task.yaml", ('"{{ pro', '"Text: {{ pro'), "task.input"),
        (LABELS, "task.yaml", ("palliative", "palliation"), "task.labels"),
        (LABELS, "task.yaml", ("[curative, pal", "[curative, staging, pal"), "task.labels"),
        (LABELS, "task.yaml", ("answer:", "reasoning: {budget: 64}\nanswer:"), "task.reasoning"),
        (EXAMPLES, "examples.csv", ("node", "nodes"), "task.examples"),
        (EXAMPLES, "task.yaml", ("k: 1", "k: 2"), "task.examples"),
        (
            QUESTION + "answer: {kind: fields, schema: schema.json}\n",
            "schema.json",
            ("site", "place"),
            "task.schema",
        ),
    ],
)
def test_an_edited_file_of_a_task_is_named(
    tmp_path: Path,
    write_rows: Callable[[int], Path],
    task: str,
    file: str,
    change: tuple[str, str],
    fact: str,
) -> None:
    rows, out = write_rows(4), tmp_path / "out"
    (tmp_path / "task.yaml").write_text(task)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "examples.csv").write_text(
        "procedure,answer\na node is removed,curative\na stent,palliative\n"
    )
    medtask.run(load_task(tmp_path), FakeEngine(), rows, out=out, baselines=False)
    before = {path: hash_file(path) for path in sorted(out.rglob("*")) if path.name != ".lock"}
    edit(tmp_path / file, *change)
    with pytest.raises(RunMismatch) as caught:
        medtask.run(load_task(tmp_path), FakeEngine(), rows, out=out, baselines=False)
    assert caught.value.exit_code == 8
    assert f"\n  {fact}" in str(caught.value)
    assert before == {path: hash_file(path) for path in before}
    assert "--new-run" in caught.value.fix


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def test_a_model_that_was_trained_anew_into_the_same_folder_is_named(tmp_path: Path) -> None:
    task, folder = make_task(tmp_path / "task"), tmp_path / "model"
    rows = make_rows()
    for number, table in enumerate((rows, rows[:-4])):
        medtask.train(task, table, method="linear", out=tmp_path / f"model-{number}")
    (tmp_path / "model-0").rename(folder)
    medtask.run(task, medtask.load_model(str(folder)), rows, out=tmp_path / "out", baselines=False)
    folder.rename(tmp_path / "old")
    (tmp_path / "model-1").rename(folder)
    with pytest.raises(RunMismatch, match=r"model\."):
        medtask.run(
            task, medtask.load_model(str(folder)), rows, out=tmp_path / "out", baselines=False
        )
