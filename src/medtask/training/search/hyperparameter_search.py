"""Search for training settings by Optuna, minimising the validation loss.

Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework". Trials are
stored in a SQLite file in the folder of the search, so that a killed search can be resumed; it
contains no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medtask.engines.registry import load_model
from medtask.errors import MissingExtra, UsageError
from medtask.runs.lock import lock_run
from medtask.runs.signals import Interrupted, catch_signals
from medtask.training.recipe import DEFAULT_EPOCHS, Recipe
from medtask.training.search.candidate_evaluator import SearchObserver, answer_rows
from medtask.training.search.gain import STOPPED_TEXT, Gain, measure_gain
from medtask.training.search.hyperparameter_study import (
    MAX_TRIALS,
    HyperparameterStudy,
    StudySettings,
)
from medtask.training.search.prompt_candidate import narrow_task
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData

_NO_GAIN_TEXT = (
    "No recipe had a lower validation loss than the default one; the test rows were not used."
)


@dataclass(frozen=True, slots=True)
class HyperparameterSearchResult:
    """The result of a search for the settings of a training.

    Attributes:
        recipe: The best recipe.
        changed: Its settings that differ from the default recipe.
        path: The folder of the best trial's model.
        best_loss: The validation loss of the best trial.
        default_loss: The validation loss of the default recipe.
        trials: Number of recipes that were tried.
        stop_reason: Why the search ended.
        gain: The gain on the test rows; None if the default recipe was the best, or if a signal
            ended the search.
        rows: The numbers of training, validation and test rows.
        interrupted: Whether a signal ended the search.
        exit_code: 0, or 130 or 143 after a signal.
    """

    recipe: Recipe
    changed: Mapping[str, object]
    path: Path
    best_loss: float
    default_loss: float
    trials: int
    stop_reason: str
    gain: Gain | None
    rows: dict[str, int]
    interrupted: bool = False
    exit_code: int = 0

    def summarize(self) -> str:
        """The result in one or two sentences."""
        if self.gain is None and self.interrupted and self.changed:
            return STOPPED_TEXT
        return self.gain.summarize() if self.gain else _NO_GAIN_TEXT

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without texts of rows."""
        return {
            "what": "training",
            "verdict": self.summarize(),
            "gain": self.gain.to_json() if self.gain else None,
            "recipe": self.recipe.to_json(),
            "changed": dict(self.changed),
            "written": str(self.path),
            "validation_loss": {"before": self.default_loss, "after": self.best_loss},
            "trials": self.trials,
            "rows": self.rows,
            "ended": self.stop_reason,
            "notes": [],
            "interrupted": self.interrupted,
        }


def search_hyperparameters(
    search_data: SearchData,
    recipe: Recipe,
    budget: SearchBudget,
    observer: SearchObserver,
    *,
    out: Path,
) -> HyperparameterSearchResult:
    """Search for a better recipe, and compare the best model with the default one on test rows.

    Ctrl-C ends the search; the best recipe so far is returned, without a gain.

    Args:
        search_data: The rows.
        recipe: The default recipe, which is tried first.
        budget: How long to search.
        observer: Receives events.
        out: The folder of the search. The same call resumes there.

    Raises:
        MissingExtra: optuna is not installed.
        UsageError: The method has no settings to search.
        InputError: The first training fails.
    """
    _check(recipe)
    recipe = replace(recipe, epochs=recipe.epochs or DEFAULT_EPOCHS)  # a setting to search
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_run(out), catch_signals() as signals:
        table = search_data.to_training_table()
        study = HyperparameterStudy(
            StudySettings(search_data.task, table, recipe, budget, observer, out)
        )
        stop_reason, exit_code = "the budget is used up", 0
        try:
            while study.has_time():
                signals.raise_if_caught()
                if code := study.run_next():
                    raise Interrupted(code - 128)
            if study.finished_count >= MAX_TRIALS:
                stop_reason = f"{MAX_TRIALS} recipes were tried"
        except Interrupted as stop:
            stop_reason, exit_code = "it was stopped", stop.exit_code
            if study.best is None:
                raise
    return _build_result(search_data, study, stop_reason, exit_code)


def _build_result(
    search_data: SearchData, study: HyperparameterStudy, stop_reason: str, exit_code: int
) -> HyperparameterSearchResult:
    best, default, recipe = study.best, study.default, study.settings.recipe
    assert best is not None and default is not None
    gain = None
    if best.number != default.number and not exit_code:
        study.settings.observer.on_stage(
            f"Answering {len(search_data.test):,} test rows twice, with the default recipe's model "
            "and with the best one's"
        )
        task, answers = narrow_task(search_data.task), []
        for trial in (default, best):
            with closing(load_model(str(trial.folder), recipe.load_options)) as engine:
                answers.append(answer_rows(task, engine, search_data.test))
        gain = measure_gain(task, search_data.test, *answers, seed=recipe.seed)
    return HyperparameterSearchResult(
        recipe=replace(recipe, **best.values),
        changed={
            name: value for name, value in best.values.items() if value != default.values.get(name)
        },
        path=study.copy_best_model(best),
        best_loss=best.loss,
        default_loss=default.loss,
        trials=study.finished_count,
        stop_reason=stop_reason,
        gain=gain,
        rows=search_data.count_rows(),
        interrupted=exit_code != 0,
        exit_code=exit_code,
    )


def _check(recipe: Recipe) -> None:
    method = recipe.method
    if recipe.spec.untunable:
        raise UsageError(
            f"a {method} model has no settings to search: training fits "
            f"{recipe.spec.untunable} itself",
            fix=f"use `medtask train --method {method}`, or tune lora, full or encoder",
        )
    if not find_spec("optuna"):
        raise MissingExtra("Optuna is not installed", fix="pip install 'medtask[tune]'")
    recipe.check()
