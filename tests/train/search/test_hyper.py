from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from medtask.data.read import read_table
from medtask.engines.base import Engine
from medtask.errors import InputError, MissingExtra, UsageError
from medtask.train.journal import Point, Watch
from medtask.train.local import Lecture, TrainResult
from medtask.train.material import Selection
from medtask.train.recipe import Recipe
from medtask.train.search import hyper
from medtask.train.search.clock import Clock
from medtask.train.search.hyper import DATABASE, TunedTraining, tune_training
from medtask.train.search.parts import Parts, divide_rows
from train.search.planted import Hands, Log, PlantedEngine, make_table, write_task

pytest.importorskip("optuna", reason="Optuna is not installed")

RECIPE = Recipe(method="lora", bases=("tiny",), rate=1e-3)
TRIALS = 8


class Trainings:
    """Trainings without a model: their loss is lowest at a rate of 3e-3, and the model is as good
    as its loss is low.
    """

    def __init__(self) -> None:
        self.recipes: list[Recipe] = []
        self.ids: set[str] = set()
        self.seconds = 0.0
        self.hands = Hands()
        self.before: Callable[[Recipe], None] = lambda recipe: None

    def train(
        self,
        lectures: Sequence[Lecture],
        recipe: Recipe,
        *,
        out: Path,
        selection: Selection,
        watch: Watch,
    ) -> TrainResult:
        self.ids |= {
            str(row["case_id"]) for one in lectures for row in read_table(one.table).rows()
        }
        self.before(recipe)
        self.recipes.append(recipe)
        loss = 0.5 + abs(math.log10(recipe.learning_rate / 3e-3))
        for step in (1, 2):
            watch.on_point(Point(step, 2, step / 2, validation_loss=loss + 0.1 / step))
        self.hands.seconds += self.seconds
        out.mkdir(exist_ok=True)
        (out / "model").write_text(str(loss))
        return result(out, loss)

    def load(self, reference: str) -> Engine:
        loss = float((Path(reference) / "model").read_text())
        return PlantedEngine(lambda prompt: True, good=1.7 - 1.5 * loss)


def result(out: Path, loss: float | None, exit_code: int = 0) -> TrainResult:
    state: Literal["finished", "interrupted"] = "interrupted" if exit_code else "finished"
    return TrainResult(
        out,
        state,
        learnt=(),
        validation_loss=loss,
        untrained=None,
        seconds=0.0,
        exit_code=exit_code,
    )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(hyper, "train", made.train)
    monkeypatch.setattr(hyper, "load_model", made.load)
    monkeypatch.setattr(hyper, "MOST_TRIALS", TRIALS)
    return made


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return divide_rows(write_task(tmp_path), make_table(160), validation_share=0.2)


def tune(
    parts: Parts,
    folder: Path,
    *,
    budget_s: float = 3600.0,
    log: Log | None = None,
    recipe: Recipe = RECIPE,
) -> TunedTraining:
    return tune_training(parts, recipe, Clock(budget_s), log or Log(), out=folder)


@pytest.mark.slow
def test_a_better_recipe_is_found_measured_and_kept(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    found = tune(parts, tmp_path / "search")
    assert trainings.recipes[0] == RECIPE
    assert found.loss < found.default_loss
    assert found.gain is not None
    assert found.gain.shown
    assert "rate" in found.changed
    assert found.recipe.learning_rate == pytest.approx(found.changed["rate"])
    assert float((found.folder / "model").read_text()) == found.loss
    assert len(list((tmp_path / "search").glob("trial-*"))) == 2


def test_trainings_never_see_a_row_of_the_test(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    tune(parts, tmp_path / "search")
    assert len(trainings.ids) == len(parts.train) + len(parts.validation)
    assert not trainings.ids & {lesson.record.id for lesson in parts.test}


def test_where_the_default_recipe_is_the_best_the_test_stays_unused(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    found = tune(parts, tmp_path / "search", recipe=replace(RECIPE, rate=3e-3))
    assert found.gain is None
    assert not found.changed
    assert "No recipe" in found.verdict()


def test_a_trial_that_would_not_fit_is_not_begun(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    trainings.seconds = 300
    found = tune_training(
        parts, RECIPE, Clock(1400, now=trainings.hands), Log(), out=tmp_path / "search"
    )
    assert trainings.hands.seconds == 1200  # trials that are pruned end before they take time here
    assert len(trainings.recipes) == found.trials >= 4


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    """A child is killed in the middle of a trial; that trial is trained again, those that were done
    are not.
    """
    folder, mark = tmp_path / "search", tmp_path / "killed"
    child = os.fork()
    if child == 0:

        def die(recipe: Recipe) -> None:
            if len(trainings.recipes) == 3:
                mark.write_text(repr(recipe))
                os._exit(9)

        trainings.before = die
        try:
            tune(parts, folder)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    log = Log()
    found = tune(parts, folder, log=log)
    assert repr(trainings.recipes[0]) == mark.read_text()
    assert RECIPE not in trainings.recipes
    assert (
        len(trainings.recipes) == TRIALS - 4
    )  # three were done before, and the killed one counts as begun
    assert found.trials == TRIALS
    assert any("goes on from there" in note for note in log.notes)


@pytest.mark.slow
def test_another_table_begins_a_search_of_its_own(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    tune(parts, tmp_path / "search")
    known = len(trainings.recipes)
    tune(
        divide_rows(parts.task, make_table(160, seed=9), validation_share=0.2), tmp_path / "search"
    )
    assert trainings.recipes[known] == RECIPE


def test_the_database_holds_no_text_of_a_row(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    tune(parts, tmp_path / "search")
    content = (tmp_path / "search" / DATABASE).read_bytes()
    assert not any(lesson.prompt.text.encode() in content for lesson in (*parts.train, *parts.test))


def test_a_recipe_that_cannot_be_trained_is_passed_over_but_the_default_one_is_not(
    trainings: Trainings, parts: Parts, tmp_path: Path
) -> None:
    def fail(recipe: Recipe) -> None:
        if recipe.batch == 8:
            raise InputError("no", fix="no")

    trainings.before = fail
    assert tune(parts, tmp_path / "search").loss < 1.0
    with pytest.raises(InputError):
        tune(parts, tmp_path / "other", recipe=replace(RECIPE, batch=8))


def test_a_stopped_training_ends_the_search_with_the_best_so_far(
    trainings: Trainings, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(
        lectures: Sequence[Lecture],
        recipe: Recipe,
        *,
        out: Path,
        selection: Selection,
        watch: Watch,
    ) -> TrainResult:
        if len(trainings.recipes) == 3:
            return result(out, None, exit_code=130)
        return trainings.train(lectures, recipe, out=out, selection=selection, watch=watch)

    monkeypatch.setattr(hyper, "train", stop)
    found = tune(parts, tmp_path / "search")
    assert found.interrupted
    assert found.trials <= 3


def test_methods_without_settings_are_refused(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("linear", "hybrid"):
        with pytest.raises(UsageError, match="nothing to search"):
            tune(parts, tmp_path / "search", recipe=Recipe(method=method))  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra):
        tune(parts, tmp_path / "search")
