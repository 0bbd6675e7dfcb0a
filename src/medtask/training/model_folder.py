"""Completes a training: evaluates, calibrates and documents the model, then moves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.atomic_files import raise_storage_errors, replace_text
from medtask.display import format_bytes
from medtask.engines.files.model_files import BUILT_IN_HUB_ID, BUILT_IN_MODEL
from medtask.engines.model_metadata import METADATA_FILE, TRAINING_FILE, write_model_metadata
from medtask.engines.registry import find_phi, find_trained_folders
from medtask.evaluation.statistics.intervals import metrics_to_json
from medtask.hardware import inspect_machine
from medtask.runs.manifest import list_versions
from medtask.tasks.row_fingerprints import (
    TRAINING_ROWS_FILE,
    RowFingerprints,
    RowUse,
    fingerprint_rows,
    make_row_key,
    read_training_rows,
    write_fingerprints,
)
from medtask.training.model_validation import TaskValidation, validate_model
from medtask.training.trained_model import CARD_FILE
from medtask.training.training_context import DRAFT_FOLDER, WORK_FOLDER, MethodResult
from medtask.training.training_data import TrainingExample
from medtask.training.training_log import TrainingLog, list_validation_losses
from medtask.training.training_manifest import TrainingRun
from medtask.training.validation_metrics import name_score

LOSS_PLOT_FILE = "loss.svg"
NOT_EVALUATED_NOTE = (
    "the training was interrupted: this is the best state so far, neither evaluated nor calibrated"
)
TRAINING_PACKAGES = (
    "medtask",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "mlx",
    "mlx-lm",
    "scikit-learn",
    "numpy",
)


def write_model_folder(
    training: TrainingRun, result: MethodResult, log: TrainingLog, facts: Mapping[str, Any]
) -> None:
    """Evaluate the model in the draft folder, write its card, and move it into place.

    The metadata file is moved last, so that an incomplete folder is not loaded as a model.

    Args:
        training: The training.
        result: The result of its method.
        log: The training log.
        facts: The manifest so far; it is rewritten with the result.
    """
    draft = training.folder / DRAFT_FOLDER
    write_model_metadata(draft, result.trained_model)
    if result.interrupted:
        result = replace(result, notes=(*result.notes, NOT_EVALUATED_NOTE))
        validations = [TaskValidation(data) for data in training.training_data]
    else:
        validations = validate_model(training, result.thresholds)
        gaps = filter(None, (one.describe_better_baselines() for one in validations))
        result = replace(result, notes=(*gaps, *result.notes))
    final_facts = {**facts, **_describe_result(result, validations, log)}
    card = _build_model_card(training, result, validations, log, final_facts)
    with raise_storage_errors(training.folder):
        _write_reports(training, log, card)
        # Only after the validation: that evaluation is about these rows.
        write_fingerprints(draft / TRAINING_ROWS_FILE, collect_training_rows(training))
        _move_draft(training.folder, final_facts)
        if not result.interrupted:
            shutil.rmtree(training.folder / WORK_FOLDER, ignore_errors=True)


def collect_training_rows(training: TrainingRun) -> list[RowFingerprints]:
    """The fingerprints of a training's rows, and those of the models that it started from."""
    found = []
    for data in training.training_data:
        parts: dict[RowUse, Sequence[TrainingExample]] = {
            "training": data.train,
            "validation": data.validation,
        }
        for use, examples in parts.items():
            rows = [make_row_key(data.task, one.record, one.prompt) for one in examples]
            found.append(fingerprint_rows(rows, use, f"{data.sha256} {data.validation_sha256}"))
    for base in training.recipe.bases:
        for folder in find_trained_folders(base):
            found += read_training_rows(Path(folder)) or ()
    return list({(one.salt, one.use, one.questions): one for one in found}.values())


def _write_reports(training: TrainingRun, log: TrainingLog, card: str) -> None:
    from medtask.training.cleaning import write_cleaning_report
    from medtask.training.loss_curve import write_loss_plot

    folder, several = training.folder, len(training.training_data) > 1
    if log.points:
        score_name = name_score(data.task for data in training.training_data)
        write_loss_plot(folder / LOSS_PLOT_FILE, log.points, score_name)
    for index, data in enumerate(training.training_data, 1):
        if data.cleaning is not None and data.cleaning.dropped:
            name = f"cleaning-{index}.csv" if several else "cleaning.csv"
            write_cleaning_report(folder / name, data.cleaning)
    replace_text(folder / CARD_FILE, card)


def _move_draft(folder: Path, facts: Mapping[str, Any]) -> None:
    draft = folder / DRAFT_FOLDER
    # The metadata of an earlier session describes the best state of that session.
    (folder / METADATA_FILE).unlink(missing_ok=True)
    for path in draft.rglob("*"):  # libraries write world-readable files
        path.chmod(0o700 if path.is_dir() else 0o600)
    for path in sorted(draft.iterdir()):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        if path.name != METADATA_FILE:
            path.replace(folder / path.name)
    replace_text(folder / TRAINING_FILE, json.dumps(facts, indent=2, default=str) + "\n")
    (draft / METADATA_FILE).replace(folder / METADATA_FILE)
    shutil.rmtree(draft, ignore_errors=True)


def _describe_result(
    method_result: MethodResult, task_validations: Sequence[TaskValidation], log: TrainingLog
) -> dict[str, Any]:
    """The result for training.json: numbers and names, no text of a row."""
    return {
        "state": "interrupted" if method_result.interrupted else "finished",
        "facts": dict(method_result.facts),
        "notes": list(method_result.notes),
        "validation_loss": min(list_validation_losses(log.points), default=None),
        "untrained": next((point.score for point in log.points if point.step == 0), None),
        "measured": [
            {
                "task": one.data.task.name,
                "measure": one.headline_metric,
                "figures": metrics_to_json(one.metrics),
                "rivals": {
                    rival: metrics_to_json(figures) for rival, figures in one.baselines.items()
                },
                "calibration": one.calibration,
                "thresholds": dict(one.thresholds),
                "rows": one.data.cleaning.to_json() if one.data.cleaning else {},
            }
            for one in task_validations
        ],
        "versions": list_versions(TRAINING_PACKAGES),
    }


def _build_model_card(
    training: TrainingRun,
    result: MethodResult,
    validations: Sequence[TaskValidation],
    log: TrainingLog,
    facts: Mapping[str, Any],
) -> str:
    from medtask.training.model_card import write_card
    from medtask.training.model_card_content import CardContent, build_card_task

    recipe = training.recipe
    base_identity = result.facts.get("base_identity")
    return write_card(
        CardContent(
            name=training.folder.name,
            folder=str(training.folder),
            method=recipe.method,
            library=str(result.facts.get("library", "")) or recipe.spec.library,
            tasks=tuple(
                build_card_task(
                    one.data, one.metrics, one.baselines, one.calibration, one.thresholds
                )
                for one in validations
            ),
            bases=recipe.bases,
            base_models=tuple(filter(None, map(find_hub_id, recipe.bases))),
            base_phi=find_phi(*recipe.bases),
            license="apache-2.0" if set(recipe.bases) == {BUILT_IN_MODEL} else "",
            recipe={
                **recipe.to_json(),
                **{name: value for name, value in result.facts.items() if name == "epochs"},
            },
            points=log.points,
            score_name=name_score(data.task for data in training.training_data),
            loss_plot=LOSS_PLOT_FILE if log.points else "",
            seconds=facts["seconds"],
            hardware=_describe_hardware(str(result.facts.get("device", ""))),
            versions=list_versions(TRAINING_PACKAGES),
            fingerprints={} if base_identity is None else {"base_identity": str(base_identity)},
            command=facts["command"],
            notes=result.notes,
            interrupted=result.interrupted,
            demonstration=training.demonstration,
        )
    )


def _describe_hardware(device: str) -> str:
    machine = inspect_machine()
    processor = machine.accelerator_name if device.startswith("cuda") else machine.processor
    return f"{processor}, {machine.cores} cores, {format_bytes(machine.memory_bytes)}"


def find_hub_id(base: str) -> str:
    """The base's id on the Hub; "" for a folder."""
    base = base.removeprefix("hf:").removeprefix("mlx:")
    name = BUILT_IN_HUB_ID if base == BUILT_IN_MODEL else base.partition("@")[0]
    return name if name.count("/") == 1 and not Path(base).exists() else ""
