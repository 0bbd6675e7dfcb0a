"""The public API: documented names, and verbs that are functions."""

from __future__ import annotations

import inspect

import pytest

import medtask

VERBS = ("run", "evaluate", "compare", "audit", "judge", "train", "tune", "predict")


@pytest.mark.parametrize("name", [*VERBS, "load_task", "load_model", "read_table"])
def test_verbs_are_functions_with_documented_options(name: str) -> None:
    function = getattr(medtask, name)
    assert inspect.isfunction(function)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("name", [name for name in medtask.__all__ if name != "__version__"])
def test_a_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(medtask, name))


@pytest.mark.parametrize("verb", ["run", "evaluate", "compare", "audit", "judge"])
def test_every_option_of_a_verb_is_documented(verb: str) -> None:
    function = getattr(medtask, verb)
    text = inspect.getdoc(function) or ""
    for name in inspect.signature(function).parameters:
        assert f"    {name}: " in text, name
    assert "Returns:" in text and "Raises:" in text


@pytest.mark.parametrize("name", ["Run", "Evaluation", "Comparison"])
def test_results_have_json_and_a_report(name: str) -> None:
    result = getattr(medtask, name)
    assert callable(result.to_json)
    assert hasattr(result, "report")
