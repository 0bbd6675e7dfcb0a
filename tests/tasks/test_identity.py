"""Fingerprints: what changes an answer changes them, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.tasks.identity import describe, fingerprint_task
from medtask.tasks.task import Example, Label, Review, Task

TASK = Task(
    "surgery",
    "label",
    "Decide.",
    "{{ a }}",
    (Label("curative", "removes", "curative"), Label("palliative", "", "palliative")),
    examples=(Example({"a": "a patient's text"}, "curative"),),
)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"instruction": "Decide well."}, {"instruction"}),
        ({"instruction": "Decide. " * 100}, {"instruction"}),
        ({"input": "{{ a }} {{ b }}"}, {"input"}),
        ({"labels": TASK.labels[::-1]}, {"labels"}),
        ({"labels": (TASK.labels[0], Label("palliative", "relieves", "palliative"))}, {"labels.palliative"}),
        ({"abstain": Label("unsure", "", "unsure")}, {"abstain"}),
        ({"readout": "code"}, {"readout"}),
        ({"examples": (Example({"a": "another text"}, "curative"),)}, {"examples"}),
        ({"review": Review(0.6, 0.9)}, {"review.confidence_below"}),
    ],
)
def test_a_change_shows_in_the_fingerprint_and_under_its_name(change, names):
    changed = replace(TASK, **change)
    assert fingerprint_task(changed) != fingerprint_task(TASK)
    before, after = describe(TASK), describe(changed)
    assert {name for name in before | after if before.get(name) != after.get(name)} == names


def test_name_columns_table_and_model_change_no_answer():
    changed = replace(TASK, name="x", id_column="i", gold_column="g", data=Path("d"), model="m", source=Path("s"), warnings=("w",))
    assert fingerprint_task(changed) == fingerprint_task(TASK)


def test_a_description_holds_no_text_of_examples_and_stays_short():
    described = describe(replace(TASK, instruction="word " * 1000))
    assert "patient" not in str(described)
    assert described["examples"].startswith("1 (sha256 ")
    assert max(map(len, described.values())) < 120


def test_tasks_can_be_kept_in_a_cache():
    assert hash(TASK) == hash(replace(TASK))
