"""Evaluates a trained model on the validation rows, and fits its calibration and thresholds.

The validation rows are answered by a run in the work folder, so that metrics equal those that
`medtask run` and `medtask evaluate` would report. This run contains texts of rows, and is removed
with the work folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medtask.engines.base import Engine
from medtask.engines.model_metadata import CALIBRATION_FILE
from medtask.engines.registry import load_model
from medtask.errors import MedtaskError
from medtask.evaluation.baselines.text_classifier import ClassifierSettings
from medtask.evaluation.calibration.transforms import Calibration
from medtask.evaluation.report.calibration_report import describe_result
from medtask.evaluation.statistics.label_thresholds import DEFAULT_THRESHOLD
from medtask.runs.calibration_store import save_calibration
from medtask.runs.gold_table import SELECTION_COLUMN
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.runs.run_evaluation import (
    Evaluation,
    EvaluationOptions,
    describe_calibration_source,
    evaluate_answers,
)
from medtask.runs.signals import Interrupted
from medtask.tables.read import read_table
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.task import Task
from medtask.training.targets import build_label_targets
from medtask.training.trained_model import describe_better_baselines
from medtask.training.training_context import DRAFT_FOLDER, WORK_FOLDER
from medtask.training.training_data import TrainingData, sample_examples
from medtask.training.training_manifest import TrainingRun

if TYPE_CHECKING:
    from medtask.evaluation.statistics.intervals import Metric

# Maximum number of validation rows of generated kinds, because a text takes seconds.
MAX_GENERATED_ROWS = 100
BASELINE_NAME = "TF-IDF"
# The baseline of linear models, which would otherwise be compared with themselves.
WORDS_BASELINE_NAME = "TF-IDF on words"
WORDS_BASELINE = ClassifierSettings("words", 20_000, 10.0)


@dataclass(frozen=True, slots=True)
class TaskValidation:
    """The evaluation of the model on one of its tasks, and the baselines' metrics by name.

    ``evaluation`` is None if the training was interrupted: the process must end within seconds.
    """

    data: TrainingData
    evaluation: Evaluation | None = None
    baselines: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Metric | None]:
        """All metrics by name; None if undefined."""
        return dict(self.evaluation.metrics) if self.evaluation else {}

    @property
    def headline_metric(self) -> str:
        """The name of the most important metric, "" without metrics."""
        return self.evaluation.headline_metric if self.evaluation else ""

    @property
    def calibration(self) -> str:
        """A sentence on the calibration, or why it was refused; "" without one."""
        if self.evaluation is None:
            return ""
        fit, refusal = self.evaluation.calibration, self.evaluation.refusals.get("calibration")
        return describe_result(fit) if fit else str(refusal or "")

    def describe_better_baselines(self) -> str:
        """A sentence on the baselines with a higher headline metric; "" without one."""
        headline = self.headline_metric
        figures = {name: one[headline] for name, one in self.baselines.items() if headline in one}
        return describe_better_baselines(headline, self.metrics.get(headline), figures)


def validate_model(training: TrainingRun, thresholds: Mapping[str, float]) -> list[TaskValidation]:
    """Evaluate the model in the draft folder on each task's validation rows.

    Calibrations are fitted on the same rows and saved in the draft folder, with the thresholds of
    tasks with several labels.

    Args:
        training: The training.
        thresholds: Thresholds that were fitted on training rows; without them, they are fitted on
            the validation rows, of which each is decided by a fit on the others.
    """
    draft, validations = training.folder / DRAFT_FOLDER, []
    with closing(load_model(str(draft), training.recipe.load_options)) as engine:
        for index, data in enumerate(training.training_data, 1):
            folder = training.folder / WORK_FOLDER / f"validation-{index}"
            evaluation, used = evaluate_with_thresholds(engine, folder, data, thresholds)
            baselines = _evaluate_linear_baseline(engine, folder, data)
            _save_calibration(draft / CALIBRATION_FILE, evaluation, used)
            validations.append(TaskValidation(data, evaluation, baselines, used))
    return validations


def evaluate_with_thresholds(
    engine: Engine, folder: Path, data: TrainingData, thresholds: Mapping[str, float]
) -> tuple[Evaluation, Mapping[str, float]]:
    """The evaluation, and the thresholds that later runs apply; empty for other kinds."""
    kind = get_task_kind(data.task)
    if thresholds:
        task = kind.set_default_thresholds(thresholds)
        return _evaluate_engine(engine, folder, data, task), thresholds
    task_with_fit = kind.with_threshold_fit()
    if task_with_fit is None or not data.validation:
        return _evaluate_engine(engine, folder, data, data.task), {}
    evaluation = _evaluate_engine(engine, folder, data, task_with_fit)
    fitted = evaluation.answers.manifest.get("thresholds", {})
    if kind.threshold_fit is None and not _is_better_than_default(evaluation):
        # Too few rows to fit thresholds: those of other rows are worse than 0.5.
        return _evaluate_engine(engine, folder, data, data.task), {}
    return evaluation, fitted


def _is_better_than_default(evaluation: Evaluation) -> bool:
    """Whether the decisions have a higher micro-averaged F1 than with thresholds of 0.5."""
    from sklearn.metrics import f1_score

    answers = evaluation.answers
    names = answers.task.outcomes
    rows = [row for row in answers.rows() if row.gold is not None and row.answer.probabilities]
    if not rows:
        return False
    gold, decided, default = (
        np.array([[name in chosen for name in names] for chosen in parts])
        for parts in (
            [row.gold or () for row in rows],
            [row.answer.value or () for row in rows],
            [
                [name for name, share in (row.answer.probabilities or {}).items() if share >= 0.5]
                for row in rows
            ],
        )
    )
    scores = [f1_score(gold, one, average="micro", zero_division=0) for one in (decided, default)]
    return bool(scores[0] > scores[1])


def _save_calibration(path: Path, evaluation: Evaluation, thresholds: Mapping[str, float]) -> None:
    saved = evaluation.saved_calibration
    if thresholds:
        labels = evaluation.answers.task.outcomes
        uncalibrated = Calibration("none", labels, exclusive=False, rows=evaluation.n)
        saved = saved or describe_calibration_source(evaluation.answers, uncalibrated)
        ordered = tuple(
            thresholds.get(name, DEFAULT_THRESHOLD) for name in saved.calibration.labels
        )
        saved = replace(saved, calibration=replace(saved.calibration, thresholds=ordered))
    if saved is not None:
        save_calibration(path, replace(saved, run="the validation rows of the training"))


def _evaluate_engine(engine: Engine, folder: Path, data: TrainingData, task: Task) -> Evaluation:
    """Evaluate a run over the validation rows, in a separate folder.

    ``task`` is the task of the data, perhaps with other thresholds.
    """
    examples, generated = data.validation, task.kind_spec.generated
    # A sample: tables are often sorted, so that their first rows are alike.
    seed = data.split.seed if data.split else 0
    measured = sample_examples(examples, MAX_GENERATED_ROWS, seed) if generated else examples
    # The split has decided whether rows that were chosen by their answers are measured.
    rows = read_table([_drop_selection(example.record.fields) for example in measured])
    shutil.rmtree(folder, ignore_errors=True)
    # The model alone is measured: no further passes, and nothing that was fitted on the same rows.
    single_pass_task = replace(task, passes=(), id_column=None, source=None)
    result = run(
        single_pass_task,
        engine,
        rows,
        out=folder,
        gold=task.gold_column,
        max_error_rate=1.0,
        calibrated=False,
        baselines=False,
    )
    if result.state == "interrupted":
        # running the command again evaluates the trained model again
        raise Interrupted(result.exit_code - 128)
    options = EvaluationOptions(calibrate=None if generated else "auto", baselines=False)
    return evaluate_answers(open_answers(folder, task=data.task, gold=task.gold_column), options)


def _drop_selection(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: cell for name, cell in fields.items() if name != SELECTION_COLUMN}


def _evaluate_linear_baseline(
    engine: Engine, folder: Path, data: TrainingData
) -> Mapping[str, Mapping[str, Metric]]:
    """The metrics of TF-IDF and logistic regression trained on the same rows."""
    from medtask.training.linear import train_linear

    if not data.task.kind_spec.has_labels:
        return {}
    is_linear = engine.info.traits.family == "linear"
    name = WORDS_BASELINE_NAME if is_linear else BASELINE_NAME
    draft = folder.with_name(f"{folder.name}-linear")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    try:
        targets = build_label_targets([data], "linear")
        trained = train_linear(targets, draft, settings=WORDS_BASELINE if is_linear else None)
        with closing(load_model(str(draft))) as baseline:
            run_folder = folder.with_name(f"{folder.name}-linear-run")
            found, _ = evaluate_with_thresholds(baseline, run_folder, data, trained.thresholds)
    except MedtaskError:  # a linear model cannot be trained on these rows
        return {}
    metrics = {metric: one for metric, one in found.metrics.items() if one}
    return {name: metrics} if metrics else {}
