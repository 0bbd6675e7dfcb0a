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

from medtask.data.table import Table
from medtask.engines.registry import load_model
from medtask.errors import EngineError, InputError, MissingExtra, UsageError
from medtask.runs.interrupt import Interrupted, catch_signals
from medtask.runs.lock import lock_run
from medtask.tasks.task import Task
from medtask.train.journal import Point, Unwatched
from medtask.train.local import Lecture, TrainResult, train
from medtask.train.material import Selection
from medtask.train.recipe import LANGUAGE, Recipe
from medtask.train.search.bench import Trial, Viewer, ask_lessons
from medtask.train.search.candidate import narrow_task
from medtask.train.search.clock import Clock
from medtask.train.search.gain import Gain, hold_against
from medtask.train.search.parts import Parts

if TYPE_CHECKING:
    import optuna

DATABASE = "trials.db"
MOST_TRIALS = 200
_WARM_TRIALS = 3  # before the median prunes and the median's time is believed
_NOTHING = (
    "No recipe had a lower validation loss than the default one; the test rows were not used."
)
# goes up with every change of what is searched: studies of another space are not gone on with
_SPACE = 1


@dataclass(frozen=True, slots=True)
class TunedTraining:
    """What a search of settings came to. ``changed``: what the best recipe has other than the
    default one. ``folder``: the best trial's model, ready to run; ``loss`` and ``default_loss``: on
    validation, by which it was chosen. ``gain``: on the test rows, None where the default recipe
    was the best.
    """

    recipe: Recipe
    changed: Mapping[str, object]
    folder: Path
    loss: float
    default_loss: float
    trials: int
    ended: str
    gain: Gain | None
    rows: dict[str, int]
    interrupted: bool = False

    def verdict(self) -> str:
        """One or two sentences that a reader may rely on."""
        return self.gain.conclude() if self.gain else _NOTHING


def tune_training(
    parts: Parts, recipe: Recipe, clock: Clock, viewer: Viewer, *, out: Path, share: float = 0.2
) -> TunedTraining:
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
        search = _Search(parts.task, parts.learnable(), recipe, clock, viewer, out, share)
        ended, interrupted = "the budget is used up", False
        try:
            while search.has_time():
                signals.check()
                if number := search.run_next():
                    raise Interrupted(number - 128)
            if search.tried >= MOST_TRIALS:
                ended = f"{MOST_TRIALS} recipes were tried"
        except Interrupted:
            ended, interrupted = "it was stopped", True
            if search.best is None:
                raise
    return _conclude(parts, search, viewer, ended, interrupted)


def _conclude(
    parts: Parts, search: _Search, viewer: Viewer, ended: str, interrupted: bool
) -> TunedTraining:
    best, default = search.best, search.default
    assert best is not None and default is not None
    rows = {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)}
    gain = None
    if best.number != default.number:
        viewer.on_stage(
            f"Asking {len(parts.test):,} test rows twice: the default recipe's model, and the "
            "best one's"
        )
        task, answers = narrow_task(parts.task), []
        for known in (default, best):
            engine = load_model(str(known.folder))
            answers.append(ask_lessons(task, engine, parts.test))
            engine.close()
        gain = hold_against(task, parts.test, *answers, seed=search.recipe.seed)
    changed = {
        name: value for name, value in best.values.items() if value != default.values.get(name)
    }
    folder = search.keep_best(best)
    recipe, trials = apply_values(search.recipe, best.values), search.tried
    return TunedTraining(
        recipe, changed, folder, best.loss, default.loss, trials, ended, gain, rows, interrupted
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """A trial that is done."""

    number: int
    values: Mapping[str, Any]
    loss: float
    folder: Path


class _Search:
    """A study that is asked, trained for and told, trial by trial. Trial 0 is the default
    recipe.
    """

    def __init__(
        self,
        task: Task,
        table: Table,
        recipe: Recipe,
        clock: Clock,
        viewer: Viewer,
        out: Path,
        share: float,
    ) -> None:
        self.task, self.table, self.recipe, self.share = task, table, recipe, share
        self.clock, self.viewer, self.out = clock, viewer, out
        self.rows = sum(1 for _ in table.rows())
        self.study = self._open_study()
        self.seconds = [
            float(trial.user_attrs["seconds"])
            for trial in self.study.trials
            if "seconds" in trial.user_attrs
        ]

    @property
    def tried(self) -> int:
        """Trials that are over, however they ended."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    @property
    def best(self) -> _Known | None:
        """The lowest loss; the earlier one of two that are equal."""
        return min(self._list_known(), key=lambda known: (known.loss, known.number), default=None)

    @property
    def default(self) -> _Known | None:
        return next(iter(self._list_known()), None)

    def has_time(self) -> bool:
        """Whether one more trial is to be begun: as long as the median trial fits; the default
        recipe always is.
        """
        if self.default is None:
            return True
        needed = statistics.median(self.seconds)
        # A model of each of the two is asked about the test rows at the end, which takes less than
        # training did.
        return self.tried < MOST_TRIALS and self.clock.left() >= needed

    def run_next(self) -> int:
        """Train one more recipe, and tell the study how good it is; a signal's exit code where one
        stopped it, else 0.
        """
        import optuna

        trial = self.study.ask()
        values = _suggest(trial, self.recipe, self.rows)
        folder = self._find_folder(values)
        watch = Unwatched() if self.default is None else _Pruning(trial)
        began = self.clock.now()
        try:
            lectures = (Lecture(self.task, self.table),)
            result = train(
                lectures,
                apply_values(self.recipe, values),
                out=folder,
                selection=Selection(self.share),
                watch=watch,
            )
        except optuna.TrialPruned:
            self._drop(trial, folder, optuna.trial.TrialState.PRUNED)
        except (InputError, EngineError):
            if self.default is None:
                raise
            self._drop(trial, folder, optuna.trial.TrialState.FAIL)
        else:
            if result.exit_code:
                return (
                    result.exit_code
                )  # the trial stays open: the same command trains it to its end
            self._keep(trial, result, self.clock.now() - began)
        return 0

    def _find_folder(self, values: Mapping[str, Any]) -> Path:
        """By what is trained there, so that a killed training goes on in its own folder, whatever
        its trial's number is then.
        """
        return self.out / f"trial-{_hash(repr(sorted(values.items())))[:12]}"

    def _drop(self, trial: optuna.Trial, folder: Path, state: optuna.trial.TrialState) -> None:
        self.study.tell(trial, state=state)
        shutil.rmtree(folder, ignore_errors=True)

    def keep_best(self, best: _Known) -> Path:
        """The best model under a name that a user finds; the trials' own folders keep what a longer
        search needs.
        """
        folder = self.out / "best"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            best.folder, folder, ignore=shutil.ignore_patterns(".*"), copy_function=_link
        )
        return folder

    def _keep(self, trial: optuna.Trial, result: TrainResult, seconds: float) -> None:
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
        self.seconds.append(seconds)
        self.study.tell(trial, loss)
        best, default = self.best, self.default
        assert best is not None and default is not None
        self.viewer.on_trial(
            Trial(trial.number, _tell_values(trial.params), loss, best.loss, self.clock.left())
        )
        for folder in self.out.glob("trial-*"):
            if folder not in (best.folder, default.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _list_known(self) -> list[_Known]:
        import optuna

        done = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return [
            _Known(one.number, one.params, float(one.value or 0.0), self._find_folder(one.params))
            for one in done
        ]

    def _open_study(self) -> optuna.Study:
        """The study of this very search: begun, or gone on with. A trial that was killed is tried
        again.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        facts = (_SPACE, self.task.fingerprint, self.table.digest(), self.recipe.tell(), self.share)
        name = _hash(repr(facts))
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.out / DATABASE}")
        done = _count_trials(storage, name)
        seed = self.recipe.seed + done  # a search that goes on must not draw the same recipes again
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_WARM_TRIALS)
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


class _Pruning(Unwatched):
    """Tells the study of every validation, and ends a trial that is worse than the median of the
    others was at that point.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_point(self, point: Point) -> None:
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
    if recipe.method in LANGUAGE:
        values |= {"warmup": recipe.warmup, "decay": recipe.decay}
    if recipe.method in LANGUAGE and recipe.method != "full":
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
    if recipe.method in LANGUAGE:
        values["warmup"] = trial.suggest_float("warmup", 0.0, max(0.2, recipe.warmup))
        values["decay"] = trial.suggest_float("decay", 0.0, max(0.1, recipe.decay))
    if recipe.method in LANGUAGE and recipe.method != "full":
        values["rank"] = trial.suggest_categorical("rank", sorted({4, 8, 16, 32, recipe.rank}))
        values["dropout"] = trial.suggest_float("dropout", 0.0, max(0.2, recipe.dropout))
    return values


def _tell_values(values: Mapping[str, Any]) -> str:
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
