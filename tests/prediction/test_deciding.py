from __future__ import annotations

from dataclasses import replace

import pytest

from medtask.prediction.deciding import apply_thresholds, decide_answer
from medtask.records import (
    Answer,
    Fault,
    Status,
)
from medtask.tasks.task import (
    MultiLabel,
    Task,
)
from support.scored_answers import (
    LABELS,
    TASK,
    decide_labels,
)


def test_a_fault_becomes_an_answer_with_its_status_and_reason() -> None:
    assert decide_answer(TASK, "r", Fault("r", Status.TOO_LONG, "9,000 tokens")) == Answer(
        "r", Status.TOO_LONG, reason="9,000 tokens"
    )


def test_fitted_thresholds_change_the_decision() -> None:
    task = Task("domains", "Which?", "{{ text }}", MultiLabel(fit="f1"), LABELS)
    answer = decide_labels(MultiLabel(), 0.6, 0.4, 0.9)
    adjusted = apply_thresholds(task, answer, {"curative": 0.7, "palliative": 0.3, "staging": 0.5})
    assert adjusted.value == ("palliative", "staging")
    assert adjusted.confidence == pytest.approx(0.4 * 0.4 * 0.9)
    noted = replace(
        answer,
        status=Status.REVIEW,
        confidence=0.3,
        reason="confidence 0.30 is below 0.5; read in 5 parts",
    )
    adjusted = apply_thresholds(task, noted, {"curative": 0.7, "palliative": 0.3, "staging": 0.5})
    assert adjusted.reason == "confidence 0.14 is below 0.5; read in 5 parts"
    failed = Answer("r", Status.FAILED)
    assert apply_thresholds(task, failed, {}) is failed
