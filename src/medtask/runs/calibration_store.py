"""Storage of fitted calibrations, and their lookup by task and model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ConfigDict

from medtask.atomic_files import replace_file, replace_text
from medtask.display import format_path, quote_names
from medtask.engines.base import list_changed_facts
from medtask.engines.model_metadata import locate_beside
from medtask.errors import InputError
from medtask.json_content import JsonContent, check_content
from medtask.json_files import InvalidJsonFile, UnreadableJsonFile, load_json_object
from medtask.prediction.deciding import apply_probabilities
from medtask.records import Answer
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.row_fingerprints import RowFingerprints, StoredFingerprints
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.transforms import Calibration

CALIBRATION_FILE = "calibration.json"
FORMAT = 1
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SavedCalibration:
    """A calibration as stored in a file; it is valid for one task and model only.

    Attributes:
        calibration: The calibration.
        task: The fingerprint of the task.
        model: The identity of the model.
        title: The display name of the model.
        run: The answers that it was fitted on.
        fitted: When it was fitted.
        rows: The fingerprints of the rows that it was fitted on; None in files of older versions.
        carried: Whether it was fitted on the model before its export; ``model`` then has the hash
            of the exported files only.
    """

    calibration: Calibration
    task: str
    model: Mapping[str, str]
    title: str
    run: str
    fitted: str
    rows: RowFingerprints | None = None
    carried: bool = False

    def to_manifest(self) -> dict[str, Any]:
        """The entries of a run's manifest about this calibration."""
        return {
            "fitted": self.fitted,
            "on": self.run,
            "rows_known": self.rows is not None,
            **self.calibration.to_json(),
        }


def describe_gold_reuse(applied: Mapping[str, Any] | None, run: str) -> str:
    """A warning if the applied calibration was fitted on the evaluated gold; "" otherwise.

    Only for calibrations of older versions, which do not say which rows they were fitted on; for
    others these rows are left out of the metrics. ``applied`` is the manifest's entry. Exempt are
    a temperature, which changes no answer, and a calibration that was fitted without gold.
    """
    if not applied or applied.get("rows_known") or applied.get("on") != run:
        return ""
    if applied.get("method") in ("temperature", "batch"):
        return ""
    return (
        "the calibration was fitted on the gold of this run, so its metrics and acceptance "
        "thresholds may be too good: use other gold rows, fit the calibration again, or run with "
        "--uncalibrated"
    )


def locate_calibration_file(task: Task) -> Path | None:
    """The calibration file next to the task file; None if the task has no file."""
    return task.source.parent / CALIBRATION_FILE if task.source else None


def locate_model_calibration(model: Path) -> Path:
    """The file of the calibrations that belong to a model's folder or file."""
    return locate_beside(model, CALIBRATION_FILE)


def write_calibrations(path: Path, calibrations: Sequence[SavedCalibration]) -> None:
    """Write a file of calibrations (mode 0600)."""
    replace_text(path, _format_file(calibrations))


def save_calibration(path: Path, saved: SavedCalibration) -> None:
    """Add a calibration to a file, or replace that of the same task and model (mode 0600)."""
    with replace_file(path) as draft:  # other processes wait, so none reads the file before
        other_calibrations = [
            other
            for other in read_calibrations(path)
            if (other.task, other.model) != (saved.task, saved.model)
        ]
        draft.write_text(_format_file([*other_calibrations, saved]), encoding="utf-8")


def _format_file(calibrations: Sequence[SavedCalibration]) -> str:
    entries = [_write_entry(one) for one in calibrations]
    document = {"format": FORMAT, "sha256": _hash_entries(entries), "calibrations": entries}
    return json.dumps(document, indent=2) + "\n"


def read_task_calibrations(task: Task) -> list[SavedCalibration]:
    """The calibrations in the file next to the task file; none if there is no file."""
    path = locate_calibration_file(task)
    return read_calibrations(path) if path else []


def find_calibration(
    task: Task,
    model: Mapping[str, str],
    *,
    beside_task: Sequence[SavedCalibration] | None = None,
) -> tuple[SavedCalibration | None, str]:
    """Find the calibration of exactly this task and model.

    The file next to the task is searched first, then the model folder, where training writes one.
    ``beside_task`` replaces the content of that file, for machines that do not have it.
    Returns None and a note if the task's file holds only calibrations for other models or tasks.
    """
    path = locate_calibration_file(task)
    candidates = read_task_calibrations(task) if beside_task is None else beside_task
    location = Path(model.get("model.model") or ".").expanduser()
    model_file = locate_model_calibration(location)
    trained = read_calibrations(model_file)
    from_training = _find_match(trained, task, model)
    match = _find_match(candidates, task, model)
    if match and from_training and not match.calibration.thresholds:
        thresholds = from_training.calibration.thresholds
        match = replace(match, calibration=replace(match.calibration, thresholds=thresholds))
    match = match or from_training
    # Older versions fitted a batch calibration, which assumes one answer, to several labels too.
    if match and match.calibration.exclusive is task.several:
        return None, (
            f"the calibration that was fitted on {match.run} is for another number of answers per "
            "row: it is not applied, and probabilities are the model's own"
        )
    if match and (unknown := _list_unknown_labels(task, match.calibration)):
        return None, (
            f"the calibration that was fitted on {match.run} does not know {quote_names(unknown)}: "
            "it is not applied, and probabilities are the model's own"
        )
    if match or not (candidates or trained):
        return match, ""
    why = (
        "of another model"
        if any(one.task == task.fingerprint for one in (*candidates, *trained))
        else "of the task as it was before"
    )
    file = path if candidates else model_file
    return None, f"{file} holds calibrations {why}: probabilities are the model's own"


def _list_unknown_labels(task: Task, calibration: Calibration) -> list[str]:
    """Labels of the task that the calibration does not have: it would change no answer."""
    return [label.name for label in task.candidates if label.name not in calibration.labels]


def find_noted_calibration(
    task: Task, model: Mapping[str, str]
) -> tuple[SavedCalibration | None, list[str]]:
    """The calibration of exactly this task and model, and the notes for the user."""
    saved, note = find_calibration(task, model)
    if saved is None:
        return None, [note] if note else []
    notes, calibration = [], saved.calibration
    how = "(--uncalibrated, or calibrated=False in Python, turns this off)"
    if calibration.calibrated:
        notes.append(
            f"probabilities are calibrated, as fitted on {calibration.rows:,} rows of {saved.run} "
            f"{how}"
        )
    if calibration.thresholds:
        notes.append(
            "labels apply from the thresholds that were fitted when the model was trained, not "
            f"from 0.5 {how}"
        )
    return saved, notes


def _find_match(
    candidates: Sequence[SavedCalibration], task: Task, model: Mapping[str, str]
) -> SavedCalibration | None:
    return next(
        (
            candidate
            for candidate in candidates
            if candidate.task == task.fingerprint and _is_of_model(candidate, model)
        ),
        None,
    )


def _is_of_model(saved: SavedCalibration, model: Mapping[str, str]) -> bool:
    if saved.carried:
        return saved.model.items() <= model.items()
    return not list_changed_facts(
        _select_identifying_facts(saved.model), _select_identifying_facts(model)
    )


def _select_identifying_facts(model: Mapping[str, str]) -> Mapping[str, str]:
    """The facts that identify a model: hashes if present, because names change with folders."""
    hashed = any(_HASH.fullmatch(fact) for fact in model.values())
    return {name: fact for name, fact in model.items() if not (hashed and name == "model.model")}


def select_model_facts(identity: Mapping[str, str]) -> dict[str, str]:
    """The facts about the model among those that are compared before a run is resumed."""
    return {name: fact for name, fact in identity.items() if name.startswith("model.")}


def calibrate_answer(task: Task, answer: Answer, calibration: Calibration) -> Answer:
    """The answer with calibrated probabilities and fitted thresholds; unchanged if its outcomes
    differ.
    """
    probabilities = answer.probabilities
    if probabilities is None or not probabilities.keys() <= set(calibration.labels):
        return answer
    task = get_task_kind(task).set_default_thresholds(calibration.get_thresholds())
    row = np.array([[probabilities.get(name, np.nan) for name in calibration.labels]])
    calibrated = calibration.apply(row)[0].tolist()
    shares = {
        name: share
        for name, share in zip(calibration.labels, calibrated, strict=True)
        if name in probabilities
    }
    decided = apply_probabilities(task, answer, shares)
    # Thresholds alone leave the model's own probabilities.
    return decided if calibration.calibrated else replace(decided, uncalibrated=None)


def read_calibrations(path: Path) -> list[SavedCalibration]:
    """The calibrations in a file; none if there is no file. Raises InputError."""
    try:
        document = load_json_object(path)
        found = check_content(document, _CalibrationsFile)
        if document.get("sha256", checksum := _hash_entries(document["calibrations"])) != checksum:
            raise InvalidJsonFile("it is damaged or was edited: it does not have its own checksum")
        return [entry.restore() for entry in found.calibrations]
    except FileNotFoundError:
        return []
    except UnreadableJsonFile as error:
        raise InputError(
            f"{format_path(path)} cannot be read: {error}", fix="make it readable"
        ) from None
    except (InvalidJsonFile, InputError) as error:
        raise InputError(
            f"{format_path(path)} is not a file of calibrations: {error}",
            fix="move the file aside; medtask evaluate RUN --calibrate writes it anew",
        ) from None


class _CalibrationEntry(JsonContent):
    task: str
    model: dict[str, str]
    title: str
    run: str
    fitted: str
    rows: StoredFingerprints | None = None
    carried: bool = False
    calibration: dict[str, Any]

    def restore(self) -> SavedCalibration:
        from medtask.evaluation.calibration.transforms import parse_calibration

        return SavedCalibration(
            parse_calibration(self.calibration),
            task=self.task,
            model=self.model,
            title=self.title,
            run=self.run,
            fitted=self.fitted,
            rows=self.rows.restore() if self.rows else None,
            carried=self.carried,
        )


class _CalibrationsFile(JsonContent):
    """Files of earlier versions have no checksum."""

    # An unknown key can be that of the checksum, damaged.
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    sha256: str = ""
    calibrations: list[_CalibrationEntry]


def _hash_entries(entries: object) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _write_entry(saved: SavedCalibration) -> dict[str, Any]:
    facts = {
        "task": saved.task,
        "model": dict(saved.model),
        "title": saved.title,
        "run": saved.run,
        "fitted": saved.fitted,
    }
    rows = {"rows": saved.rows.to_json()} if saved.rows else {}
    carried = {"carried": True} if saved.carried else {}
    return {**facts, **rows, **carried, "calibration": saved.calibration.to_json()}
