"""Training by several methods: the best on the validation rows is kept, in one folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

import medtask
from medtask.engines.model_metadata import read_model_metadata
from medtask.errors import UsageError
from medtask.hardware import inspect_machine
from medtask.runs.signals import Interrupted, SignalState
from medtask.tasks.row_fingerprints import fingerprint_rows, make_row_key, write_fingerprints
from medtask.training import auto
from medtask.training.attempts import Candidate
from medtask.training.auto import BudgetSignals, fit_auto
from medtask.training.recipe import Recipe, choose_method
from medtask.training.training_context import MethodResult, TrainingContext
from medtask.training.training_data import TrainingData
from medtask.training.training_log import NullTrainingObserver
from support.small_trainings import (
    NEW_TEXTS,
    PARTS,
    make_rows,
    make_task,
    make_training_context,
    make_training_data,
)


def fit_within(budget: float, folder: Path, kind: str = "label") -> MethodResult:
    data = make_training_data(make_task(folder / "task", kind))
    context = make_training_context(folder)
    return fit_auto([data], Recipe("auto", budget=budget), context)


def test_it_is_the_default_without_a_base_for_a_fixed_set_of_labels(tmp_path: Path) -> None:
    assert choose_method(make_task(tmp_path / "label"), None) == "auto"
    assert choose_method(make_task(tmp_path / "other"), "minilm") == "rslora"
    choice = make_task(tmp_path / "choice", "choice", options="options")
    assert choose_method(choice, None) == "rslora"


def test_without_time_the_linear_model_is_kept(tmp_path: Path) -> None:
    result = fit_within(1e-6, tmp_path)
    assert result.trained_model.engine == "linear"
    assert result.facts["chosen"] == "linear"
    notes = " ".join(result.notes)
    assert "linear (TF-IDF and logistic regression): accuracy" in notes
    assert "vectors was not tried: the time budget is used up (--budget)" in notes
    assert "encoder was not tried: the time budget is used up (--budget)" in notes


def test_a_blend_is_tried_when_the_time_of_the_other_candidates_is_over(tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    context = make_training_context(tmp_path)
    search = auto._Search(data, Recipe("auto"), context, float("inf"))
    linear = auto._list_candidates(Recipe("auto"), 1.0)[0]
    search.try_candidate(linear)
    search.try_candidate(replace(linear, name="second"))
    search.deadline = 0.0
    search.try_candidate(replace(linear, name="third"))
    search.try_candidate(auto._make_blend(Recipe("auto"), search.attempts))
    assert [one.candidate.name for one in search.attempts] == ["linear", "second", "blend"]
    assert search.notes == ["third was not tried: the time budget is used up (--budget)"]
    shutil.rmtree(context.draft_folder)
    context.draft_folder.mkdir()
    auto._copy_model(search.attempts[-1], context.draft_folder)
    engine = medtask.load_model(str(context.draft_folder))
    assert {one["reference"] for one in engine.info.details["members"]} <= {
        str(context.draft_folder / "members" / name) for name in ("linear", "second")
    }


def test_a_candidate_that_the_budget_stops_is_noted_and_is_no_signal(tmp_path: Path) -> None:
    def fit(*_: object) -> MethodResult:
        raise Interrupted(0)

    data = make_training_data(make_task(tmp_path / "task"))
    search = auto._Search(data, Recipe("auto"), make_training_context(tmp_path), float("inf"))
    search.try_candidate(Candidate("slow", "a slow method", Recipe("linear"), fit))
    assert search.attempts == []
    assert search.notes == ["slow was not tried: the time budget is used up"]


@pytest.mark.parametrize(
    ("accelerator", "base", "tried"),
    [("cuda", "smollm2-135m", True), (None, "smollm2-135m", False), ("cuda", "ollama:x", False)],
)
def test_a_language_model_is_tried_with_a_gpu(
    accelerator: Literal["cuda"] | None, base: str, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(inspect_machine(accelerator=False), accelerator=accelerator)
    monkeypatch.setattr(auto, "inspect_machine", lambda: machine)
    candidates = auto._list_candidates(Recipe("auto", bases=(base,)), 600)
    names = [one.name for one in candidates]
    assert names == ["linear", "vectors", "encoder", *["language"] * tried]
    if tried:
        assert (candidates[-1].recipe.method, candidates[-1].recipe.bases) == ("rslora", (base,))


def test_a_base_that_is_not_tried_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(inspect_machine(accelerator=False), accelerator=None)
    monkeypatch.setattr(auto, "inspect_machine", lambda: machine)
    data = make_training_data(make_task(tmp_path / "task"))
    recipe = Recipe("auto", bases=("smollm2-135m",), budget=1e-6)
    result = fit_auto([data], recipe, make_training_context(tmp_path))
    assert any(note.startswith("smollm2-135m was not tried") for note in result.notes)


def test_validation_rows_that_chose_the_words_of_the_task_can_choose_the_method(
    tmp_path: Path,
) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    keys = [make_row_key(data.task, one.record, one.prompt) for one in data.validation]
    write_fingerprints(tmp_path / "rows.json", [fingerprint_rows(keys, "tuning", "salt")])
    tuned = replace(data, task=replace(data.task, tuning_rows=tmp_path / "rows.json"))
    context = make_training_context(tmp_path)
    result = fit_auto([tuned], Recipe("auto", budget=1e-6), context)
    assert "accuracy" in result.notes[0]


def test_kinds_without_labels_are_refused(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "choice", options="options")
    with pytest.raises(UsageError, match="--method auto learns a fixed set of labels"):
        fit_auto([TrainingData(task, (), ())], Recipe("auto"), make_training_context(tmp_path))


def test_a_signal_keeps_the_best_so_far_and_a_later_session_trains_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = SignalState()
    data = make_training_data(make_task(tmp_path / "task"))
    try_candidate = auto._Search.try_candidate

    def stop_after_the_first(self: auto._Search, candidate: Candidate) -> None:
        try_candidate(self, candidate)
        signals.number = 2

    monkeypatch.setattr(auto._Search, "try_candidate", stop_after_the_first)
    context = make_training_context(tmp_path, NullTrainingObserver(), signals)
    result = fit_auto([data], Recipe("auto", budget=1e-6), context)
    assert result.interrupted
    assert result.trained_model.engine == "linear"

    monkeypatch.setattr(auto._Search, "try_candidate", try_candidate)
    monkeypatch.setattr(
        "medtask.training.linear.train_linear", lambda *_: pytest.fail("trained again")
    )
    shutil.rmtree(context.draft_folder)
    context.draft_folder.mkdir()
    unsignalled = TrainingContext(
        context.draft_folder, context.work_folder, context.log, context.observer, SignalState()
    )
    again = fit_auto([data], Recipe("auto", budget=1e-6), unsignalled)
    assert not again.interrupted
    assert again.facts["chosen"] == "linear"


def test_a_signal_before_the_first_result_ends_the_training(tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    context = make_training_context(tmp_path, NullTrainingObserver(), SignalState(2))
    with pytest.raises(Interrupted):
        fit_auto([data], Recipe("auto"), context)


def test_a_method_is_stopped_by_a_signal_and_by_the_end_of_the_budget() -> None:
    outer = SignalState()
    assert BudgetSignals(outer, float("inf")).number is None
    assert BudgetSignals(outer, 0.0).number == 0
    with pytest.raises(Interrupted):
        BudgetSignals(outer, 0.0).raise_if_caught()
    outer.number = 15
    assert BudgetSignals(outer, float("inf")).exit_code == 143


@pytest.mark.scale
def test_all_methods_are_compared_and_a_blend_is_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_blend = lambda attempts: next(  # noqa: E731
        one for one in attempts if one.candidate.name == "blend"
    )
    monkeypatch.setattr(auto, "_choose", choose_blend)
    task = make_task(tmp_path / "task")
    model = medtask.train(
        task, make_rows(), out=tmp_path / "model", method="auto", gold="gold", budget=500
    )
    facts = json.loads((model.path / "training.json").read_text())["facts"]
    assert [one["name"] for one in facts["candidates"]] == ["linear", "vectors", "encoder", "blend"]
    assert any("against blend" in note for note in model.notes)
    assert read_model_metadata(model.path).engine == "hybrid"
    assert not (model.path / ".training").exists()
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(model.path, moved)
    engine = medtask.load_model(str(moved))
    answers = list(medtask.predict(task, engine, [{"text": text} for text in NEW_TEXTS]))
    assert {answer.value for answer in answers} <= set(PARTS)
    weights = [member["weight"] for member in engine.info.details["members"]]
    assert sum(weights) == pytest.approx(1)
