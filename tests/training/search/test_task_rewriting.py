from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import InputError
from medtask.records import Record
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    apply_candidate,
    extract_candidate,
    make_example,
)
from medtask.training.search.task_rewriting import rewrite_task
from support.prompt_search import TASK, write_task


def rewrite_and_load(task: Task, candidate: PromptCandidate, *comments: str) -> tuple[str, Task]:
    text = rewrite_task(task, candidate, comments)
    assert task.source is not None
    path = task.source.with_name("new.yaml")
    path.write_text(text, encoding="utf-8")
    return text, load_task(path)


def make_task_example(task: Task, text: str, answer: object) -> object:
    made = make_example(task, Record("1", {"procedure": text, task.gold_column or "": answer}))
    assert made is not None
    return made


def test_what_is_not_changed_stays_as_it_was_typed(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    text, new = rewrite_and_load(
        task,
        replace(extract_candidate(task), instruction="Decide: what is it\nfor? # not a comment"),
        "tuned today",
    )
    assert text.startswith(
        "# tuned today\n# What is the operation for?\nname: planted   # a name\n"
    )
    assert "# how it is answered\nanswer:\n  kind: label\n" in text
    assert new.instruction == "Decide: what is it\nfor? # not a comment"


def test_the_new_file_asks_what_the_search_asked(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    shown = tuple(
        make_task_example(task, text, answer)
        for text, answer in (("yes", "staging"), ("1.50: {a}\n- b", "curative"))
    )
    candidate = PromptCandidate(
        "Decide.", {"curative": "takes it out: all of it", "palliative": "no", "staging": ""}, shown
    )  # type: ignore[arg-type]
    _, new = rewrite_and_load(task, candidate)
    assert new.fingerprint == apply_candidate(task, candidate).fingerprint


def test_examples_take_the_place_of_those_that_the_file_had(tmp_path: Path) -> None:
    rows = (
        "  - {procedure: Old, answer: staging}\n  # the second\n  - {procedure: Other, "
        "answer: staging}\n"
    )
    task = write_task(tmp_path, f"# some rows\nexamples:\n{rows}\n# the end\n")
    text, new = rewrite_and_load(
        task,
        replace(extract_candidate(task), examples=(make_task_example(task, "New", "curative"),)),
    )  # type: ignore[arg-type]
    assert [one.fields["procedure"] for one in new.examples] == ["New"]
    assert "Old" not in text
    assert "# some rows" in text
    assert text.rstrip().endswith("# the end")


@pytest.mark.parametrize(
    "text",
    [
        (
            '{name: planted, instruction: Decide., input: "{{ procedure }}", gold: purpose, '
            "answer: "
            "{kind: label, labels: [a, b]}}\n"
        ),
        TASK.replace(
            "instruction: Decide the main purpose of the operation.",
            "instruction: &words >-\n  Decide the main\n  purpose.",
        ),
    ],
)
def test_files_in_another_style_are_rewritten_whole_where_they_must_be(
    tmp_path: Path, text: str
) -> None:
    task = write_task(tmp_path, text=text)
    own = extract_candidate(task)
    candidate = replace(
        own,
        instruction="Other words.",
        definitions={**(own.definitions or {}), next(iter(own.definitions or {})): "x"},
    )
    _, new = rewrite_and_load(task, candidate)
    assert new.fingerprint == apply_candidate(task, candidate).fingerprint


def test_a_json_file_becomes_yaml(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    content = {
        "instruction": "Decide.",
        "input": "{{ procedure }}",
        "gold": "purpose",
        "answer": {"kind": "label", "labels": ["a", "b"]},
    }
    path.write_text(json.dumps(content))
    task = load_task(path)
    text, new = rewrite_and_load(task, PromptCandidate("Other words.", {"a": "x", "b": ""}), "head")
    assert text.startswith("# head\n")
    assert (new.instruction, new.labels[0].definition) == ("Other words.", "x")


def test_a_task_that_came_from_no_file_cannot_be_rewritten(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        rewrite_task(replace(write_task(tmp_path), source=None), PromptCandidate("x"), ())
