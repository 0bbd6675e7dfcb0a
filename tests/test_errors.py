"""Errors keep their message and remedy on the way between processes."""

from __future__ import annotations

import pickle

import pytest

from medtask.errors import EngineError, MedtaskError, TaskFault, TaskFaults


@pytest.mark.parametrize(
    "error",
    [
        EngineError("the model failed", fix="load it again"),
        TaskFaults("task.yaml", [TaskFault(3, "unknown key"), TaskFault(None, "no labels")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_pickled(error: MedtaskError) -> None:
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert copy.fix == error.fix
