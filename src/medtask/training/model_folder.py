"""The end of a training: the model is loaded as a run loads it, measured, calibrated, described,
and put in its place whole.

The model's own rows to validate by are answered by a real run of their task, in the training's work
folder, so that its figures are those that `medtask run` and `medtask evaluate` would give. That run
holds texts of rows, and goes with the work folder.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtask.atomic_files import make_storage_error, replace_text
from medtask.display import format_bytes
from medtask.engines.base import Engine
from medtask.engines.files.model_files import BUILT_IN_HUB_ID, BUILT_IN_MODEL
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.model_metadata import (
    CALIBRATION_FILE,
    METADATA_FILE,
    TRAINING_FILE,
    write_model_metadata,
)
from medtask.engines.registry import load_model
from medtask.errors import MedtaskError
from medtask.evaluation.report.calibration_report import describe_result
from medtask.evaluation.statistics.refusal import Refusal
from medtask.hardware import inspect_machine
from medtask.runs.answer_table import open_answers
from medtask.runs.calibration_store import save_calibration
from medtask.runs.local_run import run
from medtask.runs.run_evaluation import Evaluation, EvaluationOptions, evaluate_answers
from medtask.runs.signals import Interrupted, SignalState
from medtask.tables.read import read_table
from medtask.tasks.task import Fields, FreeText
from medtask.training.recipe import LANGUAGE_METHODS, Recipe
from medtask.training.training_context import (
    DRAFT_FOLDER,
    WORK_FOLDER,
    MethodResult,
    TrainingContext,
)
from medtask.training.training_data import TrainingData
from medtask.training.training_log import NullTrainingObserver, TrainingLog
from medtask.training.validation_metrics import name_score

if TYPE_CHECKING:
    from medtask.evaluation.statistics.intervals import Metric

# Rows of the kinds that are written which are written for: a text takes seconds.
MAX_GENERATED_ROWS = 100
BASELINE_NAME = "TF-IDF"
LOSS_PLOT_FILE = "loss.svg"
_PACKAGES = ("medtask", "torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy")


@dataclass(frozen=True, slots=True)
class TaskValidation:
    """How good the model is at one of its tasks. ``baselines``: by name, the same measures of
    simpler methods on the same rows.
    """

    data: TrainingData
    evaluation: Evaluation
    baselines: Mapping[str, Mapping[str, Metric]]

    @property
    def metrics(self) -> dict[str, Metric | None]:
        gold = self.evaluation.summary.gold
        return dict(gold.evaluation.metrics) if gold and gold.evaluation else {}

    @property
    def headline_metric(self) -> str:
        """The headline's name."""
        gold = self.evaluation.summary.gold
        return gold.evaluation.headline_metrics[0] if gold and gold.evaluation else ""

    @property
    def calibration(self) -> str:
        fit = self.evaluation.calibration
        if fit is None:
            return ""
        return str(fit) if isinstance(fit, Refusal) else describe_result(fit)


def validate_model(
    draft_folder: Path, work_folder: Path, training_data: Sequence[TrainingData], recipe: Recipe
) -> list[TaskValidation]:
    """Answer each task's rows to validate by with the model in ``draft_folder``, and fit its
    calibrations on them (into the draft).
    """
    options = (
        LoadOptions(dtype=recipe.dtype, device=recipe.device, memory=recipe.memory)
        if recipe.method in LANGUAGE_METHODS
        else DEFAULT_OPTIONS
    )
    found = []
    with closing(load_model(str(draft_folder), options)) as engine:
        for index, data in enumerate(training_data, 1):
            task_validation = _validate_task(engine, work_folder / f"validation-{index}", data)
            if task_validation.evaluation.saved_calibration is not None:
                save_calibration(
                    draft_folder / CALIBRATION_FILE,
                    replace(
                        task_validation.evaluation.saved_calibration,
                        run="the rows that the training was validated by",
                    ),
                )
            found.append(task_validation)
    return found


def _validate_task(engine: Engine, folder: Path, data: TrainingData) -> TaskValidation:
    task = data.task
    evaluation = _evaluate_engine(engine, folder, data)
    scored = not isinstance(task.answer_spec, FreeText | Fields)
    return TaskValidation(
        data, evaluation, _evaluate_linear_baseline(engine, folder, data) if scored else {}
    )


def _evaluate_engine(engine: Engine, folder: Path, data: TrainingData) -> Evaluation:
    """The evaluation of a real run over the rows to validate by, in a folder of its own."""
    task, examples = data.task, data.validation
    written = isinstance(task.answer_spec, FreeText | Fields)
    rows = [
        dict(example.record.fields)
        for example in (examples[:MAX_GENERATED_ROWS] if written else examples)
    ]
    shutil.rmtree(folder, ignore_errors=True)
    # Without further passes and thresholds that would be fitted on the very rows: it is the model
    # that is measured.
    single_pass_task = replace(task, passes=(), id_column=None, source=None)
    once: dict[str, Any] = {"max_error_rate": 1.0, "calibrated": False, "baselines": False}
    if (
        run(
            single_pass_task,
            engine,
            read_table(rows),
            out=folder,
            gold=task.gold_column,
            **once,
        ).state
        == "interrupted"
    ):
        raise Interrupted(
            signal.SIGINT
        )  # what was trained is safe: the same command measures it again
    options = EvaluationOptions(calibrate=None if written else "auto", baselines=False)
    return evaluate_answers(open_answers(folder, task=task, gold=task.gold_column), options)


def _evaluate_linear_baseline(
    engine: Engine, folder: Path, data: TrainingData
) -> Mapping[str, Mapping[str, Metric]]:
    """TF-IDF and logistic regression that learnt from the same rows: what every other method has to
    beat.
    """
    from medtask.training.linear import fit_linear

    if engine.info.traits.family == "linear" or data.task.kind not in ("label", "labels"):
        return {}
    draft, work = (
        folder.with_name(f"{folder.name}-linear"),
        folder.with_name(f"{folder.name}-linear-run"),
    )
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    observer = NullTrainingObserver()
    try:
        fit_linear(
            [data],
            Recipe(method="linear"),
            TrainingContext(
                draft, work, TrainingLog(draft / "loss.csv", observer), observer, SignalState()
            ),
        )
        with closing(load_model(str(draft))) as rival:
            gold = _evaluate_engine(rival, work, data).summary.gold
    except (
        MedtaskError
    ):  # it cannot learn from these rows: then there is nothing to hold the model against
        return {}
    return (
        {BASELINE_NAME: {name: one for name, one in gold.evaluation.metrics.items() if one}}
        if gold and gold.evaluation
        else {}
    )


def write_model_folder(
    folder: Path,
    training_data: Sequence[TrainingData],
    recipe: Recipe,
    method_result: MethodResult,
    log: TrainingLog,
    facts: Mapping[str, Any],
    *,
    demonstration: bool,
) -> list[TaskValidation]:
    """Measure the drafted model, describe it, and move it into its folder: the contract last, so
    that nothing half there is loaded.

    ``facts``: what the training's own file tells so far; it is rewritten with how it ended.
    """
    from medtask.training.cleaning import write_cleaning_report
    from medtask.training.loss_curve import write_loss_plot

    draft = folder / DRAFT_FOLDER
    write_model_metadata(draft, method_result.trained_model)
    task_validations = validate_model(draft, folder / WORK_FOLDER, training_data, recipe)
    final_facts = {**facts, **_describe_result(method_result, task_validations, log)}
    card = _build_model_card(
        folder,
        training_data,
        recipe,
        method_result,
        task_validations,
        log,
        final_facts,
        demonstration,
    )
    try:
        if log.points:
            write_loss_plot(
                folder / LOSS_PLOT_FILE,
                log.points,
                name_score(data.task for data in training_data),
            )
        for index, data in enumerate(training_data, 1):
            if data.cleaning is not None and data.cleaning.dropped:
                write_cleaning_report(
                    folder
                    / ("cleaning.csv" if len(training_data) == 1 else f"cleaning-{index}.csv"),
                    data.cleaning,
                )
        replace_text(folder / "README.md", card)
        (folder / METADATA_FILE).unlink(
            missing_ok=True
        )  # an earlier session's, of what was the best until then
        for path in sorted(draft.iterdir()):
            path.chmod(0o600)  # libraries write files for everybody
            if path.name != METADATA_FILE:
                path.replace(folder / path.name)
        replace_text(folder / TRAINING_FILE, json.dumps(final_facts, indent=2, default=str) + "\n")
        (draft / METADATA_FILE).replace(folder / METADATA_FILE)
        shutil.rmtree(draft, ignore_errors=True)
        if not method_result.interrupted:
            shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    except OSError as error:
        raise make_storage_error(folder, error) from error
    return task_validations


def _describe_result(
    method_result: MethodResult, task_validations: Sequence[TaskValidation], log: TrainingLog
) -> dict[str, Any]:
    """What training.json tells of the end: numbers and names, no text of a row."""
    best = min(
        (point.validation_loss for point in log.points if point.validation_loss is not None),
        default=None,
    )
    return {
        "state": "interrupted" if method_result.interrupted else "finished",
        "facts": dict(method_result.facts),
        "notes": list(method_result.notes),
        "validation_loss": best,
        "untrained": next((point.score for point in log.points if point.step == 0), None),
        "measured": [
            {
                "task": one.data.task.name,
                "measure": one.headline_metric,
                "figures": {
                    name: asdict(figure) if figure else None for name, figure in one.metrics.items()
                },
                "rivals": {
                    rival: {name: asdict(figure) for name, figure in figures.items()}
                    for rival, figures in one.baselines.items()
                },
                "calibration": one.calibration,
            }
            for one in task_validations
        ],
        "versions": list_versions(),
    }


def list_versions() -> dict[str, str]:
    """The versions of what a training rests on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _build_model_card(
    folder: Path,
    training_data: Sequence[TrainingData],
    recipe: Recipe,
    method_result: MethodResult,
    task_validations: Sequence[TaskValidation],
    log: TrainingLog,
    facts: Mapping[str, Any],
    demonstration: bool,
) -> str:
    from medtask.training.model_card import write_card
    from medtask.training.model_card_content import CardContent, build_card_task

    machine = inspect_machine()
    where = (
        machine.accelerator_name
        if str(method_result.facts.get("device", "")).startswith("cuda")
        else machine.processor
    )
    return write_card(
        CardContent(
            name=folder.name,
            folder=str(folder),
            method=recipe.method,
            tasks=tuple(
                build_card_task(one.data, one.metrics, one.baselines, one.calibration)
                for one in task_validations
            ),
            bases=recipe.bases,
            base_models=tuple(_find_hub_id(base) for base in recipe.bases if _find_hub_id(base)),
            license="apache-2.0" if set(recipe.bases) == {BUILT_IN_MODEL} else "",
            recipe=recipe.to_json(),
            points=log.points,
            score_name=name_score(data.task for data in training_data),
            loss_plot=LOSS_PLOT_FILE if log.points else "",
            seconds=facts["seconds"],
            hardware=f"{where}, {machine.cores} cores, {format_bytes(machine.memory_bytes)}",
            versions=list_versions(),
            fingerprints={
                name: str(value)
                for name, value in method_result.facts.items()
                if name == "base_identity"
            },
            command=facts["command"],
            notes=method_result.notes,
            interrupted=method_result.interrupted,
            demonstration=demonstration,
        )
    )


def _find_hub_id(base: str) -> str:
    """The base's id on the Hub, which a card names; "" for a folder."""
    name = BUILT_IN_HUB_ID if base == BUILT_IN_MODEL else base.partition("@")[0]
    return name if name.count("/") == 1 and not Path(base).exists() else ""
