"""The Optuna study of a hyperparameter search: its search space, and its trials."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.atomic_files import open_private, raise_storage_errors
from medtask.errors import EngineError, InputError
from medtask.tables.table import Table
from medtask.tasks.task import Task
from medtask.training.recipe import DEFAULT_EPOCHS, Recipe
from medtask.training.search.candidate_evaluator import SearchObserver, SearchTrial
from medtask.training.search.search_budget import SearchBudget
from medtask.training.train import TaskData, train_tasks
from medtask.training.trained_model import TrainedModel
from medtask.training.training_data import RowSelection
from medtask.training.training_log import NullTrainingObserver, TrainingPoint

if TYPE_CHECKING:
    import optuna

DATABASE = "trials.db"
MAX_TRIALS = 200
_VALIDATION_SHARE = 0.2  # of the table's rows
_STARTUP_TRIALS = 3  # trials before pruning by the median starts
# Increased with every change of the search space, so that studies of another space are not resumed.
_SPACE_VERSION = 1


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What is searched, and in which folder."""

    task: Task
    table: Table
    recipe: Recipe
    budget: SearchBudget
    observer: SearchObserver
    folder: Path


@dataclass(frozen=True, slots=True)
class CompletedTrial:
    """A trial that was trained to the end."""

    number: int
    values: Mapping[str, Any]
    loss: float
    folder: Path


def build_search_space(
    recipe: Recipe, rows: int
) -> dict[str, optuna.distributions.BaseDistribution]:
    """The distributions of the searched settings; they include the recipe's values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    rate, epochs = recipe.learning_rate, recipe.epochs or DEFAULT_EPOCHS
    batches = {size for size in (8, 16, 32, 64) if size <= max(8, rows // 4)} | {recipe.batch}
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "rate": FloatDistribution(rate / 8, rate * 8, log=True),
        "epochs": FloatDistribution(min(1.0, epochs), max(6.0, 2 * epochs)),
        "batch": CategoricalDistribution(sorted(batches)),
    }
    if recipe.spec.language:
        space["warmup"] = FloatDistribution(0.0, max(0.2, recipe.warmup))
        space["decay"] = FloatDistribution(0.0, max(0.1, recipe.decay))
    if recipe.spec.adapter:
        space["rank"] = CategoricalDistribution(sorted({4, 8, 16, 32, recipe.rank}))
        space["dropout"] = FloatDistribution(0.0, max(0.2, recipe.dropout))
    return space


class HyperparameterStudy:
    """A study in which each trial is a training; trial 0 is the default recipe."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        rows = sum(1 for _ in settings.table.rows())
        self.space = build_search_space(settings.recipe, rows)
        self.study = self._open_study()
        self.trial_seconds = [
            float(trial.user_attrs["seconds"])
            for trial in self.study.trials
            if "seconds" in trial.user_attrs
        ]

    @property
    def finished_count(self) -> int:
        """The number of trials that have ended, in any state."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    @property
    def best(self) -> CompletedTrial | None:
        """The trial with the lowest loss; the first one of ties."""
        trials = self._list_completed_trials()
        return min(trials, key=lambda trial: (trial.loss, trial.number), default=None)

    @property
    def default(self) -> CompletedTrial | None:
        """The trial of the default recipe."""
        return next(iter(self._list_completed_trials()), None)

    def has_time(self) -> bool:
        """Whether another trial may start: always for the default recipe, else if the median
        duration fits.
        """
        if self.default is None:
            return True
        needed = statistics.median(self.trial_seconds)
        # Answering the test rows at the end takes less time than one training.
        return self.finished_count < MAX_TRIALS and self.settings.budget.remaining_s() >= needed

    def run_next(self) -> int:
        """Train one more recipe; returns the exit code of a signal, or 0."""
        import optuna

        settings = self.settings
        trial = self.study.ask(self.space)
        folder = self._find_folder(trial.params)
        observer = NullTrainingObserver() if self.default is None else _PruningObserver(trial)
        began = settings.budget.now()
        try:
            result = train_tasks(
                (TaskData(settings.task, settings.table),),
                replace(settings.recipe, **trial.params),
                out=folder,
                selection=RowSelection(_VALIDATION_SHARE),
                observer=observer,
            )
        except optuna.TrialPruned:
            self._discard_trial(trial, folder, optuna.trial.TrialState.PRUNED)
        except (InputError, EngineError):
            if self.default is None:
                raise
            self._discard_trial(trial, folder, optuna.trial.TrialState.FAIL)
        else:
            if result.exit_code:
                # running the command again resumes the trial, which stays open
                return result.exit_code
            self._record_trial(trial, result, settings.budget.now() - began)
        return 0

    def copy_best_model(self, best: CompletedTrial) -> Path:
        """Copy the best model to "best"; a resumed search needs the trials' folders."""
        folder = self.settings.folder / "best"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            best.folder, folder, ignore=shutil.ignore_patterns(".*"), copy_function=_link
        )
        return folder

    def _find_folder(self, values: Mapping[str, Any]) -> Path:
        """The folder of a recipe, independent of its trial number, so that a killed training is
        resumed.
        """
        return self.settings.folder / f"trial-{_hash(repr(sorted(values.items())))[:12]}"

    def _discard_trial(
        self, trial: optuna.Trial, folder: Path, state: optuna.trial.TrialState
    ) -> None:
        self.study.tell(trial, state=state)
        shutil.rmtree(folder, ignore_errors=True)

    def _record_trial(self, trial: optuna.Trial, result: TrainedModel, seconds: float) -> None:
        loss = result.validation_loss
        if loss is None and result.score:
            loss = 1 - result.score.value
        if loss is None:
            raise InputError(
                "a training reported neither a validation loss nor a score",
                fix="give more rows with gold",
            )
        trial.set_user_attr("seconds", seconds)
        self.trial_seconds.append(seconds)
        self.study.tell(trial, loss)
        best, default = self.best, self.default
        assert best is not None and default is not None
        description = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
        remaining_s = self.settings.budget.remaining_s()
        self.settings.observer.on_trial(
            SearchTrial(trial.number, description, loss, best.loss, remaining_s)
        )
        for folder in self.settings.folder.glob("trial-*"):
            if folder not in (best.folder, default.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _list_completed_trials(self) -> list[CompletedTrial]:
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        return [
            CompletedTrial(
                one.number, one.params, float(one.value or 0.0), self._find_folder(one.params)
            )
            for one in self.study.get_trials(deepcopy=False, states=states)
        ]

    def _open_study(self) -> optuna.Study:
        """Create or resume the study of this search. A killed trial is tried again."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        settings, recipe = self.settings, self.settings.recipe
        identity = (
            _SPACE_VERSION,
            settings.task.fingerprint,
            settings.table.digest(),
            recipe.to_json(),
            _VALIDATION_SHARE,
        )
        name = _hash(repr(identity))
        file = settings.folder / DATABASE
        with raise_storage_errors(file):
            os.close(open_private(file))
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        done = _count_trials(storage, name)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            # A resumed search must not draw the same recipes again.
            sampler=optuna.samplers.TPESampler(seed=recipe.seed + done, n_startup_trials=5),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
            direction="minimize",
            load_if_exists=True,
        )
        if done:
            settings.observer.on_note(
                f"{settings.folder} holds {done:,} trials of this search, which continues there"
            )
        else:
            defaults = {name: getattr(recipe, name) for name in self.space}
            study.enqueue_trial({**defaults, "rate": recipe.learning_rate})
        for stale in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(stale.params)
        return study


class _PruningObserver(NullTrainingObserver):
    """Reports validations to the study, and ends a trial that is worse than the median."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_point(self, point: TrainingPoint) -> None:
        import optuna

        if point.validation_loss is None:
            return
        percent = max(1, round(100 * point.step / max(1, point.steps)))
        self.trial.report(point.validation_loss, percent)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _count_trials(storage: optuna.storages.BaseStorage, name: str) -> int:
    import optuna

    summaries = optuna.get_all_study_summaries(storage)
    return next((one.n_trials for one in summaries if one.study_name == name), 0)


def _link(source: str, target: str) -> object:
    """Hard-link a file, or copy it if the file system has no links."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return shutil.copy2(source, target)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
