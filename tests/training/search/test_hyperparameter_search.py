from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from medtask.engines.base import Engine
from medtask.engines.load_options import LoadOptions
from medtask.errors import InputError, MissingExtra, UsageError
from medtask.tables.read import read_table
from medtask.training.recipe import Recipe
from medtask.training.search import hyperparameter_search as hyper
from medtask.training.search import hyperparameter_study as study
from medtask.training.search.hyperparameter_search import (
    HyperparameterSearchResult,
    search_hyperparameters,
)
from medtask.training.search.hyperparameter_study import DATABASE
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData, build_search_data
from medtask.training.train import TaskData
from medtask.training.trained_model import TrainedModel
from medtask.training.training_data import RowSelection
from medtask.training.training_log import TrainingObserver, TrainingPoint
from support.prompt_search import (
    ManualClock,
    PromptSensitiveEngine,
    RecordingSearchObserver,
    make_table,
    write_task,
)

pytest.importorskip("optuna", reason="Optuna is not installed")

RECIPE = Recipe(method="lora", bases=("tiny",), rate=1e-3, epochs=3.0)
TRIALS = 8


class FakeTrainings:
    """Trainings without a model: their loss is lowest at a rate of 3e-3, and the model is as good
    as its loss is low.
    """

    def __init__(self) -> None:
        self.recipes: list[Recipe] = []
        self.ids: set[str] = set()
        self.load_options: list[LoadOptions] = []
        self.seconds = 0.0
        self.clock = ManualClock()
        self.on_train: Callable[[Recipe], None] = lambda recipe: None

    def train(
        self,
        task_data: Sequence[TaskData],
        recipe: Recipe,
        *,
        out: Path,
        selection: RowSelection,
        observer: TrainingObserver,
    ) -> TrainedModel:
        self.ids |= {
            str(row["case_id"]) for one in task_data for row in read_table(one.table).rows()
        }
        self.on_train(recipe)
        self.recipes.append(recipe)
        loss = 0.5 + abs(math.log10(recipe.learning_rate / 3e-3))
        for step in (1, 2):
            observer.on_point(TrainingPoint(step, 2, step / 2, validation_loss=loss + 0.1 / step))
        self.clock.seconds += self.seconds
        out.mkdir(exist_ok=True)
        (out / "model").write_text(str(loss))
        return make_result(out, loss)

    def load(self, reference: str, options: LoadOptions) -> Engine:
        self.load_options.append(options)
        loss = float((Path(reference) / "model").read_text())
        return PromptSensitiveEngine(lambda prompt: True, accuracy=1.7 - 1.5 * loss)


def make_result(out: Path, loss: float | None, exit_code: int = 0) -> TrainedModel:
    state: Literal["finished", "interrupted"] = "interrupted" if exit_code else "finished"
    return TrainedModel(
        out,
        state,
        task_results=(),
        validation_loss=loss,
        base_score=None,
        seconds=0.0,
        exit_code=exit_code,
    )


@pytest.fixture
def fake_trainings(monkeypatch: pytest.MonkeyPatch) -> FakeTrainings:
    made = FakeTrainings()
    monkeypatch.setattr(study, "train_tasks", made.train)
    monkeypatch.setattr(hyper, "load_model", made.load)
    monkeypatch.setattr(study, "MAX_TRIALS", TRIALS)
    monkeypatch.setattr(hyper, "MAX_TRIALS", TRIALS)
    return made


@pytest.fixture
def parts(tmp_path: Path) -> SearchData:
    return build_search_data(write_task(tmp_path), make_table(160), validation_share=0.2)


def tune_planted_training(
    parts: SearchData,
    folder: Path,
    *,
    budget_s: float = 3600.0,
    log: RecordingSearchObserver | None = None,
    recipe: Recipe = RECIPE,
) -> HyperparameterSearchResult:
    return search_hyperparameters(
        parts, recipe, SearchBudget(budget_s), log or RecordingSearchObserver(), out=folder
    )


@pytest.mark.slow
def test_a_better_recipe_is_found_measured_and_kept(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    found = tune_planted_training(parts, tmp_path / "search")
    assert fake_trainings.recipes[0] == RECIPE
    assert found.best_loss < found.default_loss
    assert found.gain is not None
    assert found.gain.is_significant
    assert "rate" in found.changed
    assert found.recipe.learning_rate == pytest.approx(found.changed["rate"])
    assert float((found.path / "model").read_text()) == found.best_loss
    assert len(list((tmp_path / "search").glob("trial-*"))) == 2


def test_trainings_never_see_a_row_of_the_test(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    tune_planted_training(parts, tmp_path / "search")
    assert len(fake_trainings.ids) == len(parts.train) + len(parts.validation)
    assert not fake_trainings.ids & {example.record.id for example in parts.test}


def test_both_models_are_loaded_as_the_recipe_says(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, device="cpu", memory=2**30)
    tune_planted_training(parts, tmp_path / "search", recipe=recipe)
    assert fake_trainings.load_options == [LoadOptions(device="cpu", memory=2**30)] * 2


def test_where_the_default_recipe_is_the_best_the_test_stays_unused(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    found = tune_planted_training(parts, tmp_path / "search", recipe=replace(RECIPE, rate=3e-3))
    assert found.gain is None
    assert not found.changed
    assert "No recipe" in found.summarize()


def test_a_trial_that_would_not_fit_is_not_begun(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    fake_trainings.seconds = 300
    found = search_hyperparameters(
        parts,
        RECIPE,
        SearchBudget(1400, now=fake_trainings.clock),
        RecordingSearchObserver(),
        out=tmp_path / "search",
    )
    # Trials that are pruned end before they take time here.
    assert fake_trainings.clock.seconds == 1200
    assert len(fake_trainings.recipes) == found.trials >= 4


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    """A child is killed in the middle of a trial; that trial is trained again, those that were done
    are not.
    """
    folder, mark = tmp_path / "search", tmp_path / "killed"
    child = os.fork()
    if child == 0:

        def raise_killed(recipe: Recipe) -> None:
            if len(fake_trainings.recipes) == 3:
                mark.write_text(repr(recipe))
                os._exit(9)

        fake_trainings.on_train = raise_killed
        try:
            tune_planted_training(parts, folder)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    log = RecordingSearchObserver()
    found = tune_planted_training(parts, folder, log=log)
    assert repr(fake_trainings.recipes[0]) == mark.read_text()
    assert RECIPE not in fake_trainings.recipes
    # Three were done before, and the killed one counts as begun.
    assert len(fake_trainings.recipes) == TRIALS - 4
    assert found.trials == TRIALS
    assert any("continues there" in note for note in log.notes)


@pytest.mark.slow
def test_another_table_begins_a_search_of_its_own(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    tune_planted_training(parts, tmp_path / "search")
    known = len(fake_trainings.recipes)
    tune_planted_training(
        build_search_data(parts.task, make_table(160, seed=9), validation_share=0.2),
        tmp_path / "search",
    )
    assert fake_trainings.recipes[known] == RECIPE


def test_the_database_holds_no_text_of_a_row(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    tune_planted_training(parts, tmp_path / "search")
    content = (tmp_path / "search" / DATABASE).read_bytes()
    assert not any(
        example.prompt.text.encode() in content for example in (*parts.train, *parts.test)
    )


def test_a_recipe_that_cannot_be_trained_is_passed_over_but_the_default_one_is_not(
    fake_trainings: FakeTrainings, parts: SearchData, tmp_path: Path
) -> None:
    def fail(recipe: Recipe) -> None:
        if recipe.batch == 8:
            raise InputError("no", fix="no")

    fake_trainings.on_train = fail
    assert tune_planted_training(parts, tmp_path / "search").best_loss < 1.0
    with pytest.raises(InputError):
        tune_planted_training(parts, tmp_path / "other", recipe=replace(RECIPE, batch=8))


def test_a_stopped_training_ends_the_search_with_the_best_so_far(
    fake_trainings: FakeTrainings,
    parts: SearchData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(
        task_data: Sequence[TaskData],
        recipe: Recipe,
        *,
        out: Path,
        selection: RowSelection,
        observer: TrainingObserver,
    ) -> TrainedModel:
        if len(fake_trainings.recipes) == 3:
            return make_result(out, None, exit_code=130)
        return fake_trainings.train(
            task_data, recipe, out=out, selection=selection, observer=observer
        )

    monkeypatch.setattr(study, "train_tasks", stop)
    found = tune_planted_training(parts, tmp_path / "search")
    assert found.interrupted
    assert found.trials <= 3


def test_methods_without_settings_are_refused(
    parts: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("linear", "hybrid"):
        with pytest.raises(UsageError, match="no settings to search"):
            tune_planted_training(parts, tmp_path / "search", recipe=Recipe(method=method))  # type: ignore[arg-type]
    monkeypatch.setattr(hyper, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra):
        tune_planted_training(parts, tmp_path / "search")
