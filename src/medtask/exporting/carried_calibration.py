"""Calibrations of a model that its export keeps: they are found by the exported files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medtask.engines.files.weights import hash_file, hash_weights
from medtask.engines.model_metadata import CALIBRATION_FILE, METADATA_FILE, hash_model_metadata
from medtask.exporting.source import ExportSource
from medtask.exporting.targets import ExportRequest
from medtask.runs.calibration_store import (
    SavedCalibration,
    locate_calibration_file,
    locate_model_calibration,
    read_calibrations,
    write_calibrations,
)


def find_calibrations(request: ExportRequest, model: Path) -> list[SavedCalibration]:
    """The calibrations of a request's model, for the exported model at ``model``."""
    identity = _identify_exported(request.source, model)
    if request.source.folder is None or not identity:
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
            model=identity,
            run=f"{one.run}, with the model before its export{as_written}",
            carried=True,
        )
        for one in by_task.values()
    ]


def write_carried(calibrations: list[SavedCalibration], model: Path) -> None:
    """Write calibrations into the folder of an exported model, or beside its file."""
    if calibrations:
        write_calibrations(locate_model_calibration(model), calibrations)


def _identify_exported(source: ExportSource, model: Path) -> dict[str, str]:
    """The fact by which engines identify an exported model; empty for one without its own."""
    if model.is_file():
        return {"model.file": hash_file(model)}
    if source.engine == "hf":
        return {"model.weights": hash_weights(model)}
    has_metadata = (model / METADATA_FILE).is_file()
    return {"model.contract": hash_model_metadata(model)} if has_metadata else {}


def _list_hashes(source: ExportSource) -> set[str]:
    """The hashes by which calibrations name a model or its adapter."""
    assert source.folder is not None
    hashes = {hash_weights(source.folder)}
    return hashes | ({hash_model_metadata(source.folder)} if source.metadata else set())
