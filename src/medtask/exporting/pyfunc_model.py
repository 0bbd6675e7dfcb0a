"""The model that MLflow loads: answers of a task, as a data frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.pyfunc import PythonModel

from medtask.engines.registry import load_model
from medtask.exporting.mlflow import COLUMNS
from medtask.records import Answer
from medtask.runs.output_columns import get_cell, round_cell
from medtask.runs.predictions import predict
from medtask.tables.cell_values import format_json_cell
from medtask.tasks.serialization import task_from_dict

if TYPE_CHECKING:
    import pandas as pd


class MedtaskModel(PythonModel):  # type: ignore[misc]
    """Answers a task with an exported model. It is loaded once for each process."""

    def load_context(self, context: Any) -> None:
        """Load the task and the model from the artifacts."""
        content = json.loads(Path(context.artifacts["task"]).read_text(encoding="utf-8"))
        self.task = task_from_dict(content["name"], content, fingerprint=content["fingerprint"])
        self.model = load_model(context.artifacts["model"])

    # Without annotations: MLflow would take the columns from them in place of the signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer each row of a data frame, in order.

        Several labels are joined by "; ", fields are JSON, as in CSV files of runs.
        """
        return self._answer(model_input)

    def _answer(self, rows: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        answers = predict(self.task, self.model, rows, on_note=lambda note: None)
        cells = [[_read_cell(name, answer) for name in COLUMNS] for answer in answers]
        return pd.DataFrame(cells, columns=list(COLUMNS), index=rows.index)


def _read_cell(name: str, answer: Answer) -> object:
    cell = get_cell(name, answer)
    if isinstance(cell, tuple):
        return round_cell(name, cell)
    return format_json_cell(cell) if isinstance(cell, dict) else cell
