"""`medtask.predict`: answers row by row, with the calibration that runs apply."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack

from medtask.engines.base import Engine
from medtask.prediction.predictor import WINDOW, load_pass_engines, predict_uncalibrated
from medtask.prediction.prompt_versions import match_prompts
from medtask.records import Answer, Record
from medtask.runs.calibration_store import calibrate_answer, find_noted_calibration
from medtask.runs.manifest import identify_model
from medtask.tasks.task import Task


def predict(
    task: Task,
    model: Engine,
    rows: Iterable[Record] | Iterable[Mapping[str, object]],
    *,
    calibrated: bool = True,
    window: int = WINDOW,
    pass_engines: Mapping[str, Engine] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Iterator[Answer]:
    """Answer every row, in order.

    Rows are read and answered ``window`` at a time, so memory does not grow with their number.
    Probabilities, statuses and thresholds are those of `medtask.run` for the same task and model.

    Args:
        task: The task.
        model: The model.
        rows: A table, mappings from column to value, or Records.
        calibrated: Apply the calibration and the thresholds of this task and model, if there are
            any.
        window: How many rows are answered at a time.
        pass_engines: The models of further passes, by their references; by default they are loaded,
            and closed at the end.
        on_note: Called with each note about the calibration; by default notes are warnings.

    Raises:
        TableError: Two rows of a window have the same id.
        EngineError: The model cannot answer.
        InputError: The task fits thresholds, which requires a run with gold; or the file of
            calibrations is not valid.
    """
    with ExitStack() as stack:
        if pass_engines is None:
            pass_engines = load_pass_engines(task)
            for pass_engine in pass_engines.values():
                stack.callback(pass_engine.close)
        task = match_prompts(task, model, pass_engines)
        saved, notes = (
            find_noted_calibration(task, identify_model(model, pass_engines))
            if calibrated
            else (None, ())
        )
        for note in notes:
            if on_note is None:
                warnings.warn(note, stacklevel=2)
            else:
                on_note(note)
        for answer in predict_uncalibrated(
            task, model, rows, window=window, pass_engines=pass_engines
        ):
            yield calibrate_answer(task, answer, saved.calibration) if saved else answer
