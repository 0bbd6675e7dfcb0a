"""The JSON Schema accepts the task files that ship, and refuses their misspellings."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from medtask.kinds import KINDS
from medtask.tasks.json_schema import SECTIONS, build_task_schema, list_section_keys

ROOT = Path(__file__).parents[2]
TASK_FILES = [
    *sorted((ROOT / "examples").glob("*/task.yaml")),
    *sorted((ROOT / "src/medtask/server/pages/starters").glob("*.yaml")),
]
TASK = """\
instruction: Choose.
input: "{{ text }}"
answer: {kind: label, labels: [a, b]}
"""


def find_faults(text: str) -> list[str]:
    validator = jsonschema_rs.validator_for(json.loads(json.dumps(build_task_schema())))
    return [fault.message for fault in validator.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: file.parent.name + "-" + file.stem)
def test_task_files_that_ship_are_valid(file: Path) -> None:
    assert find_faults(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "change",
    [
        "gate: {min_words: 3, too_long: chunk}",
        "examples: {file: gold.csv, select: nearest}",
        "examples: gold.csv",
        "reasoning: {budget: 100}",
        "passes: [{name: again, when: {status: abstained}, labels: [a]}]",
        "baselines: {keywords: {a: [x, 1]}}",
    ],
)
def test_sections_are_valid(change: str) -> None:
    assert find_faults(TASK + change) == []


@pytest.mark.parametrize(
    "text",
    [
        TASK.replace("labels:", "lables:"),
        TASK.replace("instruction", "instructions"),
        TASK.replace("kind: label", "kind: lable"),
        TASK + "review: {confidence_below: 2}",
        TASK + "gate: {too_long: cut}",
        TASK + "passes: [{name: again}]",
        TASK.replace("kind: label,", "kind: choice, options: o,"),
    ],
)
def test_misspelled_keys_and_values_are_faults(text: str) -> None:
    assert find_faults(text)


@pytest.mark.parametrize("section", ["", *KINDS, *SECTIONS])
def test_the_example_of_a_key_is_valid(section: str) -> None:
    definitions = json.loads(json.dumps(build_task_schema()))
    for key in list_section_keys(section):
        if "{...}" not in key.description.example:
            value = yaml.safe_load(key.description.example)[key.name]
            schema = {**definitions, "type": "object", "required": [], "allOf": [], "x": key.schema}
            validator = jsonschema_rs.validator_for(
                {
                    "$defs": schema["$defs"],
                    "properties": {**schema["properties"], "checked": key.schema},
                }
            )
            assert not list(validator.iter_errors({"checked": value})), key.name
