"""Calibrations of a model that its export keeps: they are found by the exported files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medtask.engines.files.weights import hash_file, hash_weights
from medtask.engines.model_metadata import CALIBRATION_FILE, METADATA_FILE, hash_model_metadata
from medtask.exporting.source import ExportSource
from medtask.exporting.targets import ExportRequest, IdentityFact
from medtask.runs.calibration_store import (
    SavedCalibration,
    locate_calibration_file,
    locate_model_calibration,
    read_calibrations,
    write_calibrations,
)


def find_calibrations(
    request: ExportRequest, fact: IdentityFact, draft: Path
) -> list[SavedCalibration]:
    """The calibrations of a request's model, for the exported files in ``draft``.

    Args:
        request: The request.
        fact: The fact by which engines identify the exported files.
        draft: The folder or file.
    """
    value = _compute_fact(fact, draft)
    if request.source.folder is None or not value:
        return []
    found = read_calibrations(request.source.folder / CALIBRATION_FILE)
    beside_task = locate_calibration_file(request.task) if request.task else None
    if beside_task is not None:
        own = _list_hashes(request.source)
        # The first of the same task is used: those beside the task are preferred, as in runs.
        found = [
            one for one in read_calibrations(beside_task) if own & set(one.model.values())
        ] + found
    by_task = {one.task: one for one in reversed(found)}
    as_written = f" as {request.quantization}" if request.quantization else ""
    return [
        replace(
            one,
            model={f"model.{fact}": value},
            run=f"{one.run}, with the model before its export{as_written}",
            carried=True,
        )
        for one in by_task.values()
    ]


def write_carried(calibrations: list[SavedCalibration], path: Path) -> None:
    """Write calibrations beside the published file ``path``, or into a folder."""
    if calibrations:
        write_calibrations(locate_model_calibration(path), calibrations)


def _compute_fact(fact: IdentityFact, draft: Path) -> str:
    if fact == "file":
        return hash_file(draft)
    if fact == "weights":
        return hash_weights(draft)
    has_metadata = fact == "contract" and (draft / METADATA_FILE).is_file()
    return hash_model_metadata(draft) if has_metadata else ""


def _list_hashes(source: ExportSource) -> set[str]:
    """The hashes by which calibrations name a model or its adapter."""
    assert source.folder is not None
    hashes = {hash_weights(source.folder)}
    return hashes | ({hash_model_metadata(source.folder)} if source.metadata else set())
