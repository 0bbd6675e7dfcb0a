"""Settings of a training, found by Optuna: recipes are trained one after the other, and the lowest
validation loss wins.

Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework". Trials are
kept in a SQLite file in the search's folder, so that a killed search goes on; no row is in it.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.engines.registry import load_model
from medtask.errors import EngineError, InputError, MissingExtra, UsageError
from medtask.runs.lock import lock_run
from medtask.runs.signals import Interrupted, catch_signals
from medtask.tables.table import Table
from medtask.tasks.task import Task
from medtask.training.recipe import LANGUAGE_METHODS, Recipe
from medtask.training.search.candidate_evaluator import SearchObserver, SearchTrial, answer_rows
from medtask.training.search.gain import Gain, measure_gain
from medtask.training.search.prompt_candidate import narrow_task
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData
from medtask.training.train import TaskData, TrainResult, train
from medtask.training.training_data import RowSelection
from medtask.training.training_log import NullTrainingObserver, TrainingPoint

if TYPE_CHECKING:
    import optuna

DATABASE = "trials.db"
MAX_TRIALS = 200
_STARTUP_TRIALS = 3  # before the median prunes and the median's time is believed
_NO_GAIN_TEXT = (
    "No recipe had a lower validation loss than the default one; the test rows were not used."
)
# goes up with every change of what is searched: studies of another space are not gone on with
_SPACE_VERSION = 1


@dataclass(frozen=True, slots=True)
class HyperparameterSearchResult:
    """What a search of settings came to. ``changed``: what the best recipe has other than the
    default one. ``folder``: the best trial's model, ready to run; ``best_loss`` and
    ``default_loss``: on validation, by which it was chosen. ``gain``: on the test rows, None
    where the default recipe was the best.
    """

    recipe: Recipe
    changed: Mapping[str, object]
    folder: Path
    best_loss: float
    default_loss: float
    trials: int
    stop_reason: str
    gain: Gain | None
    rows: dict[str, int]
    interrupted: bool = False

    def summarize(self) -> str:
        """One or two sentences that a reader may rely on."""
        return self.gain.summarize() if self.gain else _NO_GAIN_TEXT


def search_hyperparameters(
    search_data: SearchData,
    recipe: Recipe,
    budget: SearchBudget,
    observer: SearchObserver,
    *,
    out: Path,
    share: float = 0.2,
) -> HyperparameterSearchResult:
    """Search for a better recipe than ``recipe``, and hold the best one's model against the default
    one's on the rows of the test.

    ``out``: the search's folder: the same call goes on there with more time. ``share``: of the rows
    that are learnt from, kept to stop by. A Ctrl-C ends the search after the step in hand, and the
    best so far is measured. MissingExtra where optuna is not installed; UsageError for methods that
    have nothing to search; InputError where the very first training fails.
    """
    _check(recipe)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_run(out), catch_signals() as signals:
        study = _HyperparameterStudy(
            search_data.task, search_data.to_training_table(), recipe, budget, observer, out, share
        )
        stop_reason, interrupted = "the budget is used up", False
        try:
            while study.has_time():
                signals.raise_if_caught()
                if number := study.run_next():
                    raise Interrupted(number - 128)
            if study.finished_count >= MAX_TRIALS:
                stop_reason = f"{MAX_TRIALS} recipes were tried"
        except Interrupted:
            stop_reason, interrupted = "it was stopped", True
            if study.best is None:
                raise
    return _build_result(search_data, study, observer, stop_reason, interrupted)


def _build_result(
    search_data: SearchData,
    study: _HyperparameterStudy,
    observer: SearchObserver,
    stop_reason: str,
    interrupted: bool,
) -> HyperparameterSearchResult:
    best, default = study.best, study.default
    assert best is not None and default is not None
    rows = {
        "train": len(search_data.train),
        "validation": len(search_data.validation),
        "test": len(search_data.test),
    }
    gain = None
    if best.number != default.number:
        observer.on_stage(
            f"Asking {len(search_data.test):,} test rows twice: the default recipe's model, and "
            "the "
            "best one's"
        )
        task, answers = narrow_task(search_data.task), []
        for trial in (default, best):
            engine = load_model(str(trial.folder))
            answers.append(answer_rows(task, engine, search_data.test))
            engine.close()
        gain = measure_gain(task, search_data.test, *answers, seed=study.recipe.seed)
    changed = {
        name: value for name, value in best.values.items() if value != default.values.get(name)
    }
    folder = study.copy_best_model(best)
    recipe, trials = apply_values(study.recipe, best.values), study.finished_count
    return HyperparameterSearchResult(
        recipe,
        changed,
        folder,
        best.loss,
        default.loss,
        trials,
        stop_reason,
        gain,
        rows,
        interrupted,
    )


@dataclass(frozen=True, slots=True)
class _CompletedTrial:
    """A trial that is done."""

    number: int
    values: Mapping[str, Any]
    loss: float
    folder: Path


class _HyperparameterStudy:
    """A study that is asked, trained for and told, trial by trial. Trial 0 is the default
    recipe.
    """

    def __init__(
        self,
        task: Task,
        table: Table,
        recipe: Recipe,
        budget: SearchBudget,
        observer: SearchObserver,
        out: Path,
        share: float,
    ) -> None:
        self.task, self.table, self.recipe, self.share = task, table, recipe, share
        self.clock, self.viewer, self.out = budget, observer, out
        self.rows = sum(1 for _ in table.rows())
        self.study = self._open_study()
        self.trial_seconds = [
            float(trial.user_attrs["seconds"])
            for trial in self.study.trials
            if "seconds" in trial.user_attrs
        ]

    @property
    def finished_count(self) -> int:
        """Trials that are over, however they ended."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    @property
    def best(self) -> _CompletedTrial | None:
        """The lowest loss; the earlier one of two that are equal."""
        return min(
            self._list_completed_trials(),
            key=lambda known: (known.loss, known.number),
            default=None,
        )

    @property
    def default(self) -> _CompletedTrial | None:
        return next(iter(self._list_completed_trials()), None)

    def has_time(self) -> bool:
        """Whether one more trial is to be begun: as long as the median trial fits; the default
        recipe always is.
        """
        if self.default is None:
            return True
        needed = statistics.median(self.trial_seconds)
        # A model of each of the two is asked about the test rows at the end, which takes less than
        # training did.
        return self.finished_count < MAX_TRIALS and self.clock.remaining_s() >= needed

    def run_next(self) -> int:
        """Train one more recipe, and tell the study how good it is; a signal's exit code where one
        stopped it, else 0.
        """
        import optuna

        trial = self.study.ask()
        values = _suggest(trial, self.recipe, self.rows)
        folder = self._find_folder(values)
        observer = NullTrainingObserver() if self.default is None else _PruningObserver(trial)
        began = self.clock.now()
        try:
            task_data = (TaskData(self.task, self.table),)
            result = train(
                task_data,
                apply_values(self.recipe, values),
                out=folder,
                selection=RowSelection(self.share),
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
                return (
                    result.exit_code
                )  # the trial stays open: the same command trains it to its end
            self._record_trial(trial, result, self.clock.now() - began)
        return 0

    def _find_folder(self, values: Mapping[str, Any]) -> Path:
        """By what is trained there, so that a killed training goes on in its own folder, whatever
        its trial's number is then.
        """
        return self.out / f"trial-{_hash(repr(sorted(values.items())))[:12]}"

    def _discard_trial(
        self, trial: optuna.Trial, folder: Path, state: optuna.trial.TrialState
    ) -> None:
        self.study.tell(trial, state=state)
        shutil.rmtree(folder, ignore_errors=True)

    def copy_best_model(self, best: _CompletedTrial) -> Path:
        """The best model under a name that a user finds; the trials' own folders keep what a longer
        search needs.
        """
        folder = self.out / "best"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            best.folder, folder, ignore=shutil.ignore_patterns(".*"), copy_function=_link
        )
        return folder

    def _record_trial(self, trial: optuna.Trial, result: TrainResult, seconds: float) -> None:
        loss = (
            result.validation_loss
            if result.validation_loss is not None
            else 1 - result.score.value
            if result.score
            else None
        )
        if loss is None:
            raise InputError(
                "a training came without a validation loss and without a score",
                fix="give more rows with gold",
            )
        trial.set_user_attr("seconds", seconds)
        self.trial_seconds.append(seconds)
        self.study.tell(trial, loss)
        best, default = self.best, self.default
        assert best is not None and default is not None
        self.viewer.on_trial(
            SearchTrial(
                trial.number,
                _format_values(trial.params),
                loss,
                best.loss,
                self.clock.remaining_s(),
            )
        )
        for folder in self.out.glob("trial-*"):
            if folder not in (best.folder, default.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _list_completed_trials(self) -> list[_CompletedTrial]:
        import optuna

        done = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return [
            _CompletedTrial(
                one.number, one.params, float(one.value or 0.0), self._find_folder(one.params)
            )
            for one in done
        ]

    def _open_study(self) -> optuna.Study:
        """The study of this very search: begun, or gone on with. A trial that was killed is tried
        again.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        facts = (
            _SPACE_VERSION,
            self.task.fingerprint,
            self.table.digest(),
            self.recipe.to_json(),
            self.share,
        )
        name = _hash(repr(facts))
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.out / DATABASE}")
        done = _count_trials(storage, name)
        seed = self.recipe.seed + done  # a search that goes on must not draw the same recipes again
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            pruner=pruner,
            direction="minimize",
            load_if_exists=True,
        )
        if done:
            self.viewer.on_note(
                f"{self.out} holds {done:,} trials of this search: it goes on from there"
            )
        else:
            study.enqueue_trial(dict(_default_values(self.recipe)))
        for stale in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(stale.params)
        return study


class _PruningObserver(NullTrainingObserver):
    """Tells the study of every validation, and ends a trial that is worse than the median of the
    others was at that point.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_point(self, point: TrainingPoint) -> None:
        import optuna

        if point.validation_loss is None:
            return
        self.trial.report(
            point.validation_loss, max(1, round(100 * point.step / max(1, point.steps)))
        )
        if self.trial.should_prune():
            raise optuna.TrialPruned


def apply_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with what a trial has chosen."""
    return replace(recipe, **dict(values))


def _check(recipe: Recipe) -> None:
    from importlib.util import find_spec

    if recipe.method in ("linear", "hybrid"):
        fits = "the strength of its penalty" if recipe.method == "linear" else "its weights"
        fix = f"medtask train --method {recipe.method} is all it takes; tune lora, full or encoder"
        raise UsageError(
            f"a {recipe.method} model has nothing to search: training fits {fits} itself", fix=fix
        )
    if not find_spec("optuna"):
        raise MissingExtra(
            "Optuna is not installed here, which chooses what is tried next.",
            fix="pip install 'medtask[tune]'",
        )
    recipe.check()


def _default_values(recipe: Recipe) -> Mapping[str, Any]:
    values = {"rate": recipe.learning_rate, "epochs": recipe.epochs, "batch": recipe.batch}
    if recipe.method in LANGUAGE_METHODS:
        values |= {"warmup": recipe.warmup, "decay": recipe.decay}
    if recipe.method in LANGUAGE_METHODS and recipe.method != "full":
        values |= {"rank": recipe.rank, "dropout": recipe.dropout}
    return values


def _suggest(trial: optuna.Trial, recipe: Recipe, rows: int) -> dict[str, Any]:
    """What to try next. The default recipe's own values are always among those that can be."""
    values: dict[str, Any] = {}
    rate = recipe.learning_rate
    values["rate"] = trial.suggest_float("rate", rate / 8, rate * 8, log=True)
    values["epochs"] = trial.suggest_float(
        "epochs", min(1.0, recipe.epochs), max(6.0, 2 * recipe.epochs)
    )
    batches = sorted(
        {size for size in (8, 16, 32, 64) if size <= max(8, rows // 4)} | {recipe.batch}
    )
    values["batch"] = trial.suggest_categorical("batch", batches)
    if recipe.method in LANGUAGE_METHODS:
        values["warmup"] = trial.suggest_float("warmup", 0.0, max(0.2, recipe.warmup))
        values["decay"] = trial.suggest_float("decay", 0.0, max(0.1, recipe.decay))
    if recipe.method in LANGUAGE_METHODS and recipe.method != "full":
        values["rank"] = trial.suggest_categorical("rank", sorted({4, 8, 16, 32, recipe.rank}))
        values["dropout"] = trial.suggest_float("dropout", 0.0, max(0.2, recipe.dropout))
    return values


def _format_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _count_trials(storage: optuna.storages.BaseStorage, name: str) -> int:
    import optuna

    return next(
        (one.n_trials for one in optuna.get_all_study_summaries(storage) if one.study_name == name),
        0,
    )


def _link(source: str, target: str) -> object:
    """The same file under a second name; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return shutil.copy2(source, target)


def _hash(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:32]
