"""Facts about compared systems are read from the manifests of their runs."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.evaluation.comparison.aligned_rows import SystemFacts
from medtask.runs.system_facts import infer_system_family, read_system_facts
from support.comparison_rows import make_manifest

SHOWN: dict[str, Any] = {"task.examples": "6 (sha256 00)"}
POOL: dict[str, Any] = {"task.pool": "3 by bm25 of 40 (sha256 00)"}


@pytest.mark.parametrize(
    ("output", "family"),
    [
        (make_manifest("linear"), "TF-IDF"),
        (make_manifest("encoder"), "encoder"),
        (make_manifest("hf"), "prompted"),
        (make_manifest("llamacpp", **SHOWN), "few-shot"),
        (make_manifest("http", **POOL), "few-shot"),
        (make_manifest("hf", **{"model.adapter": "ab12", **SHOWN}), "fine-tuned"),
        (make_manifest("fake"), "no model"),
        ({}, "another tool"),
        ({"model": "broken", "identity": []}, "another tool"),
    ],
)
def test_a_family_is_found_in_the_manifest(output: dict[str, Any], family: str) -> None:
    assert infer_system_family(output) == family


def test_a_table_of_another_tool_has_no_facts() -> None:
    assert read_system_facts({}) == SystemFacts()


def test_speed_memory_task_and_start_are_read() -> None:
    output = make_manifest(seconds=10.0) | {
        "task": {"name": "purpose"},
        "created": "2026-11-20T14:12:00+00:00",
    }
    output["timing"] |= {"peak_memory_bytes": 7, "peak_accelerator_bytes": 9}
    facts = read_system_facts(output)
    assert (facts.title, facts.family, facts.task) == ("a model of hf", "prompted", "purpose")
    assert (facts.rows_per_s, facts.memory_bytes, facts.accelerator_bytes) == (20.0, 7, 9)
    assert facts.started == "2026-11-20T14:12:00+00:00"


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        ({"rows_per_s": 3.5, "seconds": 1.0}, 3.5),  # without the loading of the model
        ({"rows_per_s": 0, "seconds": 40.0}, 5.0),
        ({"seconds": 0.0}, None),
        ({}, None),
        ({"seconds": "long"}, None),
    ],
)
def test_the_measured_speed_comes_before_rows_by_time(
    timing: dict[str, Any], expected: float | None
) -> None:
    assert read_system_facts({**make_manifest(), "timing": timing}).rows_per_s == expected
